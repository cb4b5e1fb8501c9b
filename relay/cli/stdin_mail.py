"""Reads a mail as programs write it to `sendmail`: line ends, the dot that ends it, its header section."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import IO, BinaryIO, NamedTuple

from relay.mail.errors import RelayError

MAX_HEADER = 102_400  # octets; the daemon takes no longer header section
_MEMORY = 1 << 20  # octets of a mail kept in memory; a longer one goes to a temporary file
_PIECE = 65_536  # octets of a line looked at in one go

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")  # RFC 5322 2.2
_MBOX = re.compile(rb">*From ")  # what mbox files have in front of a mail; no field
_RECIPIENTS = (b"to", b"cc", b"bcc")
_BLIND = (b"bcc", b"resent-bcc")


class BadMail(RelayError):
    """What came is no mail; the text says why not."""


class Mail(NamedTuple):
    """`file` stands at its beginning and holds CRLF lines, dots not doubled. `recipients` are those of the header."""

    file: IO[bytes]
    size: int
    eight_bit: bool
    recipients: tuple[str, ...]


class _Spool:
    """Memory first, then a temporary file that has no name."""

    def __init__(self) -> None:
        self.file: IO[bytes] = io.BytesIO()
        self.size = 0
        self.eight_bit = False

    def write(self, octets: bytes) -> None:
        self.eight_bit = self.eight_bit or not octets.isascii()
        self.file.write(octets)
        if self.size <= _MEMORY < self.size + len(octets):
            self._roll_over()
        self.size += len(octets)

    def _roll_over(self) -> None:
        import tempfile

        kept, self.file = self.file, tempfile.TemporaryFile()  # noqa: SIM115
        with kept:
            kept.seek(0)
            self.file.write(kept.read())


def read_mail(source: BinaryIO, *, dot_ends: bool, extract: bool, author: str) -> Mail:
    """The whole of `source`; at most 1 MiB and a header section of it are ever in memory.

    `dot_ends`: a line with a dot alone ends it.  `extract`: take the recipients from To, Cc and Bcc, or from
    Resent-* when there is a field of that kind.  `author`: the From field to add when there is none, or "".
    Bcc goes in any case.  Raises BadMail, and OSError when the mail can be neither read nor kept.
    """
    spool = _Spool()
    pieces = _lines(source, dot_ends=dot_ends)
    fields, rest = _fields(pieces)
    names = [_name(field) for field in fields]
    if author and b"from" not in names:
        spool.write(f"From: {author}\r\n".encode())
    for name, field in zip(names, fields, strict=True):
        if name not in _BLIND:
            spool.write(field)
    spool.write(rest)
    for piece in pieces:
        spool.write(piece)
    spool.file.seek(0)
    recipients = _recipients(names, fields) if extract else ()
    return Mail(spool.file, spool.size, spool.eight_bit, recipients)


def _lines(source: BinaryIO, *, dot_ends: bool) -> Iterator[bytes]:
    """Lines, or pieces of long ones. Each line ends in CRLF, also the last one."""
    whole = True  # the next piece begins a line
    while piece := source.readline(_PIECE):
        if piece.endswith(b"\r"):
            piece += source.readline(1)
        line = piece.endswith(b"\n")
        if line:
            piece = piece.rstrip(b"\r\n") + b"\r\n"
        if dot_ends and whole and piece in (b".\r\n", b"."):
            return
        yield piece
        whole = line
    if not whole:
        yield b"\r\n"


def _fields(pieces: Iterator[bytes]) -> tuple[list[bytes], bytes]:
    """Each field with its folded lines, and the first piece that is none: the empty line, or a body without one."""
    fields: list[bytes] = []
    size = 0
    for piece in pieces:
        whole = not fields or fields[-1].endswith(b"\r\n")
        if not fields and _MBOX.match(piece):
            if not piece.endswith(b"\r\n"):
                raise BadMail("the line in front of the header is too long")
            continue
        if fields and (not whole or piece.startswith((b" ", b"\t"))):
            fields[-1] += piece
        elif _FIELD.match(piece):
            fields.append(piece)
        else:
            return fields, piece
        size += len(piece)
        if size > MAX_HEADER:
            raise BadMail(f"the header section is larger than {MAX_HEADER} octets")
    return fields, b""


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].rstrip().lower()


def _recipients(names: list[bytes], fields: list[bytes]) -> tuple[str, ...]:
    """As Postfix does: when the mail was resent, only whom it was resent to."""
    resent = any(name.startswith(b"resent-") for name in names)
    wanted = {b"resent-" + name if resent else name for name in _RECIPIENTS}
    values = [field.partition(b":")[2] for name, field in zip(names, fields, strict=True) if name in wanted]
    return tuple(address for value in values for address in addresses(value.decode("utf-8", "surrogateescape")))


def addresses(text: str) -> list[str]:
    """The addresses of a list as people write it, with names, comments, groups; also with semicolons between."""
    from email import utils

    # Newer Pythons would give up a whole list for one fault in it, and so lose the recipients that are fine.
    lenient = {"strict": False} if getattr(utils, "supports_strict_parsing", False) else {}
    return [address for _, address in utils.getaddresses([text.replace("\r\n", "")], **lenient) if address]
