"""`relay demo`: a sandbox provider, a relay, and one mail through both; leaves nothing behind."""

from __future__ import annotations

import typer

from relay.cli.output import Json, print_json, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: relay demo")(demo)


def demo(as_json: Json = False) -> None:
    """Show a plain mail going in and coming out authenticated. Nothing needs to be set up."""
    from relay.cli.demonstration import demonstrate  # what it needs is loaded for this command alone

    result = demonstrate((lambda _: None) if as_json else say)
    if as_json:
        print_json(result)
