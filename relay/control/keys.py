"""The master keys: list, add, re-seal under the primary one, drop."""

from __future__ import annotations

from typing import Any

from relay.control.context import Control, ControlError
from relay.credentials.errors import KeyInUse, KeyMissing, KeyNotDroppable, KeyRefused, NoSuchKey
from relay.telemetry import get_logger

log = get_logger()

_BACKUP = "back up the keys folder: without its keys no stored password can be read again"


async def key_list(control: Control) -> list[dict[str, Any]]:
    """Every key by id, with how many secrets are sealed under it."""
    sources = control.vault.ring.sources()
    primary = control.vault.ring.primary.id if sources else None
    return [
        {"id": key_id, "primary": key_id == primary, "secrets": count, "source": sources.get(key_id, "missing")}
        for key_id, count in (await control.vault.key_usage()).items()
    ]


async def key_add(control: Control) -> dict[str, Any]:
    """Make a key and seal with it from now on; what is sealed already stays under its own until `key rotate`."""
    await control.announce("key.add", ["key ring"], {})
    return {"id": await _new(control), "notice": _BACKUP}


async def key_rotate(control: Control) -> dict[str, Any]:
    """Seal every secret under the primary key. When all are already, a new key is made first.

    May be stopped anywhere and called again: it goes on with what is left.  `control.progress` gets
    {step: reseal, resealed, total} after each hundred.
    """
    usage = await control.vault.key_usage()
    primary = control.vault.ring.primary.id
    added = None
    if usage.get(primary, 0) and not any(count for key_id, count in usage.items() if key_id != primary):
        added = primary = await _new(control)
    await control.announce("key.rotate", [primary], {"added": added is not None})
    total = sum(count for key_id, count in usage.items() if key_id != primary)

    def told(resealed: int) -> None:
        control.progress({"step": "reseal", "resealed": resealed, "total": total})

    try:
        told(0)
        done = await control.vault.rotate(told=told)
    except KeyMissing as error:
        raise ControlError(str(error), "put the key file back into the keys folder") from None
    log.info("key.rotated", key_id=primary, resealed=done.resealed, unreadable=len(done.unreadable))
    old = [key_id for key_id, count in (await control.vault.key_usage()).items() if key_id != primary and not count]
    return {
        "primary": primary,
        "added": added,
        "resealed": done.resealed,
        "unreadable": [_named(control, problem.account_id) for problem in done.unreadable],
        "droppable": old,
        "notice": _BACKUP if added else "",
    }


async def key_drop(control: Control, *, id: str) -> dict[str, Any]:
    """Remove a key that seals nothing any more. Refused: primary, in use, unknown, or not a file of the keys folder."""
    try:
        control.vault.ring.check_droppable(id)
        await control.announce("key.drop", [id], {})
        await control.vault.drop_key(id)
    except KeyInUse as error:
        raise ControlError(f"{error.rows} secrets are sealed under key {id}", "run `relay key rotate` first") from None
    except NoSuchKey:
        raise ControlError("there is no key of that id", "`relay key list` shows them") from None
    except KeyNotDroppable as error:
        raise ControlError(
            f"key {id} cannot be dropped: {error.reason}", "make another one primary with `relay key add`"
        ) from None
    except KeyRefused as error:
        raise ControlError(f"{error.source} {error.reason}", error.remedy) from None
    log.info("key.dropped", key_id=id)
    return {"dropped": id}


async def _new(control: Control) -> str:
    try:
        return await control.vault.add_key()
    except KeyRefused as error:
        raise ControlError(f"{error.source} {error.reason}", error.remedy) from None


def _named(control: Control, account_id: int) -> str:
    account = control.directory.account(account_id)
    return account.address if account is not None else str(account_id)
