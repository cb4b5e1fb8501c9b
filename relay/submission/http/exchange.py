"""A question to an API and its answer: streamed, bounded in time and size, known to have gone out whole or not."""

from __future__ import annotations

import asyncio
import inspect
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from relay.accounts.model import Upstream
from relay.mail.errors import RelayError
from relay.mail.outcome import Accepted, InDoubt, Outcome, Stage, Unreachable
from relay.net.dial import DialFailed
from relay.net.http_answers import https_failure, retry_after_s
from relay.submission.http.api import MAX_BODY_BYTES, Answer, Api
from relay.submission.http.body import Body
from relay.submission.http.clients import Clients
from relay.submission.login import OnStep
from relay.submission.smtp.deadlines import Deadlines
from relay.telemetry import get_logger

if TYPE_CHECKING:
    import httpx

log = get_logger()

BeforeEnd = Callable[[], Awaitable[bool] | bool]

_REQUEST_ID = re.compile(r"[0-9A-Za-z_.:-]{1,64}")
_REQUEST_IDS = ("request-id", "x-request-id", "x-goog-request-id")


class Stopped(RelayError):
    """The message may not go out whole (see `Source.before_dot`)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Exchange:
    """The requests for one message, one after the other. `status`: of the last answer, 0: there was none.

    `before_end` is asked before the last octets of a message go out, each time; it may be awaitable.
    """

    def __init__(
        self,
        upstream: Upstream,
        api: Api,
        clients: Clients,
        deadlines: Deadlines,
        *,
        before_end: BeforeEnd | None,
        on_step: OnStep | None,
        now_s: Callable[[], float],
    ) -> None:
        self.upstream, self.api, self.status = upstream, api, 0
        self._clients, self._deadlines, self._before_end = clients, deadlines, before_end
        self._on_step, self._now_s = on_step, now_s
        self._whole = False  # all of it went out, and no answer came yet
        self._connected = self._told = False

    async def post(self, token: str, body: Body | None) -> Outcome:
        """Ask once. Raises DialFailed, ContentMissing, Stopped: `failed` and `ended` say what that means."""
        self._whole = self._connected = False
        self.status = 0
        answer = await self._answer(token, body)
        whole, self._whole, self.status = self._whole, False, answer.status
        log.debug(
            "upstream.line",
            account=self.upstream.account,
            direction="<",
            line=f"HTTP {answer.status}, {len(answer.body)} octets, request {answer.request_id or 'without id'}",
        )
        outcome = self.api.outcome(answer)
        if isinstance(outcome, Accepted) and not whole:
            return InDoubt("protocol-error", f"{self.api.name} took a message of which it had not got everything")
        return outcome

    def failed(self, failure: DialFailed) -> Outcome:
        """There is no answer."""
        if self._whole:
            reason = "reply-lost" if failure.reason == "connection-lost" else failure.reason
            return InDoubt(reason, failure.detail)
        if failure.in_tls:
            return Unreachable(Stage.TLS, failure.reason, failure.detail)
        return Unreachable(Stage.DATA if self._connected else Stage.CONNECT, failure.reason, failure.detail)

    def ended(self, reason: str, detail: str, *, counted: bool = True) -> Outcome:
        """It was broken off by us."""
        if self._whole:
            return InDoubt("reply-lost", f"{detail}; stopped while waiting for the answer")
        stage = Stage.MAIL if reason == "content-missing" else Stage.DATA
        return Unreachable(stage, reason, detail, counted=counted)

    async def _answer(self, token: str, body: Body | None) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            async with self._clients.of(self.upstream) as client, asyncio.timeout(None) as limit:
                # Each part moves it on; what stands still between them ends here, whoever it waits for.
                limit.reschedule(loop.time() + self._deadlines.connect_s)
                return await self._ask(client, token, body, limit)
        except TimeoutError:
            if not self._connected:
                raise DialFailed("connection-timeout", "no connection in time") from None
            raise DialFailed("stage-timeout", "the other side stopped in the middle of the exchange") from None

    async def _ask(self, client: httpx.AsyncClient, token: str, body: Body | None, limit: asyncio.Timeout) -> Answer:
        import httpx

        upstream = self.upstream
        place = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
        octets = body.octets if body is not None else 0
        path = self.api.path(upstream)
        headers = {
            "authorization": f"Bearer {token}",
            "content-type": self.api.content_type,
            "content-length": str(octets),
            "accept": "application/json",
            "accept-encoding": "identity",
        }
        log.debug("upstream.line", account=upstream.account, direction=">", line=f"POST {path}, {octets} octets")
        try:
            async with client.stream(
                "POST", f"https://{place}:{upstream.port}{path}", content=self._paced(body, limit), headers=headers
            ) as response:
                self._tell(response)
                limit.reschedule(asyncio.get_running_loop().time() + self._deadlines.done_s)
                found = bytearray()
                async for chunk in response.aiter_raw():  # raw: a small answer cannot unpack into a large one
                    found += chunk
                    if len(found) >= MAX_BODY_BYTES:
                        break
                return Answer(
                    response.status_code,
                    bytes(found[:MAX_BODY_BYTES]),
                    retry_after_s(response.headers.get("retry-after"), self._now_s()),
                    _request_id(response.headers),
                )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise https_failure(error) from None

    async def _paced(self, body: Body | None, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The body, none for no octets; its last octets only when they may go."""
        self._connected = True
        loop, sent = asyncio.get_running_loop(), 0
        limit.reschedule(loop.time() + self._deadlines.done_s)
        if body is None:
            return
        async for chunk in body.chunks():
            sent += len(chunk)
            limit.reschedule(loop.time() + self._deadlines.block_s)
            if sent >= body.octets:
                limit.reschedule(loop.time() + self._deadlines.done_s)
                await self._allowed()
                self._whole = True
                limit.reschedule(loop.time() + self._deadlines.done_s)
            yield chunk

    async def _allowed(self) -> None:
        if self._before_end is None:
            return
        try:
            allowed = self._before_end()
            if inspect.isawaitable(allowed):
                allowed = await allowed
        except RelayError as error:
            raise Stopped(f"the mark before the last octets failed: {error!r}") from error
        if not allowed:
            raise Stopped("stopped before the last octets")

    def _tell(self, response: httpx.Response) -> None:
        if self._on_step is None or self._told:
            return
        self._told = True
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        tls = stream.get_extra_info("ssl_object") if stream is not None else None
        self._on_step("connect", f"{peer[0]} port {peer[1]}" if peer else f"{self.upstream.host}")
        version = tls.version() if isinstance(tls, ssl.SSLObject | ssl.SSLSocket) else None
        self._on_step("tls", f"{version or 'TLS'}, certificate valid for {self.upstream.host}")


def _request_id(headers: httpx.Headers) -> str:
    for name in _REQUEST_IDS:
        found: str = headers.get(name, "")
        if _REQUEST_ID.fullmatch(found):
            return found
    return ""
