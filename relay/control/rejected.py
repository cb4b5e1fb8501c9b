"""What the front door refused lately: mail that no queue and no history knows."""

from __future__ import annotations

from typing import Any

from relay.control.context import Control, iso
from relay.telemetry.cleaning import clean_text
from relay.telemetry.rejected import Rejection, rejections

_MOST = 1000


async def rejected_list(control: Control, *, address: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Refusals of this node since it started, the last 1,000, newest first, with the reply and what to do.

    `address`: of those the ones with that sender or recipient; `@domain`, parts with `*`, and `<>` as in `trace`.
    """
    wanted = _Pattern(address) if address is not None else None
    found = [one for one in rejections() if wanted is None or wanted.fits(one)]
    return [_facts(one) for one in found[: max(1, min(limit, _MOST))]]


class _Pattern:
    """As `selection.fits` has it for columns."""

    def __init__(self, text: str) -> None:
        text = text.strip().lower()
        self._parts = (f"*{text}" if text.startswith("@") else text).split("*")

    def fits(self, one: Rejection) -> bool:
        """Is it this rejection's sender or one of its recipients?"""
        return any(self._matches(address.lower()) for address in (one.sender, *one.recipients))

    def _matches(self, address: str) -> bool:
        first, *between = self._parts
        if not between:
            return address == first
        last = between.pop()
        if not address.startswith(first) or not address.endswith(last) or len(address) < len(first) + len(last):
            return False
        at, end = len(first), len(address) - len(last)
        for part in between:
            found = address.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


def _facts(one: Rejection) -> dict[str, Any]:
    return {
        "at": iso(one.at_ms),
        "client": clean_text(one.client),
        "host": one.host,
        "sender": clean_text(one.sender),
        "recipients": [clean_text(recipient) for recipient in one.recipients],
        "code": one.code,
        "status": one.status,
        "reply": clean_text(one.reply),
        "remedy": clean_text(one.remedy),
    }
