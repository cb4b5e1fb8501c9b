"""What IMAP responses say: status and code, capabilities, folders. Pure, bounded by what the wire lets through."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from relay.submission.imap.wire import Response

# RFC 9051 7.1: a status, then perhaps a code in brackets, then text for people.
_STATUS = re.compile(rb"(OK|NO|BAD|BYE|PREAUTH)\b ?(?:\[([A-Z0-9-]+)[^\]]*\] ?)?(.*)", re.IGNORECASE | re.DOTALL)
_CAPABILITY = re.compile(rb"\* CAPABILITY (.+)", re.IGNORECASE)
_EXISTS = re.compile(rb"\* (\d{1,10}) EXISTS", re.IGNORECASE)
_UIDVALIDITY = re.compile(rb"\* OK \[UIDVALIDITY (\d{1,10})\]", re.IGNORECASE)
_UIDNEXT = re.compile(rb"\* OK \[UIDNEXT (\d{1,10})\]", re.IGNORECASE)
_SEARCH = re.compile(rb"\* SEARCH((?: \d{1,10})*)", re.IGNORECASE)
_FETCH = re.compile(rb"\* \d{1,10} FETCH \(", re.IGNORECASE)
_UID = re.compile(rb"\bUID (\d{1,10})", re.IGNORECASE)
_LIST = re.compile(rb"\* LIST \(([^)]*)\) (NIL|\"(?:\\.|[^\"\\])\") (.*)", re.IGNORECASE | re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)")
_SHIFTED = re.compile(r"&([A-Za-z0-9+,]*)-")
_SENT_NAMES = ("sent items", "sent", "sent messages", "sent mail", "gesendet", "gesendete elemente", "envoyés")
_MAX_TEXT = 400  # characters


@dataclass(frozen=True, slots=True)
class Status:
    """`kind`: OK, NO, BAD, BYE or PREAUTH. `code` such as AUTHENTICATIONFAILED (RFC 5530); "": none."""

    kind: str
    code: str
    text: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, f"[{self.code}]" if self.code else "", self.text) if part)


@dataclass(frozen=True, slots=True)
class Folder:
    """`name` as commands need it (modified UTF-7); `attributes` in lower case, with their backslash."""

    name: bytes
    attributes: frozenset[str]
    delimiter: str

    @property
    def shown(self) -> str:
        """The name for people."""
        return printable(_SHIFTED.sub(_unshifted, self.name.decode("utf-8", "replace")))


@dataclass(frozen=True, slots=True)
class Opened:
    """A folder. `uidvalidity` and `uidnext` (RFC 9051 2.3.1.1) are 0 where the server does not tell."""

    messages: int
    uidvalidity: int = 0
    uidnext: int = 0


def status_of(line: bytes) -> Status | None:
    """The status in a line without its tag; None: it is something else."""
    found = _STATUS.match(line)
    if found is None:
        return None
    kind, code, text = found.groups(b"")
    return Status(kind.decode().upper(), code.decode().upper(), printable(text.decode("utf-8", "replace")))


def capabilities_of(responses: Iterable[Response]) -> frozenset[str]:
    """What the untagged CAPABILITY responses list, in capitals."""
    words = [found[1] for response in responses if (found := _CAPABILITY.match(response.text))]
    return frozenset(word.decode("ascii", "replace").upper() for line in words for word in line.split())


def opened_of(responses: Iterable[Response]) -> Opened:
    """The folder just opened."""
    lines = [response.text for response in responses]

    def number(pattern: re.Pattern[bytes]) -> int:
        return next((int(found[1]) for line in lines if (found := pattern.match(line))), 0)

    return Opened(number(_EXISTS), number(_UIDVALIDITY), number(_UIDNEXT))


def uids_of(responses: Iterable[Response]) -> list[int]:
    """What UID SEARCH found, ascending."""
    found = [match[1] for response in responses if (match := _SEARCH.match(response.text))]
    return sorted({int(word) for line in found for word in line.split()})


def fetched_of(responses: Iterable[Response]) -> dict[int, bytes]:
    """The one section that UID FETCH asked for, by UID; empty where the server had none."""
    fetched: dict[int, bytes] = {}
    for response in responses:
        uid = _UID.search(b" ".join(response.parts[::2]))
        if _FETCH.match(response.text) and uid is not None:
            fetched[int(uid[1])] = response.parts[1] if len(response.parts) > 1 else b""
    return fetched


def folders_of(responses: Iterable[Response]) -> list[Folder]:
    """The folders that LIST told of; a line that is not understood is left out."""
    return [folder for response in responses if (folder := _folder(response)) is not None]


def sent_folder(folders: Iterable[Folder]) -> Folder | None:
    """Where sent mail goes: by its \\Sent attribute (RFC 6154), else by its usual names."""
    known = list(folders)
    marked = next((folder for folder in known if "\\sent" in folder.attributes), None)
    if marked is not None:
        return marked
    last = {folder.shown.rpartition(folder.delimiter or "\0")[2].lower(): folder for folder in reversed(known)}
    return next((last[name] for name in _SENT_NAMES if name in last), None)


def printable(text: str) -> str:
    """In one line without control characters, bounded."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_TEXT]).strip()


def _folder(response: Response) -> Folder | None:
    found = _LIST.match(response.text)
    if found is None:
        return None
    attributes, delimiter, name = found.groups()
    if not name and len(response.parts) > 1:
        name = response.parts[1]
    elif name.startswith(b'"'):
        name = _ESCAPED.sub(rb"\1", name.rstrip()[1:-1])
    separator = "" if delimiter.upper() == b"NIL" else _ESCAPED.sub(rb"\1", delimiter[1:-1]).decode("ascii", "replace")
    words = frozenset(word.lower() for word in attributes.decode("ascii", "replace").split())
    return Folder(name, words, separator) if name else None


def _unshifted(found: re.Match[str]) -> str:
    """RFC 9051 A.1: base64 of UTF-16, with a comma for the slash."""
    if not found[1]:
        return "&"
    shifted = found[1].replace(",", "/")
    try:
        return base64.b64decode(shifted + "=" * (-len(shifted) % 4), validate=True).decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError):
        return found[0]
