"""The span of an attempt, for whoever traces messages."""

from __future__ import annotations

import time
from collections.abc import Sequence

from relay.dispatch.attempt import Attempt, Facts
from relay.dispatch.record import Record
from relay.mail.ids import format_id
from relay.mail.outcome import Accepted, Outcome
from relay.telemetry.tracing import Span, Step, Tracer

_MOST_NAMED = 20  # recipients


def trace_attempt(tracer: Tracer, attempt: Attempt, outcomes: Sequence[Outcome], result: Record) -> None:
    """Leave it with the tracer; its steps are those that the transport marked, the last one is where it ended."""
    message = attempt.message
    if not tracer.wants(message.id, message.header_message_id):
        return
    outcome = next((one for one in outcomes if not isinstance(one, Accepted)), outcomes[0])
    facts = Facts.of(outcome)
    cause = next((one.attempt.cause for one in result.settlements if one.attempt is not None and one.attempt.cause), "")
    now, now_ns = time.monotonic(), time.time_ns()

    def since_1970(moment: float) -> int:
        return now_ns - int((now - moment) * 1e9)

    marks = attempt.marks or []
    steps = [Step(name, since_1970(ended)) for name, ended in marks]
    failed = not isinstance(outcome, Accepted)
    if failed and marks and marks[-1][0] != "reply":
        steps.append(Step(facts.stage, now_ns))
    tracer.add(
        Span(
            "attempt",
            message.id,
            message.header_message_id,
            since_1970(attempt.started),
            now_ns,
            _facts(tracer, attempt, facts, cause, result),
            steps=steps,
            orphan=bool(message.notice),
            error=(cause or facts.outcome) if failed else "",
        )
    )


def _facts(tracer: Tracer, attempt: Attempt, facts: Facts, cause: str, result: Record) -> dict[str, str | int | bool]:
    upstream, message = attempt.upstream, attempt.message
    told: dict[str, str | int | bool] = {
        "relay.message_id": format_id(message.id),
        "relay.account": upstream.account,
        "relay.transport": upstream.transport,
        "relay.attempt": message.deliveries[0].attempts + 1,
        "relay.recipients": len(attempt.recipients),
        "relay.outcome": facts.outcome,
        "relay.stage": facts.stage,
        "server.address": upstream.host,
        "server.port": upstream.port,
    }
    if facts.code:
        told |= {"relay.code": facts.code, "relay.status": facts.status}
    if cause:
        told |= {"relay.cause": cause, "error.type": cause}
    for settlement in result.settlements:
        name = f"relay.{settlement.state.value}"
        told[name] = int(told.get(name, 0)) + 1
    if any(settlement.possible_duplicate for settlement in result.settlements):
        told["relay.possible_duplicate"] = True
    if tracer.addresses:
        told |= {
            "relay.sender": attempt.reverse_path,
            "relay.recipient": ", ".join(attempt.recipients[:_MOST_NAMED]),
            "relay.reply": facts.reply,
        }
    return told
