"""Waits on 127.0.0.1 for the browser to come back from a sign-in (RFC 8252 7.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from relay.credentials.errors import CredentialError
from relay.credentials.oauth import TokenRefused

MAX_REQUEST_BYTES = 16_384
_REQUEST_S = 10.0
_MOST_REQUESTS = 50  # browsers ask for icons, too; whoever guesses states gets no further than this

_PAGE = (
    "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n"
    "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n\r\n{text}"
)
_SIGNED_IN = "Signed in. You can close this window and go back to the terminal."
_REFUSED = "The sign-in was refused; the terminal says why. You can close this window."
_OTHER = "This address is for the answer to a sign-in alone."


class Loopback:
    """`port` is where it listens; `code` the authorization code, or the provider's refusal, once the browser came."""

    def __init__(self, port: int, code: asyncio.Future[str]) -> None:
        self.port, self.code = port, code


@asynccontextmanager
async def listening(port: int, code_of: Callable[[str], str]) -> AsyncIterator[Loopback]:
    """Listen until the context is left. `code_of`: the code in a URL; raises TokenRefused, also for a wrong state.

    `port` 0: any free one.  Raises OSError when there is none.  Answers with a wrong state are turned away and change
    nothing.
    """
    code: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, text = _outcome(head if requests <= _MOST_REQUESTS else b"", code_of, code)
                length = len(text.encode())
                writer.write(_PAGE.format(status=status, length=length, text=text).encode())
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a browser that went away, or no browser
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=MAX_REQUEST_BYTES)
    try:
        yield Loopback(server.sockets[0].getsockname()[1], code)
    finally:
        server.close()
        code.cancel()


def _outcome(head: bytes, code_of: Callable[[str], str], code: asyncio.Future[str]) -> tuple[str, str]:
    method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    target = rest.partition(" ")[0]
    if method != "GET" or "?" not in target or code.done():
        return "404 Not Found", _OTHER
    try:
        found = code_of(target)
    except TokenRefused as refusal:
        if refusal.error == "state_mismatch":
            return "400 Bad Request", _OTHER
        code.set_exception(refusal)
        return "200 OK", _REFUSED
    except CredentialError as error:
        code.set_exception(error)
        return "200 OK", _REFUSED
    code.set_result(found)
    return "200 OK", _SIGNED_IN
