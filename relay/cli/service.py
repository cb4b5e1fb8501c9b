"""`relay serve`, `relay migrate`: the daemon and its store."""

from __future__ import annotations

from typing import Annotated

import typer

from relay.cli.output import Json, print_json, say
from relay.cli.session import perform, settings_or_refuse
from relay.control.refusal import ControlError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("serve", epilog="Example: relay serve")(serve)
    app.command("migrate", epilog="Example: relay migrate")(migrate)


def serve() -> None:
    """Run the daemon in the foreground; SIGTERM ends it in order."""
    from relay.cli import tree

    raise typer.Exit(tree.serve())


def migrate(
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="Copy to another store (not in this release).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring the store to this program's schema. Every start does that, too."""
    if to is not None:
        raise ControlError("copying to another store is not in this release", "leave out --to")
    from relay.control.migrate import schema_of

    settings = settings_or_refuse()
    before = schema_of(settings.database.path(settings.data_dir))  # None: no SQLite store that could be read
    result = perform("migrate", {})
    result["migrated"] = before != result["schema"]
    if as_json:
        print_json(result)
    elif result["migrated"]:
        say(f"Migrated {result['database']} from schema {before or 'none'} to {result['schema']}.")
    else:
        say(f"{result['database']} is up to date: schema {result['schema']}.")
