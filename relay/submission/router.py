"""The Transport of a whole relay: hands each account to the one it is set to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.accounts.model import Upstream
from relay.net.way import WayOf, direct
from relay.submission.login import LoginTries, OnStep, SecondLogin, SecretSource
from relay.submission.smtp.probe import probe as probe_smtp
from relay.submission.smtp.transport import SmtpTransport
from relay.submission.transport import Source

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings
    from relay.mail.outcome import Accepted, Refused, Unreachable
    from relay.submission.http.rewriting import SpeaksFor
    from relay.submission.http.transport import HttpTransport


class RoutedTransport:
    """See `submission.transport.Transport`. What speaks HTTP is loaded with the first account that needs it.

    `hostname` is our name in EHLO unless the settings give one; `way_of`: each account's way out; for the others see
    the two transports.
    """

    def __init__(
        self,
        settings: SubmissionSettings,
        secret: SecretSource,
        *,
        hostname: str,
        second: SecondLogin,
        tries: LoginTries,
        speaks_for: SpeaksFor,
        way_of: WayOf = direct,
    ) -> None:
        self._settings, self._secret, self._hostname = settings, secret, hostname
        self._second, self._tries, self._speaks_for, self._way_of = second, tries, speaks_for, way_of
        self._smtp = SmtpTransport(settings, secret, hostname=hostname, second=second, tries=tries, way_of=way_of)
        self._http: HttpTransport | None = None

    async def carry(self, upstream: Upstream, source: Source) -> None:
        """See `submission.transport.Transport.carry`."""
        if upstream.transport == "smtp":
            await self._smtp.carry(upstream, source)
        else:
            await self._by_http().carry(upstream, source)

    def forget(self, account_id: int) -> None:
        """See `submission.transport.Transport.forget`."""
        self._smtp.forget(account_id)
        if self._http is not None:
            self._http.forget(account_id)

    async def drained(self, account_id: int) -> None:
        """See `submission.transport.Transport.drained`. APIs know no connections of an account."""
        await self._smtp.drained(account_id)

    async def probe(
        self, upstream: Upstream, on_step: OnStep, *, tries: LoginTries | None = None
    ) -> Accepted | Refused | Unreachable:
        """Log in without mail; `on_step(name, what happened)` after each step that worked.

        It is one of `tries`; None: of those that mail has.

        The names are connect, tls, auth, of SMTP also ehlo and quit.
        """
        if upstream.transport != "smtp":
            return await self._by_http().probe(upstream, on_step, tries=tries)
        return await probe_smtp(
            upstream,
            self._secret,
            on_step,
            settings=self._settings,
            hostname=self._hostname,
            second=self._second,
            tries=tries or self._tries,
            way_of=self._way_of,
        )

    def on_trial(self, secret: SecretSource, tries: LoginTries) -> RoutedTransport:
        """One like it that logs in with another secret, for a while: no connection is shared. Close it."""
        return RoutedTransport(
            self._settings,
            secret,
            hostname=self._hostname,
            second=self._second,
            tries=tries,
            speaks_for=self._speaks_for,
            way_of=self._way_of,
        )

    def configure(self, settings: SubmissionSettings) -> None:
        """Other settings from the next transaction on."""
        self._settings = settings
        self._smtp.configure(settings)
        if self._http is not None:
            self._http.configure(settings)

    async def close(self) -> None:
        """Of both; a few seconds at most."""
        await self._smtp.close()
        if self._http is not None:
            await self._http.close()

    def _by_http(self) -> HttpTransport:
        if self._http is None:
            from relay.submission.http.transport import HttpTransport

            self._http = HttpTransport(
                self._settings,
                self._secret,
                second=self._second,
                tries=self._tries,
                speaks_for=self._speaks_for,
                way_of=self._way_of,
            )
        return self._http
