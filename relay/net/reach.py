"""From a host name to a connected TCP socket, by the given way: every address gets its chance (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from aiohappyeyeballs import start_connection

from relay.config.proxy import Proxy
from relay.net.failure import DialFailed
from relay.net.guard import normal
from relay.net.tunnel import ask
from relay.net.way import Way

ATTEMPT_DELAY_S = 0.25  # RFC 8305 5: before the next address is tried beside the ones that have not answered yet
_MOST_ADDRESSES = 16  # a name with more is no submission server

_KEEPALIVE_IDLE_S = 60  # half-open peers are found by keep-alive as well as by the deadline of each step
_KEEPALIVE_EVERY_S = 20
_KEEPALIVE_TRIES = 4
_UNREACHABLE = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES})

_VERSIONS: dict[int, str] = {socket.AF_INET: "4", socket.AF_INET6: "6"}
Address = tuple[int, int, int, str, tuple[Any, ...]]  # as getaddrinfo has them


async def reach(host: str, port: int, way: Way, deadline: float) -> socket.socket:
    """A connected, non-blocking socket whose other end is `host`, be it through a proxy.

    `deadline` is by the loop's clock.  Raises DialFailed; of what goes wrong at a proxy, the reasons are `proxy-…`.
    """
    proxy = way.proxy_for(host)
    guarded = way.guard.concerns(host)
    if guarded and (not way.guard.allows_port(port) or not _may_be(host, way)):
        raise _forbidden(host)
    if proxy is None:
        return await _connected(host, port, way, deadline, guarded=guarded)
    connected = await _proxy(proxy, way, deadline)
    try:
        async with asyncio.timeout_at(deadline):
            await ask(proxy, connected, host.strip("[]"), port)
    except TimeoutError as error:
        connected.close()
        raise DialFailed("proxy-protocol", f"{proxy} did not answer in time") from error
    except BaseException:
        connected.close()
        raise
    return connected


async def _proxy(proxy: Proxy, way: Way, deadline: float) -> socket.socket:
    try:
        return await _connected(proxy.host, proxy.port, way, deadline)
    except DialFailed as failure:
        if failure.reason == "source-address":
            raise
        raise DialFailed("proxy-unreachable", f"{proxy}: {failure.detail}") from failure


async def _connected(host: str, port: int, way: Way, deadline: float, *, guarded: bool = False) -> socket.socket:
    addresses = _usable(await _addresses(host.strip("[]"), port, deadline), host, way)
    if guarded:  # of the very addresses that are connected to: no second look-up could say something else
        addresses = [address for address in addresses if way.guard.allows(str(address[4][0]))]
        if not addresses:
            raise _forbidden(host)
    sources = _sources(way.source)
    try:
        async with asyncio.timeout_at(deadline):
            return await start_connection(
                addresses,
                local_addr_infos=sources or None,
                happy_eyeballs_delay=ATTEMPT_DELAY_S,
                socket_factory=_made,
            )
    except TimeoutError as error:
        raise DialFailed("connection-timeout", f"{_all(addresses)} did not answer") from error
    except (OSError, RuntimeError) as error:  # the latter: uvloop's word for some of the former
        if "attempting to bind" in str(error):
            raise DialFailed("source-address", f"cannot send from {', '.join(way.source)}: {_words(error)}") from error
        number = error.errno if isinstance(error, OSError) else None
        reason = "connection-refused" if number is None or number in _UNREACHABLE else "connection-timeout"
        raise DialFailed(reason, f"{_all(addresses)}: {_words(error)}") from error


def _may_be(host: str, way: Way) -> bool:
    """A name is looked at once it is resolved, by us or by the proxy; an address, or this machine's name, at once."""
    name = normal(host)
    try:
        ip_address(name)
    except ValueError:
        return name != "localhost" and not name.endswith(".localhost")
    return way.guard.allows(name)


def _forbidden(host: str) -> DialFailed:
    """Without a word of what is there."""
    return DialFailed("upstream-forbidden", f"{host} is no host that may be named through the web")


async def _addresses(host: str, port: int, deadline: float) -> Sequence[Address]:
    try:
        async with asyncio.timeout_at(deadline):
            found: Sequence[Address] = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return found
    except TimeoutError as error:
        raise DialFailed("dns-failure", f"{host}: the resolver did not answer in time") from error
    except (OSError, UnicodeError) as error:
        raise DialFailed("dns-failure", f"{host}: {_words(error)}") from error


def _usable(found: Sequence[Address], host: str, way: Way) -> Sequence[Address]:
    """Those that the way's IP version and source addresses allow."""
    versions = {_VERSIONS[family] for family, *_ in _sources(way.source)} or {"4", "6"}
    if way.ip != "auto":
        versions &= {way.ip}
    addresses = [address for address in found if _VERSIONS.get(address[0]) in versions]
    if not addresses:
        wanted = f" of IPv{'/'.join(sorted(versions))}, and the account's egress settings allow no other"
        raise DialFailed("dns-failure", f"{host} has no address{wanted if found else ''}")
    return addresses[:_MOST_ADDRESSES]


def _sources(source: tuple[str, ...]) -> list[Address]:
    sources = list[Address]()
    for text in source:
        six = ip_address(text).version == 6
        end: tuple[Any, ...] = (text, 0, 0, 0) if six else (text, 0)
        sources.append((socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", end))
    return sources


def _made(address: Any) -> socket.socket:
    family, kind, number, *_ = address
    made = socket.socket(family, kind, number)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_TRIES)
    except OSError:
        made.close()
        raise
    return made


def _all(addresses: Sequence[Address]) -> str:
    return ", ".join(_shown(address) for *_, address in addresses[:4]) + (", …" if len(addresses) > 4 else "")


def _shown(address: tuple[Any, ...]) -> str:
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _words(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text.removeprefix("Multiple exceptions: ")[:300]
