"""`relay sender …`: which sender's mail goes through which account."""

from __future__ import annotations

from typing import Annotated

import typer

from relay.cli.output import Json, print_json, say, table
from relay.cli.session import perform

Pattern = Annotated[
    str, typer.Argument(metavar="PATTERN", help="addr@dom, @dom, * (any other), or <> (the null reverse-path).")
]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("add", epilog="Example: relay sender add @shop.example.com billing@example.com")(add)
    group.command("list", epilog="Example: relay sender list")(list_)
    group.command("remove", epilog="Example: relay sender remove @shop.example.com")(remove)
    group.command("which", epilog="Example: relay sender which orders@shop.example.com")(which)


def add(
    pattern: Pattern,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's address.")],
    header_from: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="keep|rewrite|refuse",
            help="A header From that is not this sender: kept, rewritten to the account's address, or refused.",
        ),
    ] = "keep",
    as_json: Json = False,
) -> None:
    """Let mail of a sender go through an account."""
    result = perform("sender.add", {"pattern": pattern, "account": account, "from_policy": header_from})
    print_json(result) if as_json else say(f"Mail from {result['pattern']} goes through {result['account']}.")


def list_(as_json: Json = False) -> None:
    """Every registered sender and its account."""
    result = perform("sender.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("SENDER", "ACCOUNT", "FROM"),
        [(entry["pattern"], entry["account"], entry["from"]) for entry in result],
        nothing="No sender yet: relay sender add PATTERN ACCOUNT",
    )


def remove(pattern: Pattern, as_json: Json = False) -> None:
    """Take a sender off; mail that waits already stays with its account."""
    result = perform("sender.remove", {"pattern": pattern})
    print_json(result) if as_json else say(f"Removed {result['pattern']}.")


def which(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="A sender's address, or <>.")], as_json: Json = False
) -> None:
    """Which account an address goes through, and why."""
    result = perform("sender.which", {"address": address})
    if as_json:
        print_json(result)
        return
    say(f"{result['address']} goes through {result['account']}")
    say(f"  because {result['why']}")
