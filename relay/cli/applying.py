"""`relay apply`: the accounts file, what it would change, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.cli.output import Json, print_json, say
from relay.cli.session import perform
from relay.mail.counted import counted

_SIGNS = {"add": "+", "change": "~", "remove": "-"}

File = Annotated[str | None, typer.Argument(metavar="[FILE]", help="Instead of RELAY_ACCOUNTS_FILE.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("apply", epilog="Example: relay apply --dry-run")(apply)


def apply(
    file: File = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would change.")] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Hand what the file declared to people: the commands change it again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Accounts, senders, clients as the accounts file has them."""
    if release and (file or dry_run):
        raise typer.BadParameter("goes with nothing else", param_hint="--release")
    arguments: dict[str, Any] = {"dry_run": dry_run, "release": release}
    if file is not None:
        arguments["file"] = str(Path(file).expanduser().absolute())
    result = perform("apply", arguments)
    if as_json:
        print_json(result)
        return
    if release:
        say(f"Managed by hand from now on: {counted(result['released'], 'entry')}.")
        return
    for change in result["changes"]:
        say(line_of(change))
    for address, waiting in result["waiting"].items():
        owed = counted(waiting, "delivery")
        say(f"  account {address} is declared no more; it goes when what waits for it is gone: {owed}")
    count = len(result["changes"])
    if not count:
        say(f"Nothing to change: all is as {result['file']} says.")
    else:
        say(f"{counted(count, 'change')} {'made' if result['applied'] else 'to make: relay apply'}.")


def line_of(change: Mapping[str, Any]) -> str:
    """A change, as `as_json` gives it, in one line."""
    told = []
    for name, value in change["fields"].items():
        before, after = value["before"], value["after"]
        if name == "managed_by":
            told.append(f"from now on declared in {after}")
        elif before is None and change["action"] == "add":
            told.append(f"{name} {_text(after)}")
        elif after in ("set", "changed", "removed") and before is None:
            told.append(f"{name}: {after}")
        else:
            told.append(f"{name} {_text(before)} → {_text(after)}")
    line = f"{_SIGNS[change['action']]} {change['kind']} {change['name']}"
    return f"{line}: {', '.join(told)}" if told else line


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None or value == "" else str(value)
