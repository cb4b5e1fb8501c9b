"""A mailbox behind the scripted IMAP server: folders that can be examined, searched, fetched from, appended to.

async with running_imap(certificates) as imap:
    mailbox = ImapMailbox(imap)
    mailbox.put("INBOX", b"Subject: x\r\n\r\n")
    mailbox.folders["Sent"].mails         # what was filed: flags, time, octets
    mailbox.on_append = lose_the_answer   # see `OnAppend`
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.peers.scripted_imap import ScriptedImap

# What becomes of an APPEND whose literal is here: bytes to answer, after filing it or not; none: stall
# until the connection ends; None: break it.
OnAppend = Callable[["Mail"], tuple[bool, bytes | None]]
DAY_S = 86_400
_APPEND = re.compile(rb'APPEND "([^"]*)" \(([^)]*)\) "([^"]*)" \{(\d+)\}')
_SEARCH = re.compile(rb"SEARCH UID (\d+):(\d+)(?: SINCE (\S+))?")
_HEADER = re.compile(rb'SEARCH HEADER (\S+) "([^"]*)"')
_FETCH = re.compile(rb"FETCH (\S+) \(UID BODY\.PEEK\[([^\]]*)\]<0\.(\d+)>\)")


@dataclass
class Mail:
    """`at` is what APPEND said, or the day as SEARCH knows it."""

    uid: int
    octets: bytes
    flags: bytes = b""
    at: bytes = b""
    came_s: float = field(default_factory=time.time)


@dataclass
class Place:
    """A folder."""

    uidvalidity: int = 7
    uidnext: int = 1
    mails: list[Mail] = field(default_factory=list)


class ImapMailbox:
    """Takes over EXAMINE, UID, APPEND and LIST of the server. `sent` is the folder that is marked, None: none is."""

    def __init__(self, imap: ScriptedImap, *, sent: str | None = "Sent") -> None:
        self.folders = {name: Place() for name in ("INBOX", "Bounces", sent) if name is not None}
        self.on_append: OnAppend = lambda mail: (True, b"OK [APPENDUID 7 1] filed")
        self._open = Place()
        listed = [b'* LIST () "/" %s\r\n' % name.encode() for name in ("INBOX", "Bounces")]
        if sent is not None:
            listed.append(b'* LIST (\\Sent) "/" "%s"\r\n' % sent.encode())
        imap.says["LIST"] = b"".join(listed) + b"{tag} OK done\r\n"
        imap.acts |= {"EXAMINE": self._examine, "UID": self._uid, "APPEND": self._append}

    def put(self, folder: str, octets: bytes, *, days_old: float = 0) -> Mail:
        """A new mail."""
        place = self.folders[folder]
        mail = Mail(place.uidnext, octets, came_s=time.time() - days_old * DAY_S)
        place.uidnext += 1
        place.mails.append(mail)
        return mail

    async def _examine(
        self, command: bytes, tag: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        name = command.partition(b" ")[2].strip(b'"').decode()
        place = self.folders.get(name)
        if place is None:
            writer.write(tag + b" NO [NONEXISTENT] no such folder\r\n")
            return
        self._open = place
        said = (b"* %d EXISTS", b"* OK [UIDVALIDITY %d] v", b"* OK [UIDNEXT %d] n")
        numbers = (len(place.mails), place.uidvalidity, place.uidnext)
        lines = [line % number for line, number in zip(said, numbers, strict=True)]
        writer.write(b"\r\n".join([*lines, tag + b" OK [READ-ONLY] done\r\n"]))

    async def _uid(
        self, command: bytes, tag: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if (header := _HEADER.search(command)) is not None:
            found = [mail.uid for mail in self._open.mails if _has(mail.octets, header[1], header[2])]
        elif (search := _SEARCH.search(command)) is not None:
            first, last = int(search[1]), int(search[2])
            since = time.mktime(time.strptime(search[3].decode(), "%d-%b-%Y")) - DAY_S if search[3] else 0.0
            found = [mail.uid for mail in self._open.mails if first <= mail.uid <= last and mail.came_s >= since]
        else:
            self._fetch(command, tag, writer)
            return
        writer.write(b"* SEARCH%s\r\n%s OK done\r\n" % (b"".join(b" %d" % uid for uid in found), tag))

    def _fetch(self, command: bytes, tag: bytes, writer: asyncio.StreamWriter) -> None:
        asked = _FETCH.search(command)
        assert asked is not None, command
        wanted = {int(uid) for uid in asked[1].split(b",")}
        for number, mail in enumerate(self._open.mails, 1):
            if mail.uid in wanted:
                octets = _content_type(mail.octets) if asked[2] else mail.octets
                octets = octets[: int(asked[3])]
                head = b"* %d FETCH (UID %d BODY[%s]<0> {%d}\r\n" % (number, mail.uid, asked[2], len(octets))
                writer.write(head + octets + b")\r\n")
        writer.write(tag + b" OK done\r\n")

    async def _append(
        self, command: bytes, tag: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        given = _APPEND.fullmatch(command)
        assert given is not None, command
        place = self.folders[given[1].decode()]
        writer.write(b"+ go on\r\n")
        octets = await reader.readexactly(int(given[4]))
        assert await reader.readexactly(2) == b"\r\n"
        mail = Mail(place.uidnext, octets, given[2], given[3])
        files, answer = self.on_append(mail)
        if files:
            place.mails.append(mail)
            place.uidnext += 1
        if answer == b"":
            await reader.read()
        if answer is None:
            writer.transport.abort()
            raise ConnectionResetError
        writer.write(tag + b" " + answer + b"\r\n")


def _header(octets: bytes) -> list[bytes]:
    return re.sub(rb"\r\n[ \t]+", b" ", octets.partition(b"\r\n\r\n")[0]).split(b"\r\n")


def _has(octets: bytes, field: bytes, value: bytes) -> bool:
    start = field.lower() + b":"
    return any(line.lower().startswith(start) and value in line for line in _header(octets))


def _content_type(octets: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in _header(octets) if line.lower().startswith(b"content-type:")) + b"\r\n"
