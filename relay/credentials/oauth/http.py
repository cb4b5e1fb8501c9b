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
from relay.net.failure import DialFailed
from relay.net.https import dial_failure, https_client
from relay.net.way import WayOf, direct

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
    """Posts forms. `ca_file`: trusted besides the system's authorities; `way_of`: each account's way out.

    Each request has a connection of its own: token requests are an hour apart, and nothing can carry over.
    """

    def __init__(
        self,
        ca_file: Path | None = None,
        *,
        way_of: WayOf = direct,
        timeout_s: float = TIMEOUT_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._ca_file, self._way_of, self._timeout_s, self._now_s = ca_file, way_of, timeout_s, now_s

    async def ready(self) -> None:
        """Load the libraries, which takes 0.3 s at first, beside the event loop."""
        await asyncio.to_thread(_load)

    async def get(self, account_id: int, url: str) -> Answer:
        """Get a document, by the account's way. Raises as `post`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(account_id, "GET", url, None, {})
        except TimeoutError:
            raise TokenUnavailable("timeout") from None

    async def post(self, account_id: int, url: str, form: str, headers: Mapping[str, str]) -> Answer:
        """Post an encoded form, by the account's way.

        Raises TokenUnavailable: no answer, or one that is no JSON object in 64 KiB.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(account_id, "POST", url, form, headers)
        except TimeoutError:
            raise TokenUnavailable("timeout") from None

    async def _ask(
        self, account_id: int, method: str, url: str, form: str | None, headers: Mapping[str, str]
    ) -> Answer:
        import httpx

        way = await self._way_of(account_id)
        try:
            async with (
                await https_client(way, timeout_s=self._timeout_s, ca_file=self._ca_file) as client,
                client.stream(method, url, content=form, headers={**headers, **_HEADERS}) as response,
            ):
                body = await _read(response)
                return Answer(
                    response.status_code, _json_object(body), self._retry_after(response.headers.get("retry-after"))
                )
        except (httpx.HTTPError, httpx.InvalidURL, DialFailed) as error:
            # The text of such an error may quote the request: only its kind goes on.
            raise TokenUnavailable(_reason(error)) from None

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

    failure = dial_failure(error)
    if failure is not None:
        if failure.in_tls:
            return "timeout" if failure.reason == "stage-timeout" else "tls-failed"
        if failure.reason.startswith("proxy-") or failure.reason in ("source-address", "upstream-forbidden"):
            return failure.reason
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "tls-failed"
        cause = cause.__cause__ or cause.__context__
    return "bad-answer" if isinstance(error, httpx.ProtocolError) else "unreachable"


def _load() -> None:
    import authlib.oauth2
    import httpx

    del authlib, httpx  # they are loaded now
