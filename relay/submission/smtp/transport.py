"""The Transport that speaks SMTP: a connection for each carry, pooled by account identity."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relay.accounts.model import Upstream
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.outcome import Outcome, Stage, Unreachable
from relay.net.way import WayOf, direct
from relay.submission.login import LoginTries, SecondLogin, SecretSource
from relay.submission.smtp.deadlines import QUIT_S, Deadlines
from relay.submission.smtp.dialogue import Dialogue, Ending
from relay.submission.smtp.opening import Connection, OpeningFailed, open_connection
from relay.submission.smtp.pool import Pool
from relay.submission.smtp.wire import Trace
from relay.submission.transport import Source, Submission
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings

log = get_logger()


class SmtpTransport:
    """See `submission.transport.Transport`. `secret` and `way_of` may raise any CredentialError.

    `second`: for access tokens that the upstream refuses (see `login.SecondLogin`); `tries`: how many logins may be
    refused (see `opening.open_connection`); `way_of`: each account's way out.  `hostname` is our name in EHLO unless
    the settings give one.
    """

    def __init__(
        self,
        settings: SubmissionSettings,
        secret: SecretSource,
        *,
        hostname: str,
        second: SecondLogin | None = None,
        tries: LoginTries | None = None,
        way_of: WayOf = direct,
    ) -> None:
        self._secret, self._second, self._tries, self._way_of = secret, second, tries, way_of
        self._hostname = hostname
        self._pool = Pool(idle_s=settings.idle_s, most_messages=settings.max_messages_per_connection)
        self.configure(settings)

    def configure(self, settings: SubmissionSettings) -> None:
        """Other settings from the next transaction on; the EHLO name is for new connections."""
        self._deadlines = Deadlines.of(settings)
        self._most_messages = settings.max_messages_per_connection
        self._ehlo_name = greeting_name(settings.ehlo_name or self._hostname)
        self._pool.configure(idle_s=settings.idle_s, most_messages=settings.max_messages_per_connection)

    async def carry(self, upstream: Upstream, source: Source) -> None:
        """See `submission.transport.Transport.carry`.

        A pooled connection that turns out to be dead before anything happened for a message is replaced without
        a report.  Returns after the first failure of a connection: what to do then is the lane's to say.
        """
        submission = source.take()
        while submission is not None:
            connection = self._pool.take(upstream) or await self._open(upstream, source, submission)
            if connection is None:
                return
            dialogue = Dialogue(connection, source, self._deadlines, most_messages=self._most_messages)
            match await dialogue.run(submission):
                case Ending.IDLE:
                    self._pool.put(connection)
                    return
                case Ending.SPENT:
                    await connection.quit(QUIT_S)  # gone before the next one comes: limits count both
                    submission = source.take()
                case Ending.STALE:
                    submission = dialogue.leftover
                case Ending.BROKEN:
                    return

    async def drained(self, account_id: int) -> None:
        """See `submission.transport.Transport.drained`."""
        await self._pool.drained(account_id)

    def connections(self) -> dict[int, int]:
        """Open connections by account id, idle ones included."""
        return self._pool.counts()

    def forget(self, account_id: int) -> None:
        """See `submission.transport.Transport.forget`."""
        self._pool.forget(account_id)

    async def close(self) -> None:
        """QUIT idle connections; at most QUIT_S."""
        await self._pool.close()

    async def _open(self, upstream: Upstream, source: Source, submission: Submission) -> Connection | None:
        """A new connection, or None after reporting why there is none."""
        made: list[Connection] = []
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._pool.ended(upstream.account_id, made[0] if made else None)

        failure: Outcome = Unreachable(Stage.CONNECT, "lease-lost", "the relay stopped while connecting", counted=False)
        age = self._pool.opened(upstream.account_id)
        try:
            connection = await open_connection(
                upstream,
                self._secret,
                deadlines=self._deadlines,
                ehlo_name=self._ehlo_name,
                on_end=end,
                trace=trace_to_log(upstream),
                second=self._second,
                tries=self._tries,
                way_of=self._way_of,
            )
            connection.age = age
            made.append(connection)
            submission.mark("connect")
            return connection
        except OpeningFailed as error:
            failure = error.outcome
            return None
        except asyncio.CancelledError:
            raise
        except (StorageFull, StorageFailed) as error:  # of a secret, or of what counts logins
            log.error("storage.failed", where="connecting upstream", detail=str(error))
            failure = Unreachable(Stage.CONNECT, "lease-lost", "the store could not be asked", counted=False)
            return None
        except Exception:  # ours; the lane must get its message back
            log.exception("daemon.fault", where="connecting upstream", account=upstream.account)
            failure = Unreachable(Stage.CONNECT, "unknown-failure", "a fault of this program, see the log")
            return None
        finally:
            if not made:
                end()
                source.report(submission, _for_all(submission, failure))


def _for_all(submission: Submission, outcome: Outcome) -> Sequence[Outcome]:
    return [outcome] * len(submission.recipients)


def greeting_name(name: str) -> str:
    """A name fit for EHLO (RFC 5321 4.1.4): ASCII without spaces; "localhost" when nothing is left."""
    try:
        ascii_name = name.strip().encode("idna").decode() if not name.isascii() else name.strip()
    except UnicodeError:
        ascii_name = ""
    return ascii_name if ascii_name and all("!" <= character <= "~" for character in ascii_name) else "localhost"


def trace_to_log(upstream: Upstream) -> Trace | None:
    """Writes protocol lines as `upstream.line`; None when the log drops debug lines anyway."""
    logger = getattr(log.debug, "__self__", None)  # structlog's, once the log is configured
    if logger is None or not logger.is_enabled_for(10):
        return None

    def trace(direction: str, octets: bytes) -> None:
        for line in octets[:4096].decode("utf-8", "backslashreplace").split("\r\n"):
            if line:
                log.debug("upstream.line", account=upstream.account, direction=direction, line=line)

    return trace
