"""Takes an action to the running daemon, or to the store itself when none runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.config.wording import SettingsError
from relay.control import wire
from relay.control.refusal import ControlError

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

Progress = Callable[[Mapping[str, Any]], None]

_STARTING_S = 5.0  # how long a daemon may hold the store without answering: it recovers, then it listens
_LOOK_S = 0.1
_MAKES = frozenset({"account.add", "import.apply", "apply"})  # actions that may begin a store, as `serve` and `demo` do


def settings_or_refuse() -> RelaySettings:
    """The settings of this process. Refused: every problem, one after the other in one line."""
    from relay.config.check import load

    try:
        return load()
    except SettingsError as error:
        raise refused_settings(error) from None


def refused_settings(error: SettingsError) -> ControlError:
    """Every problem, in one line."""
    first, *more = error.problems
    others = f" (and {len(more)} more: {'; '.join(more)})" if more else ""
    return ControlError(first + others, "relay.env.example lists every setting")


def perform(action: str, arguments: Mapping[str, Any], on_progress: Progress = lambda _: None) -> Any:
    """The result of an action, done by the daemon if one runs. Raises ControlError."""
    settings = settings_or_refuse()
    deadline = time.monotonic() + _STARTING_S
    while True:
        try:
            return wire.call(settings.data_dir, action, arguments, on_progress)
        except wire.NoDaemon:
            pass
        result = _alone(settings, action, arguments, on_progress)
        if not isinstance(result, _Held):
            return result
        if time.monotonic() > deadline:
            raise ControlError(
                f"process {result.holder or 'unknown'} holds the store in {settings.data_dir} and answers no commands",
                "wait until it has ended or is ready, or end it",
            )
        time.sleep(_LOOK_S)  # no event tells when another process lets go of a lock; the deadline bounds it


class _Held:
    def __init__(self, holder: str) -> None:
        self.holder = holder


def _alone(settings: RelaySettings, action: str, arguments: Mapping[str, Any], on_progress: Progress) -> Any:
    """Do it on the store, under the lock that keeps a daemon out; _Held when somebody else has that lock."""
    check_owner(settings.data_dir)
    path = settings.database.file
    # `relay migrate` makes a PostgreSQL store; opening it says when that is wanting.
    makes = action in _MAKES and not arguments.get("dry_run")
    if not makes:
        store_or_refuse(settings)
    new = not settings.database.postgresql and not _exists(path)

    import asyncio

    from relay.control import registry
    from relay.credentials.errors import KeyMissing, KeyRefused
    from relay.daemon.build import open_control
    from relay.database.engine import StoreLocked
    from relay.mail.errors import RelayError, StorageFull

    async def work() -> Any:
        async with open_control(settings, create_key=makes) as control:
            return await registry.run(control.asked_by(actor(), on_progress), action, arguments)

    try:
        result = asyncio.run(work())
        if new:
            from relay.cli.output import note

            note(f"Made a new store in {path.parent}, with its first key in {settings.keys_dir}: back both up.")
        return result
    except StoreLocked as locked:
        return _Held(locked.holder)
    except ControlError:
        raise
    except KeyRefused as error:
        raise ControlError(f"{error.source} {error.reason}", error.remedy) from None
    except KeyMissing as error:
        if error.key_ids:
            raise ControlError(*_parted(str(error))) from None
        raise ControlError(
            f"there is no key in {settings.keys_dir.absolute()}", f"{_ELSEWHERE}, or RELAY_KEYS_DIR"
        ) from None
    except StorageFull:
        raise ControlError("the disk is full", "free some space, then repeat the command") from None
    except RelayError as error:
        raise ControlError(*_parted(str(error))) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ControlError(
            f"the store in {settings.data_dir} cannot be opened: {where}{error.strerror}",
            "run the command as the user of the daemon, or set RELAY_DATA_DIR",
        ) from None


_ELSEWHERE = "run it in the folder with relay.env, or set RELAY_ENV_FILE or RELAY_DATA_DIR"


def _exists(path: Path) -> bool:
    """Who may not look will be told so when it is opened."""
    try:
        return path.exists()
    except OSError:
        return True


def store_or_refuse(settings: RelaySettings) -> None:
    """Raises ControlError where the store would be a file and there is none."""
    if not settings.database.postgresql and not _exists(settings.database.file):
        raise _no_store(settings.database.file.parent)


def _no_store(folder: Path) -> ControlError:
    """A command in the wrong folder must not make a store that no daemon uses."""
    read = os.environ.get("RELAY_ENV_FILE") or ("relay.env" if _exists(Path("relay.env")) else "")
    where = f"as {read} and the environment say" if read else f"and {Path.cwd()} has no relay.env"
    return ControlError(
        f"there is no store in {folder.absolute()}, {where}",
        f"{_ELSEWHERE}; `relay serve` or the first `relay account add` makes a new one",
    )


def _parted(text: str) -> tuple[str, str]:
    """Reason and remedy of an error that has both in one line."""
    reason, _, remedy = text.partition("; ")
    return reason, remedy or "see the README"


def check_owner(data_dir: Path) -> None:
    """Files that root makes in another user's store would keep the daemon out of it."""
    try:
        owner = data_dir.stat().st_uid
    except OSError:
        return
    if os.geteuid() == 0 and owner != 0:
        raise ControlError(
            f"{data_dir} belongs to {_user(owner)} and no daemon runs",
            f"run the command as that user (sudo -u {_user(owner)} …), or start the daemon first",
        )


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def actor() -> str:
    return _user(os.geteuid())
