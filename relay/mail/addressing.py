"""Carries an envelope into a header section, for upstreams that mail whoever To, Cc and Bcc name and nobody else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from relay.mail.author import Authors, Mailbox, mailboxes
from relay.mail.care import Care
from relay.mail.fields import QUOTED, Field, fold, split
from relay.mail.header import MAX_HEADER
from relay.mail.repair import shown_name, tend

MAX_LISTED = 5000  # mailboxes of one field that are read strictly; of longer ones only the envelope's are looked for

# Each may name somebody to mail (RFC 5322 3.6.3, 3.6.6; the last was sendmail's), and none of them says who is meant.
_DROPPED = frozenset({b"bcc", b"resent-to", b"resent-cc", b"resent-bcc", b"apparently-to"})
_QUOTED = re.compile(QUOTED)
_SPECIAL = re.compile(r"[:;()\\]")  # a group, a comment, an escape: right, and not read alike everywhere
_WORD = re.compile(r"[^\s<>(),;:\"\[\]\\]++")


class Addressed(NamedTuple):
    """A section whose To, Cc and Bcc are the envelope's recipients, each at least once, and nobody else.

    `hidden`: how many recipients stand in Bcc.  `removed`: how many addresses were taken out of To and Cc;
    `unread`: fields of which nothing certain could be read.
    """

    section: bytes
    hidden: int = 0
    removed: int = 0
    unread: tuple[str, ...] = ()


def addressed(section: bytes, recipients: Sequence[str], key: Callable[[str], str]) -> Addressed:
    """Narrow To and Cc to `recipients`, put those that neither names into a Bcc, drop every other field of that kind.

    `section` holds nothing but fields, CRLF-ended, before and after; all other fields stay octet for octet, and so do
    To and Cc when they name nobody but recipients in a form that leaves no doubt.  `key`: equal for two spellings of
    one address.  Whom a field is rewritten to name it names as the envelope does.
    """
    wanted = {key(recipient): recipient for recipient in recipients}
    fields = [field for field in split(section) if field.name not in _DROPPED]
    shown: set[str] = set()
    removed, unread = 0, list[str]()
    for name in ("To", "Cc"):
        mine = [field for field in fields if field.name == name.lower().encode()]
        if not mine:
            continue
        named = _Named()
        for field in mine:
            named.read(field, key)
        unread += [name] * named.unread
        here = [address for address in named.boxes if address in wanted]
        shown.update(here)
        removed += len(named.boxes) - len(here)
        if len(mine) > 1 or not named.plain or len(here) < len(named.boxes):
            _replace(fields, mine, name, [_written(named.boxes[address], wanted[address]) for address in here])
    hidden = [recipient for address, recipient in wanted.items() if address not in shown]
    if hidden:
        fields.append(_list_of("Bcc", [f"<{recipient}>" for recipient in hidden]))
    return Addressed(b"".join(field.raw for field in fields), len(hidden), removed, tuple(unread))


def authored(section: bytes, may_be: Callable[[str], bool], otherwise: str) -> tuple[bytes, tuple[str, ...]]:
    """Let From and Sender name only whom the account may speak as; what was done, in the words of `mail.header.Facts`.

    When From names anybody else (or cannot be read) `otherwise` becomes the only author; the ones before stay in
    X-Original-From, and get the replies.  A Sender that is somebody else goes.
    """

    def judge(authors: Authors) -> str | None:
        allowed = authors.readable and bool(authors.addresses) and all(map(may_be, authors.addresses))
        if allowed and (not authors.sender or may_be(authors.sender)):
            return None
        return authors.addresses[0] if allowed and len(authors.addresses) == 1 else otherwise

    done: list[str] = []
    present = {field.name for field in split(section)}
    section, _ = tend(section, present, Care(tolerance=frozenset(), judge=judge), done)
    return section, tuple(done)


class _Named:
    """Whom the fields of one name mean, by key. `plain`: nothing in them could be read in two ways."""

    def __init__(self) -> None:
        self.boxes: dict[str, Mailbox] = {}
        self.plain = True
        self.unread = 0

    def read(self, field: Field, key: Callable[[str], str]) -> None:
        body = field.body
        found = mailboxes(body, longest=MAX_HEADER, most=MAX_LISTED)
        text = body.decode("utf-8", "surrogateescape")
        if found is None:
            self.plain = False
            self.unread += 1
            found = [Mailbox(word) for word in _WORD.findall(text) if word.strip("@").count("@") == 1]
        outside = _QUOTED.sub("", text)
        if not body.isascii() or _SPECIAL.search(outside) or outside.count("@") != len(found):
            self.plain = False
        for box in found:
            self.boxes.setdefault(key(box.address), box)


def _written(box: Mailbox, address: str) -> str:
    name = shown_name(box)
    return f"{name} <{address}>" if name else f"<{address}>"


def _replace(fields: list[Field], old: Iterable[Field], name: str, members: list[str]) -> None:
    """Put the new field where the first of the old ones stood; none, if it has no member."""
    places = [place for place, field in enumerate(fields) if any(field is gone for gone in old)]
    for place in reversed(places[1:]):
        del fields[place]
    fields[places[0] : places[0] + 1] = [_list_of(name, members)] if members else []


def _list_of(name: str, members: list[str]) -> Field:
    return fold(name, [f"{member}," for member in members[:-1]] + members[-1:])
