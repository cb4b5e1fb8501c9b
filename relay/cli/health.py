"""`relay health`: is the daemon alive, would it take a mail now; for container engines and service managers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relay.cli.output import Json, print_json, say
from relay.cli.session import settings_or_refuse
from relay.control import wire
from relay.control.refusal import ControlError

_ANSWER_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("health", epilog="Example: relay health --ready")(health)


def health(
    ready: Annotated[bool, typer.Option("--ready", help="Fail also when no mail would be taken now.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the running daemon whether it is well.

    It is asked over its control socket and gets 5 s; the console, its port and its TLS make no difference.
    """
    found = _ask()
    if as_json:
        print_json(found)
    elif found["ready"]:
        say("ok: mail is taken")
    elif not ready:
        say(f"ok: the daemon answers; not ready: {'; '.join(found['reasons'])}")
    if ready and not found["ready"]:
        raise ControlError(f"not ready: {'; '.join(found['reasons'])}", "see `relay check` and the log")


def _ask() -> Any:
    data_dir = settings_or_refuse().data_dir
    try:
        return wire.call(data_dir, "health", {}, answer_s=_ANSWER_S)
    except wire.NoDaemon:
        raise ControlError(
            f"no daemon answers in {data_dir}", "start it with `relay serve`; its log says why"
        ) from None
