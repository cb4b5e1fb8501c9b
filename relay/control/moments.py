"""Times as operators give them: an age, or a moment."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from relay.control.refusal import ControlError

_AGE = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment_ms(text: str, now: int, option: str) -> int:
    """Milliseconds since 1970 of an age before `now` such as 2h or 7d, or of a time in ISO 8601 (UTC unless it says).

    Refused, naming `option`: neither of the two.
    """
    if match := _AGE.fullmatch(text.strip().lower()):
        return now - int(match[1]) * _UNITS_S[match[2]] * 1000
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ControlError(
            f"{option} is neither an age nor a time", "give 30m, 2h, 7d, or 2026-11-23T08:00:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
