"""httpx's transport over our own dialling: a proxy, a source address, an IP version mean the same as for mail.

Import it late: it loads httpx and httpcore.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from relay.net.dial import handshake_failure
from relay.net.failure import DialFailed
from relay.net.reach import reach
from relay.net.way import Way

_MAX_READ = 65536


class WayTransport(httpx.AsyncBaseTransport):
    """One for each client."""

    def __init__(self, way: Way, context: ssl.SSLContext, *, most_connections: int, keepalive_s: float) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=most_connections,
            max_keepalive_connections=most_connections if keepalive_s else 0,
            keepalive_expiry=keepalive_s,
            network_backend=_Backend(way),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.AsyncBaseTransport."""
        if request.url.scheme != "https":
            raise httpx.UnsupportedProtocol(f"{request.url.scheme} is not encrypted", request=request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = request.url
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx(request):
            answer = await self._pool.handle_async_request(asked)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream, request),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any, request: httpx.Request) -> None:
        self._stream, self._request = stream, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, way: Way) -> None:
        self._way = way

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        del local_address, socket_options  # the way's, and `reach` sets its own
        deadline = asyncio.get_running_loop().time() + (timeout or 60)
        try:
            return _Stream(await reach(host, port, self._way, deadline))
        except DialFailed as failure:
            kind = httpcore.ConnectTimeout if failure.reason == "connection-timeout" else httpcore.ConnectError
            raise kind(failure.detail) from failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """A connected socket until `start_tls`, then what is read and written over TLS."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            self._reader, self._writer = await asyncio.open_connection(
                sock=self._connected,
                limit=_MAX_READ,
                ssl=ssl_context,
                server_hostname=server_hostname,
                ssl_handshake_timeout=timeout,
            )
        except (OSError, ssl.CertificateError) as error:
            raise httpcore.ConnectError("no TLS") from handshake_failure(error)
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        assert self._reader is not None
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        except OSError as error:
            raise httpcore.ReadError(error.strerror or "") from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        assert self._writer is not None
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
                await asyncio.sleep(0)  # drain gives nobody else a turn while the system takes everything
        except TimeoutError as error:
            raise httpcore.WriteTimeout from error
        except OSError as error:
            raise httpcore.WriteError(error.strerror or "") from error

    async def aclose(self) -> None:
        if self._writer is None:
            self._connected.close()
        else:
            self._writer.transport.abort()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # httpcore asks before it uses an idle connection again: has the server closed it?
            return self._reader is None or self._reader.at_eof() or self._writer is None or self._writer.is_closing()
        return self._writer.get_extra_info(info) if self._writer is not None else None


@contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """httpcore's exceptions as httpx's, which has each under the same name."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error), request=request) from error
