"""`relay client try`: what the front door would do with a mail, and why, without sending it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from relay.cli.output import Json, print_json, say
from relay.cli.session import perform
from relay.control.refusal import ControlError

_LOOKED_AT = 60_000  # octets of the file: its header is what counts


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("try", epilog="Example: relay client try 10.1.2.3 www-data@web1 ann@example.org mail.eml")(try_)


def try_(
    address: Annotated[str, typer.Argument(metavar="IP", help="Where the application would connect from.")],
    sender: Annotated[str, typer.Argument(metavar="SENDER", help="What it says in MAIL FROM; <> for none.")],
    recipient: Annotated[str, typer.Argument(metavar="RECIPIENT", help="What it says in RCPT TO.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The mail, for what its header decides; - for standard input.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what would happen to a mail, without sending it.

    Exit status 1: it would be refused.
    """
    arguments = {"address": address, "sender": sender, "recipient": recipient}
    if file is not None:
        arguments["content"] = _beginning(file)
    result = perform("client.try", arguments)
    if as_json:
        print_json(result)
    else:
        for step in result["steps"]:
            say(f"{'ok' if step['ok'] else 'NO':<3} {step['step']:<8} {step['text']}")
        if result["accepted"]:
            say("It would be accepted.")
        if len(arguments.get("content", "")) >= _LOOKED_AT:
            say(f"Only the first {_LOOKED_AT} octets of the mail were looked at.")
    if not result["accepted"]:
        if not as_json:
            sys.stdout.flush()
            sys.stderr.write(f"relay: it would be refused: {result['reply']}\n")
        raise typer.Exit(1)


def _beginning(file: Path) -> str:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(_LOOKED_AT).decode("latin-1")
        with file.open("rb") as opened:
            octets = opened.read(_LOOKED_AT)
            # A mail saved on Unix has LF; what an application sends over SMTP is another thing.
            return (octets if b"\r\n" in octets else octets.replace(b"\n", b"\r\n")).decode("latin-1")
    except OSError as error:
        remedy = "give a file that can be read, or - for standard input"
        raise ControlError(f"{file}: {error.strerror}", remedy) from None
