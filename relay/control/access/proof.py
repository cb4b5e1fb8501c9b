"""Asks again who it is: what cannot be undone or moves mail takes more than a session, which may be stolen."""

from __future__ import annotations

from relay.control.access.model import Principal
from relay.control.context import Control, now_ms
from relay.control.refusal import ControlError

PROVED_S = 600  # a proof counts as long


def left_s(principal: Principal) -> int:
    """For how many seconds the proof of this person counts; 0: it does not."""
    age_ms = now_ms() - principal.proved_at
    return max(0, PROVED_S - age_ms // 1000) if age_ms >= 0 else 0


def demand(principal: Principal) -> None:
    """Raises ControlError (proof) unless this person proved within ten minutes who they are."""
    if not left_s(principal):
        raise ControlError(
            "this needs a fresh proof that it is you",
            "give your password again, with the second factor if you have one, or use a passkey",
            "proof",
        )


def demand_person(control: Control) -> None:
    """For what makes or changes an administrator: an operator of the machine, or a person who proved who they are."""
    principal = control.principal
    if principal is None:
        return
    if not principal.person:
        raise ControlError(
            "a token cannot make or change an administrator",
            "sign in to the console, or use the command line",
            "forbidden",
        )
    demand(principal)
