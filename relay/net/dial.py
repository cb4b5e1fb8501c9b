"""Dialling: from a host name to a connected, verified transport, or the one reason why there is none."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar, cast

from relay.mail.errors import RelayError
from relay.net.tls import BadTrust, ClientTls, client_tls, is_cached

P = TypeVar("P", bound=asyncio.BaseProtocol)

_KEEPALIVE_IDLE_S = 60  # half-open peers are found by keep-alive as well as by the deadline of each step
_KEEPALIVE_EVERY_S = 20
_KEEPALIVE_TRIES = 4

_EXPIRED = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
_WRONG_NAME = frozenset({62, 63, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, EMAIL_MISMATCH, IP_ADDRESS_MISMATCH
_UNREACHABLE = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES})


class DialFailed(RelayError):
    """No connection. `reason` is a condition id of `diagnosis`; `in_tls`: TCP was there, the handshake failed."""

    def __init__(self, reason: str, detail: str, *, in_tls: bool = False) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.in_tls = reason, detail, in_tls


async def trusted(trust: str | None) -> ClientTls:
    """`client_tls` off the event loop. Raises DialFailed(certificate-invalid) for an unusable setting."""
    try:
        if is_cached(trust):
            return client_tls(trust)
        return await asyncio.to_thread(client_tls, trust)
    except (OSError, BadTrust) as error:
        raise DialFailed("certificate-invalid", f"the trust setting cannot be used: {error}", in_tls=True) from error


async def dial(
    protocol_factory: Callable[[], P], host: str, port: int, *, timeout_s: float, tls: ClientTls | None = None
) -> tuple[asyncio.Transport, P]:
    """Connect to the first address of `host` that answers; with `tls`, from the first byte on.

    `timeout_s` covers resolving, connecting and the handshake.  Raises DialFailed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    connected = await _connect(host, port, deadline)
    if tls is None:
        transport, protocol = await loop.create_connection(protocol_factory, sock=connected)
        return transport, protocol
    try:
        transport, protocol = await loop.create_connection(
            protocol_factory,
            sock=connected,
            ssl=tls.context,
            server_hostname=tls.name or host,
            ssl_handshake_timeout=max(0.001, deadline - loop.time()),
        )
    except (OSError, ssl.CertificateError) as error:
        raise handshake_failure(error) from error
    check_pin(transport, tls)
    return transport, protocol


def check_pin(transport: asyncio.BaseTransport, tls: ClientTls) -> None:
    """Right after a handshake: drop the connection and raise DialFailed if it is not with the pinned certificate."""
    try:
        tls.verify_pin(transport.get_extra_info("ssl_object"))
    except ssl.SSLCertVerificationError as error:
        cast("asyncio.WriteTransport", transport).abort()
        raise handshake_failure(error) from error


def handshake_failure(error: BaseException) -> DialFailed:
    """Why a handshake did not end well, by what asyncio or ssl raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = getattr(error, "verify_code", None)
        detail = getattr(error, "verify_message", "") or str(error)
        if code in _EXPIRED:
            return DialFailed("certificate-expired", detail, in_tls=True)
        if code in _WRONG_NAME:
            return DialFailed("certificate-name", detail, in_tls=True)
        return DialFailed("certificate-invalid", detail, in_tls=True)
    if isinstance(error, TimeoutError | ConnectionAbortedError):  # the latter is how the loop says time-out
        return DialFailed("stage-timeout", "no answer in the TLS handshake", in_tls=True)
    if isinstance(error, ssl.SSLError):
        return DialFailed("tls-handshake", error.reason or str(error), in_tls=True)
    return DialFailed("tls-handshake", str(error) or "the connection was closed in the TLS handshake", in_tls=True)


async def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Try the addresses in the resolver's order, each within its share of the time that is left."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(deadline):
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise DialFailed("dns-failure", f"{host}: the resolver did not answer in time") from error
    except (OSError, UnicodeError) as error:
        raise DialFailed("dns-failure", f"{host}: {_words(error)}") from error
    failure = DialFailed("dns-failure", f"{host} has no address")
    for left, (family, kind, number, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        share = (deadline - loop.time()) / left
        try:
            return await _connect_one(family, kind, number, address, share)
        except TimeoutError:
            failure = DialFailed("connection-timeout", f"{_shown(address)} did not answer")
        except OSError as error:
            reason = "connection-refused" if error.errno in _UNREACHABLE else "connection-timeout"
            failure = DialFailed(reason, f"{_shown(address)}: {_words(error)}")
    raise failure


async def _connect_one(
    family: int, kind: int, number: int, address: tuple[object, ...], within_s: float
) -> socket.socket:
    made = socket.socket(family, kind, number)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_TRIES)
        async with asyncio.timeout(max(0.001, within_s)):
            await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _shown(address: tuple[object, ...]) -> str:
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _words(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
