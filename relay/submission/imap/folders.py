"""Reading and filing mail in a folder of a mailbox: bounded, and nothing that lies there is changed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence

from relay.submission.imap.connection import ImapConnection, quoted
from relay.submission.imap.responses import Folder, fetched_of, sent_folder, uids_of

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_OCTETS_A_SECOND = 50_000  # a slower server than this is given up
_INBOX = "inbox"


def folder_named(folders: Sequence[Folder], wanted: str) -> Folder | None:
    """The folder that people call `wanted`: by its whole name, else by the last part of it."""
    name = wanted.lower()
    if name == _INBOX:
        return Folder(b"INBOX", frozenset(), "")
    folders = _sayable(folders)
    exact = next((folder for folder in folders if folder.shown.lower() == name), None)
    return exact or next((one for one in folders if one.shown.lower().split(one.delimiter or "\0")[-1] == name), None)


async def sent_of(connection: ImapConnection) -> Folder | None:
    """Where sent mail goes."""
    return sent_folder(_sayable(await connection.folders()))


async def uids_between(connection: ImapConnection, first: int, last: int, *, since_ms: int | None = None) -> list[int]:
    """UIDs of the folder that is open, from `first` to `last`, of messages that came `since_ms` or later (by day)."""
    # RFC 9051 6.4.4: SINCE disregards time and zone, so a day more is asked for.
    more = (b"SINCE", _day(since_ms - 86_400_000)) if since_ms is not None else ()
    answer = await connection.command("UID", b"SEARCH UID %d:%d" % (first, last), *more)
    return [uid for uid in uids_of(answer.responses) if first <= uid <= last]


async def sections(connection: ImapConnection, uids: Sequence[int], section: bytes, octets: int) -> dict[int, bytes]:
    """The first `octets` of that section of each message, by UID; those that are gone are left out.

    BODY.PEEK: none of it counts as seen (RFC 9051 6.4.5).
    """
    chosen = b",".join(b"%d" % uid for uid in uids)
    asked = b"FETCH %s (UID BODY.PEEK[%s]<0.%d>)" % (chosen, section, octets)
    answer = await connection.command("UID", asked, most_literal=octets)
    found = fetched_of(answer.responses)
    return {uid: found[uid] for uid in uids if uid in found}


async def holds(connection: ImapConnection, folder: Folder, field: bytes, value: bytes) -> bool:
    """Has any message of `folder` this in that header field? ValueError: it cannot be asked for."""
    wanted = quoted(value)
    await connection.examine(folder.name)
    answer = await connection.command("UID", b"SEARCH HEADER", field, wanted)
    return bool(uids_of(answer.responses))


async def append(
    connection: ImapConnection, folder: Folder, content: AsyncIterator[bytes], *, size: int, at_ms: int
) -> None:
    """File a message of `size` octets as seen, with the time `at_ms` (RFC 9051 6.3.12)."""
    arguments = (quoted(folder.name), b"(\\Seen)", _moment(at_ms), b"{%d}" % size)
    timeout_s = connection.command_s + size / _OCTETS_A_SECOND
    await connection.command("APPEND", *arguments, content=content, timeout_s=timeout_s)


def _sayable(folders: Iterable[Folder]) -> list[Folder]:
    """Those whose names fit a command; other octets than modified UTF-7 has are nobody's folder for this."""
    return [folder for folder in folders if folder.name.isascii() and folder.name.decode("ascii").isprintable()]


def _day(at_ms: int) -> bytes:
    when = time.gmtime(max(at_ms, 0) / 1000)
    return f"{when.tm_mday}-{_MONTHS[when.tm_mon - 1]}-{when.tm_year:04}".encode("ascii")


def _moment(at_ms: int) -> bytes:
    when = time.gmtime(at_ms / 1000)
    day = f"{when.tm_mday:2}-{_MONTHS[when.tm_mon - 1]}-{when.tm_year:04}"
    return f'"{day} {when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02} +0000"'.encode("ascii")
