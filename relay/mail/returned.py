"""Reads delivery status notifications: which message came back, for whom, and what was said (RFC 3464, RFC 6522). Pure.

Whoever wrote one may be anybody.  Everything is bounded, nothing nests, and nothing is raised: what is not understood
is not there.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relay.mail.reply import Reply

MOST_OCTETS = 262_144  # of a notification that is looked at; text and status stand before the original
_MOST_PARTS = 16
_MOST_RECIPIENTS = 100
_MOST_IDS = 10
_MOST_VALUE = 2000  # characters of a field
_FIELD = re.compile(r"([!-9;-~]{1,76})[ \t]*:[ \t]*(.*)")
_PARAMETER = re.compile(r";\s*([a-z-]{1,40})\s*=\s*(?:\"((?:[^\"\\]|\\.){0,200})\"|([^\s;\"]{1,200}))", re.I)
_MESSAGE_ID = re.compile(r"<[^<>\s]{1,253}>")
_OUR_ID = re.compile(r"\(relay [^()]{1,80}\)\s+with [A-Z0-9]{1,20} id ([0-9a-z]{13})\b")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_REPLY = re.compile(r"\s*(?:[a-z0-9-]{1,40}\s*;)?[^0-9]{0,200}?\b([45]\d\d)(?:[ -]|$)(.*)", re.I | re.S)
_STATUSES = frozenset({"message/delivery-status", "message/global-delivery-status"})
_ORIGINALS = frozenset({"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"})


@dataclass(frozen=True, slots=True)
class Return:
    """One recipient for which a message came to nothing. Addresses as they stand there, "": not said.

    `said` is the Diagnostic-Code without its type, `host` the Remote-MTA without its type.
    """

    final: str
    original: str
    status: str
    said: str
    host: str

    @property
    def reply(self) -> Reply:
        """What the remote server answered, as far as the notification tells; without a code 550, as failed is."""
        found = _REPLY.match(self.said)
        if found is None:
            permanent = not self.status.startswith("4")
            status = self.status if self.status[:1] in ("4", "5") else ""
            return Reply.from_wire(550 if permanent else 450, [f"{status} {self.said}".strip()])
        code = int(found[1])
        text = found[2].strip()
        if not _STATUS.match(text) and self.status.startswith(found[1][0]):
            text = f"{self.status} {text}".strip()
        return Reply.from_wire(code, [text])


@dataclass(frozen=True, slots=True)
class Notification:
    """What failed, and by what its message is known. `envelope_id` is decoded; `ids` are those of our trace fields."""

    envelope_id: str
    ids: tuple[str, ...]
    message_ids: tuple[str, ...]
    failed: tuple[Return, ...]


def may_be_notification(header: bytes) -> bool:
    """Is it worth reading on, by a Content-Type field?"""
    return _type_of(_fields(_text(header)))[0] == "multipart/report"


def read_notification(octets: bytes) -> Notification | None:
    """The notification in the first MOST_OCTETS of a message; None: it is none, or tells of no failure."""
    header, body = _parted(_text(octets[:MOST_OCTETS]))
    outer = _fields(header)
    kind, parameters = _type_of(outer)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/report" or not boundary:
        return None
    envelope_id, failed = "", list[Return]()
    message_ids = _message_ids(outer.get("in-reply-to", ""))
    ids: list[str] = []
    for part in _parts(body, boundary):
        fields, inner = _headed(part)
        named = _type_of(fields)[0]
        if named in _STATUSES and not failed:
            envelope_id, failed = _status(_decoded(inner, fields.get("content-transfer-encoding", "")))
        elif named in _ORIGINALS:
            original = _parted(_decoded(inner, fields.get("content-transfer-encoding", "")))[0]
            message_ids = [*_message_ids(_fields(original).get("message-id", "")), *message_ids]
            ids += _OUR_ID.findall(" ".join(original.split()))
    if not failed:
        return None
    return Notification(
        envelope_id, tuple(dict.fromkeys(ids))[:_MOST_IDS], tuple(dict.fromkeys(message_ids))[:_MOST_IDS], tuple(failed)
    )


def _status(text: str) -> tuple[str, list[Return]]:
    """RFC 3464 2.1: a group of fields about the message, then one for each recipient."""
    groups = [group for group in re.split(r"\n[ \t]*\n", text, maxsplit=_MOST_RECIPIENTS + 2) if group.strip()]
    envelope_id = _fields(groups[0]).get("original-envelope-id", "") if groups else ""
    failed = [
        Return(
            _without_type(fields.get("final-recipient", "")),
            _without_type(fields.get("original-recipient", "")),
            found[0] if (found := _STATUS.match(fields.get("status", ""))) else "",
            _without_type(fields.get("diagnostic-code", "")),
            _without_type(fields.get("remote-mta", "")),
        )
        for fields in map(_fields, groups[1 : _MOST_RECIPIENTS + 1])
        if fields.get("action", "").partition("(")[0].strip().lower() == "failed"
    ]
    return envelope_id, failed


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _parted(text: str) -> tuple[str, str]:
    header, _, body = text.partition("\n\n")
    return header, body


def _headed(part: str) -> tuple[dict[str, str], str]:
    """A part may begin with its empty line: then it has no header."""
    if part.startswith("\n"):
        return {}, part[1:]
    header, body = _parted(part)
    return _fields(header), body


def _fields(text: str) -> dict[str, str]:
    """Names in lower case; unfolded, bounded; of several of one name the first."""
    found: dict[str, str] = {}
    for line in _unfolded(text.split("\n")):
        match = _FIELD.match(line)
        if match is not None:
            found.setdefault(match[1].lower(), match[2].strip()[:_MOST_VALUE])
    return found


def _unfolded(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    for line in lines:
        if line[:1] in (" ", "\t") and held:
            held.append(line.strip())
            continue
        if held:
            yield " ".join(held)
        held = [line]
    if held:
        yield " ".join(held)


def _type_of(fields: dict[str, str]) -> tuple[str, dict[str, str]]:
    value = fields.get("content-type", "")
    parameters: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value):
        parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)
    return value.partition(";")[0].strip().lower(), parameters


def _parts(body: str, boundary: str) -> list[str]:
    """RFC 2046 5.1.1; those of an inner multipart stay in their part."""
    line = re.compile(r"(?:^|\n)--" + re.escape(boundary) + r"(--)?[ \t]*(?:\n|\Z)")
    parts: list[str] = []
    start: int | None = None
    at = 0
    while len(parts) < _MOST_PARTS and (found := line.search(body, at)) is not None:
        if start is not None:
            parts.append(body[start : found.start()])
        if found[1]:
            return parts
        start = found.end()
        at = max(found.end() - 1, found.start() + 1)  # an empty part: its line end is the next one's
    if start is not None and len(parts) < _MOST_PARTS:
        parts.append(body[start:])  # cut off, as we do with long ones
    return parts


def _decoded(text: str, encoding: str) -> str:
    """RFC 3464 2.1 wants 7bit, RFC 6533 3 allows encodings."""
    match encoding.strip().lower():
        case "base64":
            letters = re.sub(r"[^A-Za-z0-9+/]", "", text)
            try:
                return _text(base64.b64decode(letters[: len(letters) // 4 * 4]))
            except binascii.Error:
                return ""
        case "quoted-printable":
            return _text(quopri.decodestring(text.encode("utf-8", "replace")))
        case _:
            return text


def _message_ids(value: str) -> list[str]:
    return _MESSAGE_ID.findall(value)[:_MOST_IDS]


def _without_type(value: str) -> str:
    """`rfc822; ann@example.org`: what stands behind the type."""
    kind, mark, rest = value.partition(";")
    return (rest if mark and " " not in kind.strip() else value).strip()
