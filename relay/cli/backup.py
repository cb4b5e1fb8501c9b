"""`relay backup`, `relay restore`: everything in one file, and back."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.cli.output import Json, complain, moment, note, print_json, say
from relay.cli.session import actor, check_owner, perform, settings_or_refuse
from relay.control.refusal import ControlError
from relay.mail.counted import counted

_TWICE = (
    "What was delivered since the backup was made is in it as waiting mail: it would be sent again. Restore once, and "
    "never start a restored copy beside the relay it was made of."
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup", epilog="Example: relay backup /srv/backup/relay-2026-11-23.tar --with-keys")(backup)
    app.command("restore", epilog="Example: relay restore /srv/backup/relay-2026-11-23.tar --hold")(restore)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make; it must not exist.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="The master keys, too: the file alone opens every password then.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Everything in one file, while the relay goes on.

    Accounts, sealed passwords, waiting mail, history.
    """
    from relay.control.archive import write_archive
    from relay.control.backup import packing

    target = file.expanduser().absolute()
    if target.exists() or not target.parent.is_dir():
        reason = "exists" if target.exists() else "is in no folder"
        raise ControlError(f"{target} {reason}", "give the name of a new file in a folder that exists")
    begun = perform("backup.begin", {"with_keys": with_keys})
    stage, facts = Path(begun["folder"]), begun["facts"]
    try:
        with packing(stage):
            size = write_archive(target, stage, facts)
    except (OSError, BlockingIOError) as error:
        raise ControlError(
            f"{target} could not be written: {error.strerror or error}", "see to it, then repeat"
        ) from None
    finally:
        _discard(stage)
    if as_json:
        print_json({"file": str(target), "size": size, "with_keys": with_keys, **facts})
    else:
        say(f"Wrote {target}: {counted(size, 'octet')}, schema {facts['schema']}, each part with its SHA-256.")
        say(
            f"  {counted(facts['messages'], 'message')} ({counted(facts['deliveries'], 'delivery')} to make), "
            f"{counted(facts['secrets'], 'sealed secret')}"
        )
        say(f"  master keys: {', '.join(facts['keys']) if with_keys else 'none'}")
    for name in facts["missing"][:10]:
        complain(f"spool file {name} is gone, so its mail is not in the backup; see to the device of the store")
    if with_keys:
        note("The file holds the master keys: whoever reads it can read every stored password. Keep it as a secret.")
    elif facts["secrets"]:
        note(
            "THE KEYS ARE NOT IN IT: without them no stored password can be opened again. "
            "Back RELAY_KEYS_DIR up as well, or use --with-keys."
        )


def _discard(stage: Path) -> None:
    """The daemon may be gone meanwhile, and the folder is ours or we are root."""
    with contextlib.suppress(ControlError):
        perform("backup.end", {"folder": str(stage)})
    shutil.rmtree(stage, ignore_errors=True)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `relay backup` made.")],
    force: Annotated[
        bool, typer.Option("--force", help="Move a store that is there into a folder `replaced-…` beside it.")
    ] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Send nothing of it until `relay queue release` lets it go.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a backup the store of RELAY_DATA_DIR.

    No relay may run there meanwhile.
    """
    import asyncio

    from relay.control.restore import restore as bring_back

    settings = settings_or_refuse()
    check_owner(settings.data_dir)
    try:
        result = asyncio.run(bring_back(settings, file.expanduser(), force=force, hold=hold, actor=actor()))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ControlError(f"{where}{error.strerror or error}", "see to it, then repeat the command") from None
    if as_json:
        print_json(result)
    else:
        _tell(result)
    note(_TWICE)


def _tell(result: dict[str, Any]) -> None:
    schema = result["schema"]["now"]
    say(f"Restored the backup of {moment(result['made_at'])} into {result['data_dir']} (schema {schema}).")
    say(f"  {counted(result['secrets'], 'secret')}, each opens with the keys that are here")
    if result["keys_added"]:
        say(f"  master keys added: {', '.join(result['keys_added'])}")
    say(f"  to go out when the relay starts: {counted(result['waiting'], 'delivery')}; held: {result['held']}")
    if result["in_doubt"]:
        doubtful = counted(result["in_doubt"], "message")
        say(f"  in their final dot, so that they may arrive twice (possible_duplicate): {doubtful}")
    if result["moved_aside"]:
        say(f"  the store that was here is in {result['moved_aside']}")
    for name in result["missing"][:10]:
        complain(f"spool file {name} was gone already when the backup was made: its mail cannot be sent")
    if result["held"]:
        say("Let held mail go: relay queue list --state held, relay queue release ID…")
