"""`relay check`: settings, keys, database, secrets and upstreams, a line each; no mail is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relay.cli.output import Json, complain, print_json, say
from relay.cli.session import perform
from relay.control.refusal import ControlError

_SHOWN = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED "}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check", epilog="Example: relay check --no-login")(check)


def check(
    login: Annotated[bool, typer.Option("--login/--no-login", help="Log in at every upstream, too.")] = True,
    as_json: Json = False,
) -> None:
    """Check settings, keys, database, every secret and every upstream. No mail is sent."""

    def told(line: Mapping[str, Any]) -> None:
        if not as_json:
            remedy = f"; {line['remedy']}" if line["remedy"] else ""
            say(f"{_SHOWN[line['status']]}  {line['item']:<8}  {line['text']}{remedy}")

    try:
        lines = perform("check", {"login": login}, told)
    except ControlError as refused:
        # The store could not even be opened: that is this check's finding.
        lines = [{"item": "start", "status": "failed", "text": refused.text, "remedy": refused.remedy}]
        told(lines[0])
    failed = [line for line in lines if line["status"] == "failed"]
    if as_json:
        print_json({"ok": not failed, "lines": lines})
    if failed:
        complain(f"{len(failed)} of {len(lines)} checks failed, first: {failed[0]['text']}; {failed[0]['remedy']}")
        raise typer.Exit(1)
