"""Applies an accounts file: all of it or nothing, and what that changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.accounts import managing
from relay.config.wording import shown
from relay.control.context import Control, ControlError
from relay.credentials.references import Reference

if TYPE_CHECKING:
    from relay.control.declared_differences import Change


class SecretsUnreadable(ControlError):
    """The file is right, but a secret that it names cannot be had now; `references`: all that it names."""

    def __init__(self, text: str, remedy: str, references: tuple[Reference, ...]) -> None:
        super().__init__(text, remedy)
        self.references = references


@dataclass(frozen=True, slots=True)
class Applied:
    """What was changed, or would be; `waiting`: accounts that go when their mail has gone, and how much that is."""

    path: Path
    changes: tuple[Change, ...]
    waiting: Mapping[str, int]
    references: tuple[Reference, ...]

    def as_json(self, *, applied: bool) -> dict[str, Any]:
        """For programs."""
        return {
            "file": str(self.path),
            "applied": applied,
            "changes": [change.as_json() for change in self.changes],
            "waiting": dict(self.waiting),
        }


async def apply(
    control: Control, *, file: str | None = None, dry_run: bool = False, release: bool = False
) -> dict[str, Any]:
    """Apply the accounts file, or tell what that would change. `release`: hand all that it owns to people instead.

    `file`: another than RELAY_ACCOUNTS_FILE, absolute; to apply it, none may be set.
    """
    if release:
        return await _release(control)
    applied = await apply_file(control, _chosen(control, file, dry_run=dry_run), dry_run=dry_run)
    return applied.as_json(applied=not dry_run)


async def apply_file(control: Control, path: Path, *, dry_run: bool = False) -> Applied:
    """Everything that `path` declares in one transaction; `dry_run`: done, compared, and undone.

    Raises ControlError, SecretsUnreadable when only a secret is out of reach; nothing was changed then.
    """
    from relay.control.applying import carry_out  # what reads the file is not in an idle daemon's memory

    return await carry_out(control, path, dry_run=dry_run)


def _chosen(control: Control, file: str | None, *, dry_run: bool) -> Path:
    known = control.settings.accounts_file
    if file is None:
        if known is None:
            raise ControlError(
                "there is no accounts file",
                "name one: relay apply FILE; or set RELAY_ACCOUNTS_FILE, then `relay reload`",
            )
        return known
    path = Path(file)
    if not path.is_absolute():
        raise ControlError(f"{shown(file)} is not an absolute path", "give one")
    if known is not None and path != known and not dry_run:
        raise ControlError(
            f"RELAY_ACCOUNTS_FILE is {known}, which would undo it", "set that to the new file, then `relay reload`"
        )
    return path


async def _release(control: Control) -> dict[str, Any]:
    if control.settings.accounts_file is not None:
        raise ControlError(
            f"RELAY_ACCOUNTS_FILE is {control.settings.accounts_file}, which would take all of it again",
            "take that setting out, then `relay reload`",
        )
    released = await control.change("apply.release", "accounts file", {}, managing.release)
    return {"released": released}
