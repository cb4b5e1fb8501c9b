"""`relay client try`: what the front door would do with a mail, and why, without sending it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from relay.cli.output import Json, complain, print_json, say
from relay.cli.session import perform
from relay.control.refusal import ControlError

_LOOKED_AT = 60_000  # octets of the file: its header is what counts
_MEASURED = 1 << 31  # octets: nothing larger is taken anyway


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
    arguments: dict[str, Any] = {"address": address, "sender": sender, "recipient": recipient}
    if file is not None:
        arguments["content"], arguments["size"] = _read(file)
    result = perform("client.try", arguments)
    if as_json:
        print_json(result)
    else:
        for step in result["steps"]:
            say(f"{'ok' if step['ok'] else 'NO':<3} {step['step']:<8} {step['text']}")
        if result["accepted"]:
            say("It would be accepted.")
    if not result["accepted"]:
        if not as_json:
            sys.stdout.flush()
            complain(f"it would be refused: {result['reply']}" + (f"; {result['remedy']}" if result["remedy"] else ""))
        raise typer.Exit(1)


def _read(file: Path) -> tuple[str, int]:
    """The beginning of the mail, an octet a character, and the octets of the whole."""
    try:
        if str(file) == "-":
            return _measured(sys.stdin.buffer, mend=False)
        with file.open("rb") as opened:
            # A mail saved on Unix has LF; what an application sends over SMTP is another thing.
            return _measured(opened, mend=True)
    except OSError as error:
        remedy = "give a file that can be read, or - for standard input"
        raise ControlError(f"{file}: {error.strerror}", remedy) from None


def _measured(stream: BinaryIO, *, mend: bool) -> tuple[str, int]:
    octets = stream.read(_LOOKED_AT)
    mend = mend and b"\r\n" not in octets
    beginning = octets.replace(b"\n", b"\r\n") if mend else octets
    size = len(beginning)
    while size < _MEASURED and (octets := stream.read(_LOOKED_AT)):
        size += len(octets) + (octets.count(b"\n") if mend else 0)
    return beginning[:_LOOKED_AT].decode("latin-1"), size
