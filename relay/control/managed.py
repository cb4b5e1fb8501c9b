"""Keeps hands off what an accounts file declares."""

from __future__ import annotations

from relay.control.refusal import ControlError


def by_hand(managed_by: str | None, what: str) -> None:
    """Refuse a change by hand of `what` when `managed_by` is a file: the next time it is applied would undo it."""
    if managed_by is not None:
        raise ControlError(f"{what} is declared in {managed_by}", "change it there, then `relay apply`")
