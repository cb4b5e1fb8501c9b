"""Reads secrets: from a prompt, a file, or standard input; never from the command line or the environment."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Annotated

import typer

from relay.control.refusal import ControlError

PasswordFile = Annotated[
    str | None,
    typer.Option("--password-file", metavar="F|-", help="Read the password from this file, or - for standard input."),
]

_MAX_BYTES = 65_536


def read_password(source: str | None, owner: str) -> str:
    """The password of `owner`, one line end at its end taken off. Raises ControlError, typer.BadParameter."""
    if source is None:
        return _from_prompt(owner)
    return _checked(_read(source, "the password file"))


def read_text(source: str, option: str) -> str:
    """The file that `option` names, `-` for standard input. Raises ControlError."""
    try:
        return _read(source, f"{option}: the file").decode()
    except UnicodeDecodeError:
        raise ControlError(
            f"{option}: the file is no text", "give it in PEM or JSON form, or the secret alone"
        ) from None


def one_line(text: str) -> str:
    """A client secret without the line end behind it. Raises ControlError."""
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or not text.isprintable():
        raise ControlError("the client secret is empty, or more than one line", "give the secret's value alone")
    return text


def prompted(question: str) -> str:
    """What is typed at the terminal, unseen."""
    import getpass

    return getpass.getpass(question)


def _read(source: str, what: str) -> bytes:
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(source).expanduser().open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ControlError(f"{what} cannot be read: {error.strerror}", "give a readable file, or -") from None
    if len(raw) > _MAX_BYTES:
        raise ControlError(f"{what} is longer than 64 KiB", "give the file that holds only this")
    return raw


def _from_prompt(owner: str) -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter("is needed when standard input is no terminal", param_hint="--password-file")
    first = prompted(f"Password of {owner}: ")
    password = _checked(first.encode("utf-8", "surrogateescape"))
    if first != prompted("Again: "):
        raise ControlError("the two passwords differ", "type it again")
    return password


def _checked(raw: bytes) -> str:
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ControlError("the password is not UTF-8", "convert the file to UTF-8") from None
    if not text:
        raise ControlError("the password is empty", "give the mailbox's, or the client's")
    if any(unicodedata.category(character) == "Cc" for character in text):  # RFC 4616 2; RFC 4013 2.3
        raise ControlError("the password holds a control character or a second line", "give the password alone")
    return text
