"""`relay notice …`: what people were told, and whether they can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relay.cli.output import Json, complain, moment, print_json, say, table
from relay.cli.session import perform


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("list", epilog="Example: relay notice list --account billing@example.com")(list_)
    group.command("test", epilog="Example: relay notice test")(try_all)


def list_(
    account: Annotated[str | None, typer.Option("--account", metavar="ADDRESS", help="Only about this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """What was told to whom, the latest first."""
    result = perform("notice.list", {"account": account, "limit": limit})
    if as_json:
        print_json(result)
        return
    table(
        ("WHEN", "KIND", "ACCOUNT", "ABOUT", "BY", "TO", "OUTCOME", "WHY"),
        [
            (
                moment(entry["at"]),
                entry["kind"],
                entry["account"],
                entry["about"],
                entry["channel"],
                entry["recipient"],
                entry["outcome"],
                entry["detail"],
            )
            for entry in result
        ],
        nothing="Nobody was told anything yet.",
    )


def try_all(as_json: Json = False) -> None:
    """Tell every channel that this is a test, and say what became of it."""

    def told(progress: Mapping[str, Any]) -> None:
        if not as_json:
            _show(progress)

    result = perform("notice.test", {}, told)
    if as_json:
        print_json(result)
    failed = [entry for entry in result if entry["outcome"] == "failed"]
    if failed:
        first = failed[0]
        complain(f"{len(failed)} of {len(result)} failed; {first['channel']}: {first['detail']}")
        raise typer.Exit(1)


def _show(entry: Mapping[str, Any]) -> None:
    to = f" to {entry['recipient']}" if entry["recipient"] else ""
    through = f" through {entry['account']}" if entry["account"] else ""
    why = f": {entry['detail']}" if entry["detail"] else ""
    say(f"{entry['channel']}{to}{through}: {entry['outcome']}{why}")
