"""The Transport that posts to a provider's HTTP API: one request a message, clients kept by account identity."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from relay.accounts.model import TransportKind, Upstream
from relay.credentials.errors import CredentialError
from relay.credentials.oauth.errors import TokenRefused
from relay.diagnosis import diagnose
from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Stage, Unreachable
from relay.mail.reply import Reply
from relay.net.dial import DialFailed
from relay.net.way import WayOf, direct
from relay.submission.http.api import Api
from relay.submission.http.body import Body, open_body
from relay.submission.http.clients import Clients
from relay.submission.http.exchange import BeforeEnd, Exchange, Stopped
from relay.submission.http.gmail import Gmail
from relay.submission.http.graph import Graph
from relay.submission.http.rewriting import SpeaksFor, rewritten
from relay.submission.login import LoginTries, OnStep, SecondLogin, SecretSource, unlimited, without_secret
from relay.submission.smtp.content import ContentMissing
from relay.submission.smtp.deadlines import Deadlines
from relay.submission.transport import Source, Submission
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings

log = get_logger()


class _Unproven(Exception):
    """The answer does not say that the token was taken."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class _TokenRejected(Exception):
    """The API refused the second token, too."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class HttpTransport:
    """See `submission.transport.Transport`. `secret` gives access tokens and may raise any CredentialError.

    `second`: see `login.SecondLogin`; `tries`: how many tokens may be refused.  `speaks_for(account_id, address)`:
    may this account write as that author?
    """

    def __init__(
        self,
        settings: SubmissionSettings,
        secret: SecretSource,
        *,
        second: SecondLogin,
        tries: LoginTries = unlimited,
        speaks_for: SpeaksFor,
        way_of: WayOf = direct,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._secret, self._second, self._speaks_for = settings, secret, second, speaks_for
        self._deadlines = Deadlines.of(settings)
        self._now_s, self._tries = now_s, tries
        self._clients = Clients(self._deadlines, ca_file=settings.api_ca_file, idle_s=settings.idle_s, way_of=way_of)
        self._apis: dict[TransportKind, Api] = {"graph": Graph(), "gmail": Gmail(now_s)}

    def configure(self, settings: SubmissionSettings) -> None:
        """Other settings from the next message on; clients are made anew for them."""
        self._settings, self._deadlines = settings, Deadlines.of(settings)
        self._clients.configure(self._deadlines, ca_file=settings.api_ca_file, idle_s=settings.idle_s)

    async def carry(self, upstream: Upstream, source: Source) -> None:
        """See `submission.transport.Transport.carry`. Returns after the first failure to reach the API."""
        submission = source.take()
        while submission is not None:
            outcome = await self._submit(upstream, source, submission)
            if isinstance(outcome, Unreachable | InDoubt):
                return
            submission = source.take()

    async def probe(
        self, upstream: Upstream, on_step: OnStep, *, tries: LoginTries | None = None
    ) -> Accepted | Refused | Unreachable:
        """Ask the API to send an empty message. It cannot; that it says so shows that it takes the token.

        `on_step(name, what happened)` after each step that worked: connect, tls, auth.  No mail can come of it.
        """
        api = self._apis[upstream.transport]
        exchange = self._exchange(upstream, api, None, on_step)
        outcome = await self._within(exchange, self._ask(upstream, exchange, None, tries or self._tries))
        if isinstance(outcome, InDoubt):
            return Unreachable(Stage.CONNECT, outcome.reason, outcome.detail)
        if exchange.status == 400 and isinstance(outcome, Refused) and not diagnose(outcome).pause:
            words = f"{api.name} takes the token; an empty message was refused, as it must be"
            on_step("auth", words)
            return Accepted(Reply(250, "2.0.0", words))
        return outcome

    def forget(self, account_id: int) -> None:
        """See `submission.transport.Transport.forget`: nothing to do, as each request brings its token."""

    async def close(self) -> None:
        """Close every client; a few seconds at most."""
        await self._clients.close()

    # -- one message

    async def _submit(self, upstream: Upstream, source: Source, submission: Submission) -> Outcome:
        """Report what became of it, whatever happens."""

        def ask() -> Awaitable[bool] | bool:
            return source.before_dot(submission)

        exchange = self._exchange(upstream, self._apis[upstream.transport], ask, None)
        outcome: Outcome | None = None
        try:
            outcome = await self._within(exchange, self._hand_over(upstream, exchange, submission))
            return outcome
        except asyncio.CancelledError:
            outcome = exchange.ended("lease-lost", "the relay stopped", counted=False)
            raise
        finally:
            outcome = outcome or exchange.ended("unknown-failure", "a fault of this program, see the log")
            source.report(submission, [outcome] * len(submission.recipients))

    def _exchange(
        self,
        upstream: Upstream,
        api: Api,
        before_end: BeforeEnd | None,
        on_step: OnStep | None,
    ) -> Exchange:
        return Exchange(
            upstream, api, self._clients, self._deadlines, before_end=before_end, on_step=on_step, now_s=self._now_s
        )

    async def _within(self, exchange: Exchange, work: Awaitable[Outcome]) -> Outcome:
        """What came of `work`, failures included. Only cancellation comes out as an exception."""
        try:
            return await work
        except Stopped as stop:
            return exchange.ended("lease-lost", stop.detail)
        except ContentMissing as error:
            return exchange.ended("content-missing", str(error.args[0]))
        except DialFailed as failure:
            return exchange.failed(failure)
        except Exception:  # ours; the lane must get its message back, and the daemon live on
            log.exception("daemon.fault", where="submission", account=exchange.upstream.account)
            return exchange.ended("unknown-failure", "a fault of this program, see the log")

    async def _hand_over(self, upstream: Upstream, exchange: Exchange, submission: Submission) -> Outcome:
        api, notes = exchange.api, list[str]()
        async with AsyncExitStack() as stack:

            def rewrite(section: bytes) -> bytes:
                section, done = rewritten(section, submission, upstream, self._speaks_for)
                notes.extend(done)
                return section

            body = await open_body(submission, rewrite, base64=api.base64)
            stack.callback(body.close)
            most = api.most_octets(self._settings)
            if body.mime_octets > most:
                words = f"{api.name}: not offered: {body.mime_octets} bytes, and it takes at most {most}"
                return Refused(Reply(552, "5.3.4", words), Stage.MAIL)
            outcome = await self._ask(upstream, exchange, body, self._tries)
        if isinstance(outcome, Accepted) and notes:
            reply = outcome.reply
            return Accepted(Reply(reply.code, reply.status, f"{reply.text}; {'; '.join(notes)}"))
        return outcome

    async def _ask(self, upstream: Upstream, exchange: Exchange, body: Body | None, tries: LoginTries) -> Outcome:
        """One request, and once more with another token when this one is refused."""
        try:
            token = await self._secret(upstream)
            outcome = await _posted(exchange, token, body, tries)
            if not _is_login(outcome):
                return outcome
            async with self._second(upstream, token) as other:
                if other is None:
                    return outcome
                again = await _posted(exchange, other, body, tries)
                if _is_login(again):
                    raise _TokenRejected(again)
                return again
        except _TokenRejected as rejected:
            return rejected.outcome
        except TokenRefused as refusal:
            if refusal.error == "rejected_by_server" and exchange.status == 401:
                return outcome  # what the API says is all there is
            return without_secret(refusal)
        except CredentialError as error:
            return without_secret(error)


def _is_login(outcome: Outcome) -> bool:
    return isinstance(outcome, Refused) and outcome.stage is Stage.AUTH


async def _posted(exchange: Exchange, token: str, body: Body | None, tries: LoginTries) -> Outcome:
    """One request; it is one of `tries`, as its token may be refused."""
    try:
        async with tries(exchange.upstream.account_id) as attempt:
            outcome = await exchange.post(token, body)
            attempt.refused = _is_login(outcome)
            busy = exchange.status == 429 or exchange.status >= 500
            if attempt.refused or busy or not isinstance(outcome, Accepted | Refused):
                raise _Unproven(outcome)
            return outcome
    except _Unproven as unproven:
        return unproven.outcome
