"""Keeps the store as the accounts file says: at the start, at each reload, and when it or a secret file changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.control.apply import Applied, SecretsUnreadable, apply_file
from relay.control.context import Control
from relay.control.refusal import ControlError
from relay.credentials.references import Reference
from relay.telemetry import get_logger

log = get_logger()

LOOK_S = 2.0  # between two looks at the files
_AGAIN_S = 60.0  # until what could not be done is tried again, files unchanged
_ACTOR = "accounts file"

Stamp = tuple[tuple[int, int, int] | None, ...]


class AccountsFile:
    """One per daemon; does nothing while RELAY_ACCOUNTS_FILE is not set. `control` gives the one in force."""

    def __init__(self, control: Callable[[], Control], *, look_s: float = LOOK_S) -> None:
        self._control, self._look_s = control, look_s
        self._watched: tuple[Path, ...] = ()
        self._stamp: Stamp = ()
        self._again_at: float | None = None  # monotonic
        self._told = ""  # the refusal that is in the log already
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Apply it, before anything is sent. Raises ControlError when it is wrong.

        A secret that is out of reach only delays it: the mail of all other accounts goes on.
        """
        try:
            await self._apply(replace(self._control(), lanes=None))
        except SecretsUnreadable as refused:
            self.refused(refused)

    async def check(self, control: Control) -> None:
        """Could it be applied under `control`? Raises ControlError with the reason."""
        if (path := control.settings.accounts_file) is not None:
            await apply_file(control, path, dry_run=True)

    async def apply(self) -> dict[str, Any] | None:
        """Apply it now; what changed, None: there is no file. Raises ControlError, and tries again after a while."""
        return await self._apply(self._control())

    async def _apply(self, control: Control) -> dict[str, Any] | None:
        path = control.settings.accounts_file
        async with self._turn:
            if path is None:
                self._watched, self._stamp, self._again_at = (), (), None
                return None
            self._watched = self._watched if path in self._watched else (path,)
            self._stamp = await asyncio.to_thread(_stamp, self._watched)
            self._again_at = time.monotonic() + _AGAIN_S
            try:
                applied = await apply_file(control.asked_by(_ACTOR, lambda _: None), path)
            except SecretsUnreadable as refused:
                self._watch(path, refused.references)
                raise
            self._watch(path, applied.references)
            if not applied.waiting:
                self._again_at = None
            self._done(applied)
            return applied.as_json(applied=True)

    def _watch(self, path: Path, references: Iterable[Reference]) -> None:
        """A file that is new among them counts as changed: it may have been since it was read."""
        known = dict(zip(self._watched, self._stamp, strict=True))
        self._watched = tuple(dict.fromkeys((path, *(file for one in references if (file := one.path) is not None))))
        self._stamp = tuple(map(known.get, self._watched))

    async def watch(self) -> None:
        """Apply it when it changes. Never ends by itself, whatever fails."""
        while True:
            await asyncio.sleep(self._look_s)
            try:
                if await self._is_due():
                    await self.apply()
            except ControlError as refused:
                self.refused(refused)
            except Exception:  # outermost loop: the next change counts, too
                log.exception("daemon.fault", where="accounts file")

    async def _is_due(self) -> bool:
        if self._again_at is not None and time.monotonic() >= self._again_at:
            return True
        return await asyncio.to_thread(_stamp, self._watched) != self._stamp

    def _done(self, applied: Applied) -> None:
        self._told = ""
        if not applied.changes:
            return
        verbs = [change.verb for change in applied.changes]
        log.info(
            "accounts.applied",
            path=str(applied.path),
            added=verbs.count("add"),
            changed=verbs.count("change"),
            removed=verbs.count("remove"),
        )

    def refused(self, refused: ControlError) -> None:
        """Log it, once as long as it stays the same."""
        if refused.text != self._told:
            self._told = refused.text
            log.error("accounts.refused", detail=refused.text, to_do=refused.remedy)


def _stamp(paths: Iterable[Path]) -> Stamp:
    """What changes with the files; None for one that is not there."""
    return tuple(map(_of, paths))


def _of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
