"""Turns outcomes into settlements, log lines and counters: one place says what happened to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from relay.accounts.advice import first_step
from relay.accounts.model import Upstream
from relay.accounts.unknown_replies import UNKNOWN
from relay.diagnosis import Diagnosis, diagnose
from relay.dispatch.attempt import Attempt, Facts
from relay.dispatch.owing import owing
from relay.dispatch.schedule import backoff_s, jittered
from relay.dispatch.verdict import LaneAction, Rest, Strike, Suspend, Verdict, decide
from relay.mail.ids import format_id
from relay.mail.outcome import Accepted, Outcome, Refused, Unreachable
from relay.mail.reply import Reply
from relay.queue.model import Delivery, Message, Settlement, State
from relay.queue.verdicts import Expected
from relay.telemetry import get_logger
from relay.telemetry.counters import count, observe

if TYPE_CHECKING:
    from relay.config.settings import DispatchSettings

log = get_logger()

_MOST_DOUBTFUL = 3  # attempts after which a delivery that is in doubt again waits for an operator

_STRENGTH: dict[type, int] = {Strike: 1, Rest: 2, Suspend: 3}
# A member is looked up by a function of enum's each time it is named: not for every message.
_RELAYED, _HELD = State.RELAYED, State.HELD
_LATER = (State.DEFERRED, State.IN_DOUBT)
_OPEN = (*_LATER, State.QUEUED)


@dataclass(slots=True)
class Record:
    """What an attempt led to. `again`: deliveries to try at once, nothing to write down for them."""

    settlements: list[Settlement] = field(default_factory=list)
    again: list[Delivery] = field(default_factory=list)
    lane: LaneAction = None
    diagnosis: Diagnosis | None = None  # of the strongest lane action
    reply: str = ""
    unknown: list[tuple[str, str]] = field(default_factory=list)  # stage and words of what the catalogue lacks
    accepted: int = 0
    due_at: int | None = None  # the earliest deferral, ms since 1970


def record(
    attempt: Attempt,
    outcomes: Sequence[Outcome],
    *,
    settings: DispatchSettings,
    now: int,
    chance: float,
    expected: Expected | None = None,
) -> Record:
    """Decide and log for each recipient, and tell who waits for it.

    `now` is ms since 1970, `chance` uniform in 0..1.
    """
    result = Record()
    partly = len(outcomes) > 1 and any(isinstance(outcome, Accepted) for outcome in outcomes)
    elapsed = attempt.elapsed_ms
    shown = format_id(attempt.message_id)
    upstream, message = attempt.upstream, attempt.message
    previous: Outcome | None = None
    facts: Facts | None = None
    diagnosis: Diagnosis | None = None
    for delivery, outcome in zip(message.deliveries, outcomes, strict=True):
        if outcome is not previous or facts is None:  # the same value for all recipients is the usual case
            previous = outcome
            facts = Facts.of(outcome)
            diagnosis = None if isinstance(outcome, Accepted) else diagnose(outcome, provider=upstream.provider)
            _log_attempt(attempt, shown, facts, diagnosis, elapsed)
            if diagnosis is not None and diagnosis.id in UNKNOWN and isinstance(outcome, Refused):
                result.unknown.append((facts.stage, _quoted(facts)))
        verdict = decide(outcome, diagnosis, in_doubt=upstream.in_doubt, partly=partly)
        if isinstance(outcome, Unreachable) and not outcome.counted:
            result.again.append(delivery)
            continue
        settlement = _settle(attempt, delivery, verdict, facts, diagnosis, settings, now, chance, elapsed)
        result.settlements.append(settlement)
        result.accepted += settlement.state is _RELAYED
        if settlement.state in _OPEN:
            result.due_at = min(result.due_at or settlement.due_at, settlement.due_at)
        if _STRENGTH.get(type(verdict.lane), 0) > _STRENGTH.get(type(result.lane), 0):
            result.lane, result.diagnosis, result.reply = verdict.lane, diagnosis, _quoted(facts)
        _log_delivery(shown, attempt, delivery, settlement, facts, diagnosis, upstream, now)
        if expected is not None:
            expected.report(delivery.number, settlement.state, *_explained(outcome, diagnosis))
    return result


def _explained(outcome: Outcome, diagnosis: Diagnosis | None) -> tuple[Reply | None, str]:
    """What the upstream said, if it said anything; what that means, and what to do first."""
    reply = outcome.reply if isinstance(outcome, Accepted | Refused) else None
    return reply, " ".join((diagnosis.cause, *diagnosis.remedy[:1])) if diagnosis is not None else ""


def _settle(
    attempt: Attempt,
    delivery: Delivery,
    verdict: Verdict,
    facts: Facts,
    diagnosis: Diagnosis | None,
    settings: DispatchSettings,
    now: int,
    chance: float,
    elapsed: int,
) -> Settlement:
    state, due_at, message = verdict.state, now, attempt.message
    if delivery.possible_duplicate and state is State.IN_DOUBT and delivery.attempts >= _MOST_DOUBTFUL:
        state = _HELD  # an upstream that never answers rightly would get a copy an hour, for days
    if state in _LATER and not verdict.at_once:
        first_s = (diagnosis.pause_for_s if diagnosis is not None else None) or settings.first_retry_s
        wait = backoff_s(delivery.attempts + 1, first_s=first_s, longest_s=settings.max_retry_s)
        due_at = now + int(jittered(wait, chance) * 1000)
    if state in _OPEN and now - message.accepted_at >= settings.lifetime_s * 1000:
        state = State.EXPIRED
    if state is _HELD:
        due_at = 1 << 52
    entry = facts.record(diagnosis.id if diagnosis is not None else "", elapsed)
    doubtful = verdict.possible_duplicate or delivery.possible_duplicate
    owes, copy = None, False
    if state is not _RELAYED or message.asks:  # a plain success owes nobody anything
        owes = owing(message, delivery, state, passed_on=attempt.passed_on)
    if attempt.upstream.sent_copy:
        copy = state is _RELAYED and not message.notice
    return Settlement(delivery, state, due_at, entry, possible_duplicate=doubtful, owes=owes, copy=copy)


def _log_attempt(attempt: Attempt, shown: str, facts: Facts, diagnosis: Diagnosis | None, elapsed: int) -> None:
    common = {
        "message_id": shown,
        "account": attempt.upstream.account,
        "sender": attempt.reverse_path,
        "recipients": len(attempt.recipients),
        "attempt": attempt.message.deliveries[0].attempts + 1,
        "elapsed_ms": elapsed,
    }
    again = attempt.message.deliveries[0].possible_duplicate
    if again:
        common["possible_duplicate"] = True
        count("relay_possible_duplicates_total")
    if diagnosis is None:
        log.info("attempt.accepted", code=facts.code, status=facts.status, reply=facts.reply, **common)
        return
    event = f"attempt.{facts.outcome}"
    if facts.outcome == "in_doubt":
        common["possible_duplicate"] = True
    log.info(
        event,
        stage=facts.stage,
        code=facts.code,
        status=facts.status,
        reply=facts.reply,
        cause=diagnosis.cause,
        remedy=diagnosis.id,
        **common,
    )


_EVENTS = {
    State.RELAYED: "delivery.relayed",
    State.DEFERRED: "delivery.deferred",
    State.QUEUED: "delivery.deferred",
    State.IN_DOUBT: "delivery.deferred",
    State.BOUNCED: "delivery.bounced",
    State.HELD: "delivery.held",
    State.EXPIRED: "delivery.expired",
}


def _log_delivery(
    shown: str,
    attempt: Attempt,
    delivery: Delivery,
    settlement: Settlement,
    facts: Facts,
    diagnosis: Diagnosis | None,
    upstream: Upstream,
    now: int,
) -> None:
    event = _EVENTS[settlement.state]
    count("relay_deliveries_total", account=upstream.account, outcome=event.partition(".")[2])
    more: dict[str, object] = {}
    if settlement.possible_duplicate:
        more["possible_duplicate"] = True
    if diagnosis is None:
        observe("relay_delivery_seconds", (now - attempt.message.accepted_at) / 1000)
        log.info(
            event,
            message_id=shown,
            account=upstream.account,
            sender=attempt.reverse_path,
            recipient=delivery.recipient,
            code=facts.code,
            status=facts.status,
            reply=facts.reply,
            attempt=delivery.attempts + 1,
            elapsed_ms=now - attempt.message.accepted_at,
            **more,
        )
        return
    if settlement.state in _LATER:
        more["retry_in_s"] = max(0, settlement.due_at - now) // 1000
    final = settlement.state in (State.BOUNCED, State.EXPIRED, State.HELD)
    if final or not diagnosis.retry:  # else the relay sees to it
        more |= first_step(diagnosis.cls, diagnosis.remedy, upstream.account, upstream.auth)
    (log.warning if final else log.info)(
        event,
        message_id=shown,
        account=upstream.account,
        sender=attempt.reverse_path,
        recipient=delivery.recipient,
        code=facts.code,
        status=facts.status,
        reply=facts.reply,
        cause=diagnosis.cause,
        remedy=diagnosis.id,
        attempt=delivery.attempts + 1,
        elapsed_ms=now - attempt.message.accepted_at,
        **more,
    )


def log_expired(message: Message, delivery: Delivery, account: str, now: int) -> None:
    """A delivery whose lifetime is over without an attempt. `now` is ms since 1970."""
    count("relay_deliveries_total", account=account, outcome="expired")
    log.warning(
        "delivery.expired",
        message_id=format_id(message.id),
        account=account,
        sender=message.reverse_path,
        recipient=delivery.recipient,
        elapsed_ms=now - message.accepted_at,
    )


def log_delayed(row: Any, account: str, now: int) -> None:
    """A delivery of which the sender is told that it waits; `row` as `queue.owed.owe_delayed` gives it."""
    log.warning(
        "delivery.delayed",
        message_id=format_id(row.message_id),
        account=account,
        sender=row.reverse_path,
        recipient=row.recipient,
        elapsed_ms=now - row.accepted_at,
    )


def _quoted(facts: Facts) -> str:
    return " ".join(part for part in (str(facts.code or ""), facts.status, facts.reply) if part)
