"""Asks a proxy for a connection to a host: HTTP CONNECT (RFC 9110 9.3.6) or SOCKS 5 (RFC 1928, RFC 1929)."""

from __future__ import annotations

import asyncio
import base64
import socket

from relay.config.proxy import Proxy
from relay.net.failure import DialFailed

_MAX_HEAD = 16384  # octets of a proxy's answer
_MAX_SHOWN = 120  # characters of its reason
_AUTH = frozenset({401, 407})
_BEYOND = frozenset({500, 502, 503, 504})  # the proxy agreed, and failed to reach the host
# RFC 1928 6
_SOCKS = {
    1: ("proxy-upstream", "general failure"),
    2: ("proxy-refused", "not allowed by its rules"),
    3: ("proxy-upstream", "network unreachable"),
    4: ("proxy-upstream", "host unreachable"),
    5: ("proxy-upstream", "connection refused"),
    6: ("proxy-upstream", "TTL expired"),
    7: ("proxy-refused", "it takes no CONNECT"),
    8: ("proxy-refused", "it takes no such address"),
}
_SOCKS_AUTH = ("No acceptable authentication", "Invalid authentication method: 0XFF", "authentication failure")


async def ask(proxy: Proxy, connected: socket.socket, host: str, port: int) -> None:
    """Turn `connected`, a socket to `proxy`, into one to `host`; not an octet of the host's own is read.

    The name goes to the proxy as it is.  Ends when the caller's time does.  Raises DialFailed.
    """
    try:
        if proxy.scheme == "http":
            await _connect(proxy, connected, host, port)
        else:
            await _socks5(proxy, connected, host, port)
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        raise _garbled(proxy, error.strerror or "the connection broke") from error


async def _connect(proxy: Proxy, connected: socket.socket, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    place = f"[{host}]:{port}" if ":" in host else f"{_ascii(host)}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.login:  # RFC 7617 2, at once: a proxy that wants it may close the connection with its 407
        proof = base64.b64encode(f"{proxy.login}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {proof}")
    await loop.sock_sendall(connected, ("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    code, reason, schemes = await _answer(proxy, connected)
    if 200 <= code < 300:
        return
    words = f"{proxy}: {code} {reason}".rstrip()
    if code in _AUTH:
        raise DialFailed("proxy-auth", f"{words} (it offers {', '.join(schemes)})" if schemes else words)
    raise DialFailed("proxy-upstream" if code in _BEYOND else "proxy-refused", words)


async def _answer(proxy: Proxy, connected: socket.socket) -> tuple[int, str, list[str]]:
    """Status, reason and the ways to log in, of the final answer; nothing behind its head is read."""
    import h11  # a site without a proxy never needs it

    loop = asyncio.get_running_loop()
    dialogue = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    dialogue.send(h11.Request(method="CONNECT", target="host:1", headers=[("Host", "host:1")]))
    dialogue.send(h11.EndOfMessage())
    for _ in range(_MAX_HEAD):
        # One octet at a time: a server that speaks first (SMTP, IMAP) may stand behind the head in the same segment.
        octet = await loop.sock_recv(connected, 1)
        if not octet:
            raise _garbled(proxy, "it closed the connection instead of an answer")
        try:
            dialogue.receive_data(octet)
            event = dialogue.next_event()
        except h11.RemoteProtocolError as error:
            raise _garbled(proxy, "its answer is not HTTP") from error
        if isinstance(event, h11.Response):
            offered = [value for name, value in event.headers if name == b"proxy-authenticate"]
            return event.status_code, _text(event.reason), [_text(value.split(b" ")[0]) for value in offered[:5]]
    raise _garbled(proxy, "its answer does not end")


async def _socks5(proxy: Proxy, connected: socket.socket, host: str, port: int) -> None:
    from python_socks import ProxyError, ProxyType
    from python_socks.async_.asyncio import Proxy as Socks

    dialled = _Dialled(connected)
    socks = Socks(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        username=proxy.login or None,
        password=proxy.password if proxy.login else None,
        rdns=True,
        forward=dialled,  # type: ignore[arg-type]  # only its `connect` is used
    )
    try:
        await socks.connect(_ascii(host), port, timeout=3600)  # the caller's time ends long before
    except ProxyError as error:
        reason, words = _SOCKS.get(error.error_code or 0, ("", ""))
        if reason:
            raise DialFailed(reason, f"{proxy}: {words}") from error
        text = _text(str(error).encode())
        if any(words in text for words in _SOCKS_AUTH):
            raise DialFailed("proxy-auth", f"{proxy}: {text}") from error
        raise _garbled(proxy, text or "its answer is not SOCKS 5") from error
    except UnicodeEncodeError:  # its text holds the password
        raise DialFailed("proxy-auth", f"{proxy}: its login or password is not ASCII, which SOCKS 5 needs") from None
    except (ValueError, IndexError) as error:
        raise _garbled(proxy, "its answer is not SOCKS 5") from error


class _Dialled:
    """Stands where python-socks would dial: the connection is there already."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected

    async def connect(self, **_: object) -> socket.socket:
        """The connected socket."""
        return self._connected


def _ascii(host: str) -> str:
    """The name as the wire has it (RFC 5890); raises DialFailed for one that cannot be."""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise DialFailed("dns-failure", f"{_text(host.encode())} is not a host name") from error


def _garbled(proxy: Proxy, words: str) -> DialFailed:
    return DialFailed("proxy-protocol", f"{proxy}: {words}")


def _text(octets: bytes) -> str:
    text = octets[:_MAX_SHOWN].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
