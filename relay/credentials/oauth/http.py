"""One form posted over HTTPS: the answer bounded in time and size, nothing followed, nothing remembered."""

from __future__ import annotations

import asyncio
import email.utils
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.credentials.oauth.errors import TokenUnavailable

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0  # in all: resolving, connecting, TLS, question, answer
MAX_BODY_BYTES = 65536
_MAX_RETRY_AFTER_S = 86400
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: the JSON object, empty when it was none. `retry_after_s`: None when the server named no time."""

    status: int
    body: Mapping[str, Any] = field(repr=False)
    retry_after_s: int | None = None


class HttpsPost:
    """Posts forms. `ca_file`: trusted besides the system's authorities.

    Each request has a connection of its own: token requests are an hour apart, and nothing can carry over.
    """

    def __init__(
        self,
        ca_file: Path | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._ca_file, self._timeout_s, self._now_s = ca_file, timeout_s, now_s
        self._context: ssl.SSLContext | None = None
        self._context_key: tuple[int, int] | None = None

    async def ready(self) -> None:
        """Load the libraries and the trust store, which takes 0.3 s at first, beside the event loop."""
        await asyncio.to_thread(self._tls)

    async def post(self, url: str, form: str, headers: Mapping[str, str]) -> Answer:
        """Post an encoded form. Raises TokenUnavailable: no answer, or one that is no JSON object in 64 KiB."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(url, form, headers)
        except TimeoutError:
            raise TokenUnavailable("timeout") from None

    async def _post(self, url: str, form: str, headers: Mapping[str, str]) -> Answer:
        context = await asyncio.to_thread(self._tls)
        import httpx

        try:
            async with (
                httpx.AsyncClient(
                    verify=context, follow_redirects=False, trust_env=False, timeout=self._timeout_s
                ) as client,
                client.stream("POST", url, content=form, headers={**headers, **_HEADERS}) as response,
            ):
                body = await _read(response)
                return Answer(
                    response.status_code, _json_object(body), self._retry_after(response.headers.get("retry-after"))
                )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The text of such an error may quote the request: only its kind goes on.
            raise TokenUnavailable(_reason(error)) from None

    def _tls(self) -> ssl.SSLContext:
        """The system's trust and the CA file's, read again when the file changed."""
        import authlib.oauth2
        import httpx

        del authlib, httpx  # they are loaded now

        key = None
        if self._ca_file is not None:
            try:
                stat = self._ca_file.stat()
            except OSError:
                raise TokenUnavailable("tls-failed") from None
            key = (stat.st_mtime_ns, stat.st_size)
        if self._context is None or key != self._context_key:
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self._ca_file is not None:
                try:
                    context.load_verify_locations(cafile=self._ca_file)
                except (OSError, ssl.SSLError):
                    raise TokenUnavailable("tls-failed") from None
            self._context, self._context_key = context, key
        return self._context

    def _retry_after(self, text: str | None) -> int | None:
        """RFC 9110 10.2.3: seconds or a date; at most a day."""
        if text is None or len(text) > 64:
            return None
        if text.isascii() and text.isdecimal():
            return min(int(text), _MAX_RETRY_AFTER_S)
        try:
            until = email.utils.parsedate_to_datetime(text).timestamp()
        except (TypeError, ValueError, OverflowError):
            return None
        return max(0, min(round(until - self._now_s()), _MAX_RETRY_AFTER_S))


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():  # raw: a small answer cannot unpack into a large one
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TokenUnavailable("too-large")
    return bytes(body)


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "tls-failed"
        cause = cause.__cause__ or cause.__context__
    return "bad-answer" if isinstance(error, httpx.ProtocolError) else "unreachable"
