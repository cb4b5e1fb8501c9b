"""A login without mail: what `relay check` and `relay account test` do first, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.accounts.model import Upstream
from relay.mail.outcome import Accepted, Refused, Unreachable
from relay.net.way import WayOf, direct
from relay.submission.login import LoginTries, OnStep, SecondLogin, SecretSource
from relay.submission.smtp.deadlines import QUIT_S, Deadlines
from relay.submission.smtp.opening import OpeningFailed, open_connection
from relay.submission.smtp.transport import greeting_name

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings


async def probe(
    upstream: Upstream,
    secret: SecretSource,
    on_step: OnStep,
    *,
    settings: SubmissionSettings,
    hostname: str,
    second: SecondLogin | None = None,
    tries: LoginTries | None = None,
    way_of: WayOf = direct,
) -> Accepted | Refused | Unreachable:
    """Connect, TLS, EHLO, AUTH, QUIT on a connection of its own; `on_step(name, what happened)` after each that worked.

    Accepted carries the reply to AUTH, or to EHLO for an account without login.  The names are connect, tls, ehlo,
    auth, quit.
    """
    try:
        connection = await open_connection(
            upstream,
            secret,
            deadlines=Deadlines.of(settings),
            ehlo_name=greeting_name(settings.ehlo_name or hostname),
            on_step=on_step,
            second=second,
            tries=tries,
            way_of=way_of,
        )
    except OpeningFailed as failure:
        return failure.outcome
    await connection.quit(QUIT_S)
    on_step("quit", "done")
    return Accepted(connection.login_reply)
