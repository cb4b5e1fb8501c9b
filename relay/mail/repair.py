"""What a client's entry has done with the header of its mail: repairs, and the author that its sender must have."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

from relay.mail.author import Authors, Mailbox, display, mailboxes, read_authors
from relay.mail.care import Care
from relay.mail.eight_bit import MIME, declare, encode
from relay.mail.fields import QUOTED, Field, decoded, fold, phrase, split

MAX_CAPTURED = 100  # recipients named in X-Original-Recipients

_COMPLETED = {b"from", b"date", b"message-id"}  # RFC 6409 8.1-8.3: what is added when it is missing
_REPAIRS = frozenset({"doubled-fields", "broken-fields", "raw-8bit"})
_ONCE = frozenset(  # RFC 5322 3.6, RFC 2045 3
    b"date from sender reply-to to cc message-id in-reply-to references subject".split()
).union(MIME)
_ORIGINAL = {b"date": "X-Original-Date", b"message-id": "X-Original-Message-ID", b"from": "X-Original-From"}
_MESSAGE_ID = re.compile(rb"<[^<>@\x00-\x20\x7f]+@[^<>\x00-\x20\x7f]+>")
_MAX_BODY = 998  # octets of a Date or a Message-ID
_PHRASE = re.compile(rf"(?>(?:[ \t]|{QUOTED}|[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.-])+)")
_MAX_PHRASE = 255


def tend(section: bytes, present: set[bytes], care: Care, repaired: list[str]) -> tuple[bytes, set[bytes]]:
    """The section as `care` has it, and the names that need not be added to it any more.

    `section` holds nothing but fields, CRLF-ended, before and after; `present`: their names.  What was done is
    appended to `repaired`.  Raises what the judge raises.
    """
    replaced: set[bytes] = set()
    if not care.tolerance.isdisjoint(_REPAIRS):
        fields = split(section)
        replaced = _repair(fields, section, care, repaired)
        section, present = b"".join(field.raw for field in fields), {field.name for field in fields}
    settled = present if "missing-fields" in care.tolerance else present | (_COMPLETED - replaced)
    if care.judge is not None:
        authors = read_authors(section)
        address = care.judge(authors)
        if address is not None:
            section = _rewritten(section, authors, address, care.charset, repaired)
            settled = settled | {b"from"}
        elif authors.sender and b"from" not in settled:
            section += fold("From", f"<{authors.sender}>").raw  # it was judged, the envelope need not have been
            settled = settled | {b"from"}
            repaired.append("From")
    if care.captured:
        section += _recipients(care.captured).raw
        repaired.append("captured")
    return section, settled


def _repair(fields: list[Field], section: bytes, care: Care, repaired: list[str]) -> set[bytes]:
    """Does in place what is switched on. Returns the names of the fields that were taken away."""
    replaced: set[bytes] = set()
    if "doubled-fields" in care.tolerance and _drop_doubles(fields):
        repaired.append("doubled-fields")
    if "broken-fields" in care.tolerance and (replaced := _set_aside(fields)):
        repaired.append("broken-fields")
    if "raw-8bit" in care.tolerance:
        changed = encode(fields, care.charset)
        declared = declare(fields, decoded(section, care.charset)[1])
        if changed or declared:
            repaired.append("raw-8bit")
    return replaced


def _drop_doubles(fields: list[Field]) -> bool:
    """Of what may occur once, keep the first."""
    seen: set[bytes] = set()
    kept = []
    for field in fields:
        if field.name not in seen:
            kept.append(field)
        if field.name in _ONCE:
            seen.add(field.name)
    doubled = len(kept) < len(fields)
    fields[:] = kept
    return doubled


def _set_aside(fields: list[Field]) -> set[bytes]:
    """Rename what cannot be read to X-Original-..."""
    broken = set()
    for index, field in enumerate(fields):
        if field.name in _ORIGINAL and not _is_whole(field):
            fields[index] = field.renamed(_ORIGINAL[field.name])
            broken.add(field.name)
    return broken


def _is_whole(field: Field) -> bool:
    body = field.body
    if field.name == b"from":
        return mailboxes(body) is not None
    if len(body) > _MAX_BODY:
        return False
    if field.name == b"message-id":
        return _MESSAGE_ID.fullmatch(body) is not None
    try:
        parsedate_to_datetime(body.decode("ascii"))
    except (ValueError, TypeError, IndexError, OverflowError):  # the last three: its own faults on odd input
        return False
    return True


def _rewritten(section: bytes, authors: Authors, address: str, charset: str, repaired: list[str]) -> bytes:
    """The section with `address` as the only author; the ones before stay readable, and get the replies."""
    fields = split(section)
    is_same = authors.readable and [author.lower() for author in authors.addresses] == [address.lower()]
    replies_go = any(field.name == b"reply-to" for field in fields) or not authors.addresses
    kept: list[Field] = []
    is_rewritten = is_same
    for field in fields:
        if field.name == b"sender" and authors.sender.lower() != address.lower():
            repaired.append("-sender")
        elif field.name != b"from" or is_same:
            kept.append(field)
        else:
            if not is_rewritten:
                kept.append(fold("From", f"{_name(field, authors, charset)}<{address}>"))
                if not replies_go:
                    kept.append(field.renamed("Reply-To"))
            kept.append(field.renamed("X-Original-From"))
            is_rewritten = True
    if not is_rewritten:
        kept.append(fold("From", f"<{address}>"))
    if not is_same:
        repaired.append("rewritten-from")
    return b"".join(field.raw for field in kept)


def _name(field: Field, authors: Authors, charset: str) -> str:
    """The display name of the first author, with a space behind it; for one without, its address."""
    boxes = mailboxes(field.body) if authors.addresses else None
    return (shown_name(boxes[0], charset) or phrase(boxes[0].address)) + " " if boxes else ""


def shown_name(box: Mailbox, charset: str = "") -> str:
    """The display name as a phrase, octet for octet if it is one, else written anew; "" for none."""
    if len(box.phrase) <= _MAX_PHRASE and box.phrase.strip(" \t") and _PHRASE.fullmatch(box.phrase):
        return box.phrase.strip(" \t")  # its encoded words too
    shown = display(box, charset)
    return phrase(shown) if shown else ""


def _recipients(recipients: tuple[str, ...]) -> Field:
    named = [f"<{recipient}>" for recipient in recipients[:MAX_CAPTURED]]
    words = [f"{name}," for name in named[:-1]] + named[-1:]
    more = len(recipients) - len(named)
    return fold("X-Original-Recipients", [*words, f"(and {more} more)"] if more else words)
