"""`relay key …`: the master keys that stored passwords are sealed with."""

from __future__ import annotations

from typing import Annotated

import typer

from relay.cli.output import Json, complain, note, print_json, say, table
from relay.cli.session import perform
from relay.mail.counted import counted


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("list", epilog="Example: relay key list")(list_)
    group.command("add", epilog="Example: relay key add")(add)
    group.command("rotate", epilog="Example: relay key rotate")(rotate)
    group.command("drop", epilog="Example: relay key drop k2026-11-23-4f0a")(drop)


def list_(as_json: Json = False) -> None:
    """Every key, where it is, and how many secrets it seals."""
    result = perform("key.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("KEY", "PRIMARY", "SECRETS", "FROM"),
        [(entry["id"], "yes" if entry["primary"] else None, entry["secrets"], entry["source"]) for entry in result],
        nothing="No key yet: the first one is made when the relay starts.",
    )


def add(as_json: Json = False) -> None:
    """Make a key and seal with it from now on."""
    result = perform("key.add", {})
    print_json(result) if as_json else say(f"Made key {result['id']}; new secrets are sealed with it.")
    note(result["notice"])


def rotate(as_json: Json = False) -> None:
    """Seal every stored secret under the primary key. When all are already: under a new one."""
    result = perform("key.rotate", {})
    if as_json:
        print_json(result)
    else:
        if result["added"]:
            say(f"Made key {result['added']}.")
        say(f"{_secrets(result['resealed'])} sealed anew under key {result['primary']}.")
        for old in result["droppable"]:
            say(f"Key {old} seals nothing any more: relay key drop {old}")
    if result["notice"]:
        note(result["notice"])
    if result["unreadable"]:
        names = ", ".join(result["unreadable"])
        complain(f"secrets of {names} do not open; store them again with `relay account set-password`")
        raise typer.Exit(1)


def _secrets(count: int) -> str:
    return f"{counted(count, 'secret')} {'is' if count == 1 else 'are'}"


def drop(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    as_json: Json = False,
) -> None:
    """Remove a key that seals nothing any more."""
    result = perform("key.drop", {"id": key_id})
    print_json(result) if as_json else say(f"Dropped key {result['dropped']}.")
