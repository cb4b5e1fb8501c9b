"""`relay node …`: the daemons that share this store."""

from __future__ import annotations

import typer

from relay.cli.output import Json, print_json, table
from relay.cli.session import perform


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("list", epilog="Example: relay node list")(list_)


def list_(as_json: Json = False) -> None:
    """Every daemon on this store, and for how many accounts it submits."""
    result = perform("node.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("NODE", "ID", "PROCESS", "VERSION", "SINCE", "ACCOUNTS", "JOBS", "STATE"),
        [
            (
                f"{entry['host']}{' (here)' if entry['here'] else ''}",
                entry["id"],
                entry["pid"],
                entry["version"],
                entry["started_at"],
                entry["accounts"],
                "yes" if entry["jobs"] else None,
                f"silent for {entry['silent_s']} s" if entry["silent_s"] else "alive",
            )
            for entry in result
        ],
        nothing="No daemon runs.",
    )
