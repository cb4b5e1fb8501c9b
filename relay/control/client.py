"""The web process's side of the control socket: as `wire`, with asyncio, in the name of whoever is signed in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from relay.control.refusal import ControlError
from relay.control.wire import ACTION_S, MAX_LINE, reachable, refusal

_CONNECT_S = 5.0


class Answer(NamedTuple):
    """What an action gave. `changes`: how far the daemon's had come before the action (0: it does not say)."""

    found: Any
    changes: int


class ControlClient:
    """One daemon. Safe for many calls at once: each has a connection of its own, which ends with the answer."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    async def call(
        self,
        action: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        credential: Mapping[str, str] | None = None,
        key: str | None = None,
        on_progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
        timeout_s: float = ACTION_S + 10,
    ) -> Any:
        """Have the daemon do `action`, with the rights of `credential` ({"session": …}, {"token": …}; None: all).

        With a `key` it is done once: who asks again with it gets the first answer (access.answers).

        Raises ControlError: what the daemon refused, or unavailable when it does not answer in time.
        """
        asked = self.ask(
            action, arguments, credential=credential, key=key, on_progress=on_progress, timeout_s=timeout_s
        )
        return (await asked).found

    async def ask(
        self,
        action: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        credential: Mapping[str, str] | None = None,
        key: str | None = None,
        on_progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
        timeout_s: float = ACTION_S + 10,
    ) -> Answer:
        """As `call`, and how far the daemon's changes had come."""
        request: dict[str, Any] = {"action": action, "args": dict(arguments or {}), "web": True}
        if credential is not None:
            request["as"] = dict(credential)
        if key is not None:
            request["key"] = key
        line = json.dumps(request).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise ControlError("the request is too large", "send less at once", "invalid")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(line, on_progress)
        except (OSError, TimeoutError, ValueError):
            raise _silent() from None

    async def _exchange(self, line: bytes, on_progress: Callable[[Mapping[str, Any]], None]) -> Answer:
        async with asyncio.timeout(_CONNECT_S):
            with reachable(self._data_dir) as address:
                reader, writer = await asyncio.open_unix_connection(address, limit=MAX_LINE * 16)
        try:
            writer.write(line)
            await writer.drain()
            while answer := await reader.readline():
                told = json.loads(answer)
                if "progress" in told:
                    on_progress(told["progress"])
                elif "error" in told:
                    raise refusal(told["error"])
                else:
                    return Answer(told["ok"], told.get("changes", 0))
        finally:
            writer.close()
        raise _silent()


def _silent() -> ControlError:
    return ControlError("the relay does not answer", "look at its log; try again in a moment", "unavailable")
