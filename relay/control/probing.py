"""Tries an account: every step of a login, then a real mail through the transport that carries all others."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from relay.accounts.model import Account, AccountState, Upstream
from relay.accounts.normalise import check_address
from relay.accounts.transitions import OPERATOR, resume
from relay.accounts.unknown_replies import UnknownReplies
from relay.control.context import Control, ControlError, now_ms
from relay.control.explain import facts_of
from relay.control.listing import token_facts
from relay.control.queue import account_named
from relay.control.reasons import refusals, shown
from relay.credentials.errors import CredentialError
from relay.diagnosis import diagnose
from relay.mail.counted import counted
from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Stage, Unreachable
from relay.submission.login import LoginTries, without_secret
from relay.submission.router import RoutedTransport
from relay.submission.transport import Submission
from relay.telemetry.redaction import mask

_MAX_SHOWN = 1024
# What people see for a stage, in order.
_STEPS = {
    Stage.CONNECT: "connect",
    Stage.TLS: "tls",
    Stage.AUTH: "login",
    Stage.MAIL: "mail",
    Stage.RCPT: "rcpt",
    Stage.DATA: "data",
    Stage.DONE: "accepted",
}


@dataclass(slots=True)
class OneMail:
    """A source (submission.transport.Source) of exactly one submission; `outcome` is what was reported of it."""

    submission: Submission
    outcome: Outcome | None = None
    taken: bool = False

    def take(self) -> Submission | None:
        """The mail, once."""
        if self.taken:
            return None
        self.taken = True
        return self.submission

    def before_dot(self, submission: Submission) -> bool:
        """Always: nothing is owed for a test mail, so no mark is needed."""
        return True

    def report(self, submission: Submission, outcomes: Sequence[Outcome]) -> None:
        """Keep it."""
        self.outcome = outcomes[0]


@dataclass(frozen=True, slots=True)
class _Means:
    """What a test is made with: the production transport, or one that logs in with what was typed."""

    transport: RoutedTransport
    tries: LoginTries


async def account_test(
    control: Control, *, account: str, to: str | None = None, password: str | None = None
) -> dict[str, Any]:
    """Log in step by step, then send a mail from the account's address to `to` (default: itself).

    Each step goes to `control.progress` as {step, ok, detail}.  The mail does not pass the queue, so that a resting
    or suspended account can be tried; an account that the relay had suspended goes on after a success.
    With a `password` that one is tried and not kept: nothing of the account changes, it does not go on either.
    """
    found = account_named(control, account)
    upstream = control.directory.upstream(found)
    with refusals():
        recipient = check_address(to) if to is not None else found.address
    typed = bool(password)
    if password:
        _check_typed(control, found)
        means = _trial(control, password)
    else:
        control.logins.person_acted(found.id)
        means = _production(control)
    async with means as by:
        outcome: Outcome | None = None if typed else await get_token(control, found)
        without_token = outcome is not None
        if outcome is None:
            outcome = await _log_in(control, by, upstream)
        if outcome is None:
            outcome = await _send(control, by.transport, found, upstream, recipient)
    if typed:
        _note_typed(control, found, outcome)
    result = {
        "account": found.address,
        "to": recipient,
        "state": found.state.value,
        "resumed": False,
        "password": "typed" if typed else "stored",
    }
    if isinstance(outcome, Accepted):
        result["resumed"] = not typed and await _resume(control, found)
        return {**result, "ok": True, "reply": shown(outcome.reply), "cause": "", "remedy": [], "failed_at": None}
    diagnosis = diagnose(outcome, provider=upstream.provider)
    UnknownReplies(control.database, now_ms).heard(upstream.provider, outcome, diagnosis)
    failed_at = "token" if without_token else _STEPS[Stage.DONE if isinstance(outcome, InDoubt) else outcome.stage]
    control.progress({"step": failed_at, "ok": False, "detail": said(outcome)})
    facts = facts_of(diagnosis, found)
    return {**result, **facts, "ok": False, "reply": said(outcome), "failed_at": failed_at}


def _check_typed(control: Control, account: Account) -> None:
    """A typed password is for accounts that have one; and nobody guesses it here."""
    if account.auth != "password":
        raise ControlError(
            f"{account.address} logs in without a password", "leave the password blank, then test again", "invalid"
        )
    wait_s = control.desk.attempts.wait_s(_typed(account))
    if wait_s > 0:
        raise ControlError(
            "too many passwords were refused",
            f"wait {counted(math.ceil(wait_s), 'second')}, then try again",
            "throttled",
            math.ceil(wait_s),
        )


def _note_typed(control: Control, account: Account, outcome: Outcome) -> None:
    if isinstance(outcome, Refused) and outcome.stage is Stage.AUTH:
        control.desk.attempts.bad(_typed(account))


def _typed(account: Account) -> str:
    return f"typed {account.id}"


@asynccontextmanager
async def _production(control: Control) -> AsyncIterator[_Means]:
    yield _Means(control.transport, control.logins.tries.by_person)


@asynccontextmanager
async def _trial(control: Control, password: str) -> AsyncIterator[_Means]:
    """It never comes near the vault, and its connections end with the test."""
    mask(password)

    async def secret(_upstream: Upstream) -> str:
        return password

    tries = control.logins.tries.of_another
    transport = control.transport.on_trial(secret, tries)
    try:
        yield _Means(transport, tries)
    finally:
        await transport.close()


async def get_token(control: Control, account: Account) -> Unreachable | None:
    """Of an account that signs in with OAuth: its access token, told as a step; None: it has one, or needs none."""
    if account.auth in ("password", "none"):
        return None
    try:
        await control.logins.token(account.id, account.transport)
    except CredentialError as error:
        return without_secret(error)
    until = (await token_facts(control, account))["token_until"]
    control.progress({"step": "token", "ok": True, "detail": f"access token until {until}"})
    return None


async def log_in(control: Control, upstream: Upstream, *, limited: bool) -> Refused | Unreachable | None:
    """Connect, TLS and login as its transport has them; None: all of it went well. Each step is told.

    `limited`: not when three logins were refused within the hour; a person who tests one account may know better.
    """

    tries = control.logins.tries
    return await _log_in(control, _Means(control.transport, tries.attempt if limited else tries.by_person), upstream)


async def _log_in(control: Control, by: _Means, upstream: Upstream) -> Refused | Unreachable | None:
    def told(step: str, detail: str) -> None:
        if step != "quit":
            name = "login" if step == "auth" else step
            control.progress({"step": name, "ok": True, "detail": shown_bounded(detail)})

    outcome = await by.transport.probe(upstream, told, tries=by.tries)
    return None if isinstance(outcome, Accepted) else outcome


async def _send(
    control: Control, transport: RoutedTransport, account: Account, upstream: Upstream, recipient: str
) -> Outcome:
    content = _content(account.address, recipient)
    wide = not (account.address + recipient).isascii()
    mail = Submission(0, account.address, (recipient,), content, len(content), eight_bit=False, smtputf8=wide)
    source = OneMail(mail)
    await transport.carry(upstream, source)
    if source.outcome is None:
        raise ControlError("the test mail was not sent", "try again")
    outcome = source.outcome
    stage = Stage.DONE if isinstance(outcome, Accepted | InDoubt) else outcome.stage
    for passed, detail in (
        (Stage.MAIL, f"from <{account.address}>"),
        (Stage.RCPT, f"to <{recipient}>"),
        (Stage.DATA, f"{counted(len(content), 'octet')}"),
    ):
        if _later(stage, passed):
            control.progress({"step": _STEPS[passed], "ok": True, "detail": detail})
    if isinstance(outcome, Accepted):
        control.progress({"step": _STEPS[Stage.DONE], "ok": True, "detail": shown(outcome.reply)})
    return outcome


def _later(reached: Stage, passed: Stage) -> bool:
    order = list(_STEPS)
    return order.index(reached) > order.index(passed)


def _content(sender: str, recipient: str) -> bytes:
    """A test mail in wire form: no line begins with a dot, and it ends with CRLF."""
    domain = sender.rpartition("@")[2]
    lines = (
        f"From: <{sender}>",
        f"To: <{recipient}>",
        "Subject: Test mail from the relay",
        f"Date: {formatdate(time.time())}",
        f"Message-ID: <test.{secrets.token_hex(12)}@{domain}>",
        "Auto-Submitted: auto-generated",  # RFC 3834 5
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "",
        "This mail shows that the relay can send for this account.",
        "",
    )
    return "\r\n".join(lines).encode()


async def _resume(control: Control, account: Account) -> bool:
    if account.state is not AccountState.SUSPENDED or account.state_cause == OPERATOR:
        return False
    changes = await control.change(
        "account.resume",
        account.address,
        {"after": "test"},
        lambda connection: resume(connection, account.id, now_ms=now_ms(), actor=control.actor),
    )
    return control.went_on(changes)


def said(outcome: Outcome) -> str:
    """What the other side said, or what happened instead, in one line."""
    match outcome:
        case Accepted(reply) | Refused(reply):
            return shown_bounded(str(reply))
        case Unreachable(detail=detail, reason=reason) | InDoubt(detail=detail, reason=reason):
            return shown_bounded(detail or reason)


def shown_bounded(text: str) -> str:
    """In one printable line of at most 1,024 characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_MAX_SHOWN])
