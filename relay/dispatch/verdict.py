"""What follows from the outcome of an attempt: for the delivery, and for the lane. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from relay.accounts.model import InDoubtPolicy
from relay.diagnosis import Diagnosis
from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Stage, Unreachable
from relay.queue.model import State

_BEFORE_MAIL = frozenset({Stage.CONNECT, Stage.TLS, Stage.AUTH})


@dataclass(frozen=True, slots=True)
class Rest:
    """The lane pauses: for `for_s` seconds, or by its own growing back-off when None."""

    for_s: float | None


@dataclass(frozen=True, slots=True)
class Suspend:
    """The account stops until a person acts (or a later login proves it well again)."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One failure after login: the lane rests only when several follow each other."""


LaneAction = Rest | Suspend | Strike | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state` of the delivery next.  DEFERRED: after its own back-off, unless `at_once`.  QUEUED: as soon as the
    lane flows again, and the failure was not the message's."""

    state: State
    lane: LaneAction = None
    at_once: bool = False
    possible_duplicate: bool = False


_RELAYED = Verdict(State.RELAYED)


def decide(outcome: Outcome, diagnosis: Diagnosis | None, *, in_doubt: InDoubtPolicy, partly: bool) -> Verdict:
    """`diagnosis` of every outcome but Accepted; `partly`: another recipient of the transaction was accepted."""
    match outcome:
        case Accepted():
            return _RELAYED
        case InDoubt():
            state = State.HELD if in_doubt == "hold" else State.IN_DOUBT
            return Verdict(state, Strike(), possible_duplicate=True)
        case Refused(stage=stage) | Unreachable(stage=stage):
            assert diagnosis is not None
            return _after_failure(outcome, stage, diagnosis, partly=partly)
        case _:
            assert_never(outcome)


def _after_failure(outcome: Refused | Unreachable, stage: Stage, diagnosis: Diagnosis, *, partly: bool) -> Verdict:
    if isinstance(outcome, Unreachable) and not outcome.counted:
        return Verdict(State.QUEUED)
    if diagnosis.pause and not diagnosis.retry:
        return Verdict(State.QUEUED, Suspend())
    if diagnosis.pause:
        return Verdict(State.QUEUED, Rest(diagnosis.pause_for_s))
    if stage in _BEFORE_MAIL:  # nothing was said about the message: it is never returned for this
        return Verdict(State.QUEUED, Rest(None) if diagnosis.retry else Suspend())
    if not diagnosis.retry:
        return Verdict(State.BOUNCED)
    if partly and "too-many-recipients" in diagnosis.id:
        return Verdict(State.DEFERRED, at_once=True)  # too many recipients: the rest in the next transaction
    return Verdict(State.DEFERRED, Strike() if diagnosis.scope in ("account", "upstream") else None)
