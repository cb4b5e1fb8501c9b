"""Senders: which address goes through which account, and why."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.model import FromPolicy
from relay.accounts.normalise import NULL, check_address, normalise_pattern
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.managed import by_hand
from relay.control.queue import account_name, account_named
from relay.control.reasons import refusals, shown


async def sender_add(control: Control, *, pattern: str, account: str, from_policy: str = "keep") -> dict[str, Any]:
    """Route a pattern (an address, `@domain`, `*` or `<>`) to an account. Mail that waits without a route follows.

    `from_policy`: what happens to a header From that is not this sender: keep, rewrite or refuse.
    """
    found = account_named(control, account)
    _by_hand(control, pattern)

    def add(connection: Connection) -> str:
        policy = cast("FromPolicy", from_policy)  # checked by the store
        return store.add_sender(connection, pattern, found.id, now_ms=now_ms(), from_policy=policy)

    with refusals():
        stored = await control.change(
            "sender.add", shown(pattern), {"account": found.address, "from": from_policy}, add
        )
    return {"pattern": stored, "account": found.address, "from": from_policy}


async def sender_list(control: Control) -> list[dict[str, Any]]:
    """Every pattern with its account."""
    return [
        {
            "pattern": sender.pattern,
            "account": account_name(control, sender.account_id),
            "from": sender.from_policy,
            "managed_by": sender.managed_by,
            "created_at": iso(sender.created_at),
        }
        for sender in control.directory.senders()
    ]


async def sender_remove(control: Control, *, pattern: str) -> dict[str, Any]:
    """Forget a pattern. Mail that waits already stays with its account."""
    _by_hand(control, pattern)
    with refusals():
        stored = await control.change(
            "sender.remove", shown(pattern), {}, lambda connection: store.remove_sender(connection, pattern)
        )
    return {"pattern": stored}


async def sender_which(control: Control, *, address: str) -> dict[str, Any]:
    """The account that an address (`<>` or "": the null reverse-path) goes through, and why. Refused: none does."""
    text = address.strip()
    with refusals():
        reverse_path = "" if text in ("", NULL) else check_address(text)
    explanation = control.directory.explain_route(reverse_path)
    if explanation.route is None:
        raise ControlError(
            f"no account may send as {shown(reverse_path) or NULL} ({'; '.join(explanation.steps)})",
            f"relay sender add {shown(reverse_path) or NULL!r} ACCOUNT",
        )
    return {
        "address": reverse_path or NULL,
        "account": account_name(control, explanation.route.account_id),
        "rule": explanation.route.rule,
        "step": explanation.route.step,
        "from": explanation.route.from_policy,
        "why": "; ".join(explanation.steps),
    }


def _by_hand(control: Control, pattern: str) -> None:
    """Refuse when the accounts file declares it."""
    with refusals():
        stored = normalise_pattern(pattern)
    for sender in control.directory.senders():
        if sender.pattern == stored:
            by_hand(sender.managed_by, f"sender {shown(stored)}")
