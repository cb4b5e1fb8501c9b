"""What the sender of a delivery has to be told about its new state. Pure."""

from __future__ import annotations

from relay.queue.model import Delivery, Message, Owed, State
from relay.queue.owed import asked_for, sender_is_owed


def owing(message: Message, delivery: Delivery, state: State, *, passed_on: bool) -> Owed | None:
    """None: nothing. `passed_on`: the upstream took over what was asked about notices (RFC 3461 5.2.2).

    RELAYED is told only where it was asked for and nobody beyond us will tell (RFC 3461 5.2.2 b).
    """
    match state:
        case State.BOUNCED | State.EXPIRED:
            kind = Owed.FAILED
        case State.RELAYED if not passed_on:
            kind = Owed.RELAYED
        case _:
            return None
    if not sender_is_owed(message.reverse_path, message.original_path, message.notice):
        return None
    return kind if asked_for(delivery.request.notify, kind) else None
