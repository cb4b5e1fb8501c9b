"""Has the running daemon read its settings again."""

from __future__ import annotations

from typing import Any

from relay.control.context import Control, ControlError


async def reload(control: Control) -> dict[str, Any]:
    """What changed, what needs a restart, the doors that are open now. Refused: nothing changed."""
    if control.reload is None:
        raise ControlError("no daemon runs here", "settings count from its start on: relay serve")
    return await control.reload()
