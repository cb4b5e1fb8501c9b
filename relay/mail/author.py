"""Who the header says a message is from: read strictly, or not at all."""

from __future__ import annotations

import re
import unicodedata
from email.errors import HeaderParseError
from email.header import decode_header
from typing import NamedTuple

from relay.mail.address import MAX_DOMAIN, MAX_LOCAL, MAX_PATH
from relay.mail.errors import RelayError
from relay.mail.fields import COMMENT, QUOTED, decoded, unquoted
from relay.mail.reply import Reply

MAX_AUTHORS = 50
MAX_BODY = 3992  # octets of a From or Sender: 998 characters (RFC 5322 2.1.1) of four octets each
MAX_DISPLAY = 255  # characters

_WIDE = r"[^\x00-\x7f]"  # RFC 6532 3.2
_ATOM = rf"(?>(?:[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]|{_WIDE})+)"
_LABEL = rf"(?>(?:[A-Za-z0-9_-]|{_WIDE})+)"
_SPEC = (
    rf'(?:{_ATOM}(?>(?:\.{_ATOM})*)|"(?>(?:[ !#-\[\]-~]|\\[ -~]|{_WIDE})+)")'
    rf"@(?:{_LABEL}(?>(?:\.{_LABEL})*)|\[[!-Z^-~]++\])"
)
_CFWS = rf"(?>(?:[ \t]|{COMMENT})*)"
# RFC 5322 3.2.5, 4.1: dots too. Brackets, as in "[Tickets] Ann", are not in the grammar, yet leave no doubt.
_PHRASE = rf'(?>(?:[ \t]|{COMMENT}|{QUOTED}|[^\x00-\x1f\x7f "(),:;<>@\[\\\]]|\[[^"(),:;<>@\[\\\]]*+\])*)'
# No white space and no comment within an address, no route before it: all obsolete, and read in several ways.
_MAILBOX = re.compile(
    rf"(?P<phrase>{_PHRASE})<(?P<angle>{_SPEC})>(?P<behind>{_CFWS})"
    rf"|{_CFWS}(?P<bare>{_SPEC})(?>(?:[ \t]*+<(?P=bare)>)?)(?P<tail>{_CFWS})"  # "a@b <a@b>": wrong, and clear
)
_GROUP = re.compile(rf"{_PHRASE}:")  # RFC 6854: in From too
_NEXT = re.compile(rf"{_CFWS}([,;]|\Z)")
_SIMPLE = re.compile(rf"([A-Za-z0-9 ]*+)<({_SPEC})>", re.A)  # nearly all
_COMMENT = re.compile(COMMENT)
_QUOTED = re.compile(QUOTED)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CHARSETS = re.compile(  # those of mail; Python remembers for good every other name it is asked for
    r"utf-8|us-ascii|iso-8859-(?:[1-9]|1[013-6])|windows-125[0-8]|koi8-[ru]|gb2312|gbk|gb18030|big5|euc-(?:jp|kr)"
    r"|ks_c_5601-1987|shift_jis|iso-2022-(?:jp|kr)"
)
_DELIMITERS = re.compile(r"""[\x00-\x20"(),.:;<>@\[\\\]\x7f]""")
_BODY = re.compile(rb"[ \t]*+:([^\n]*+\n(?>(?:[ \t][^\n]*+\n)*))")


class Authors(NamedTuple):
    """What From and Sender say. An address in it is the one that every reader of the header sees, or there is none."""

    addresses: tuple[str, ...] = ()  # of From, in order, each once; empty if it cannot be read
    sender: str = ""  # of Sender
    display: str = ""  # the display name of the first, printable, at most MAX_DISPLAY characters
    readable: bool = True  # False: From or Sender stands there more than once, or cannot be read
    present: bool = False  # there is a From


class AuthorRefused(RelayError):
    """Nobody may send as who the header says. `reply` is the answer to the content."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class Mailbox(NamedTuple):
    """One address of a list. `phrase` is what stands before it, as it came; `comment` one that stands about it."""

    address: str
    phrase: str = ""
    comment: str = ""


def the_author(authors: Authors) -> str | None:
    """Whose mail it is where the header decides; None: it does not say. The reasons are in docs/decisions/0007."""
    if not authors.readable:
        return None
    if authors.sender:
        return authors.sender  # RFC 5322 3.6.2: who sent it; From then names in whose name
    return authors.addresses[0] if len(authors.addresses) == 1 else None


def read_authors(section: bytes) -> Authors:
    """From a header section that holds nothing but fields, CRLF-ended."""
    lowered = b"\r\n" + section.lower()  # a line end found in it is where the line begins in `section`
    authors, senders = _bodies(section, lowered, b"\r\nfrom"), _bodies(section, lowered, b"\r\nsender")
    found = mailboxes(authors[0]) if len(authors) == 1 else None
    sent = mailboxes(senders[0]) if len(senders) == 1 else None
    sender = sent[0].address if sent is not None and len(sent) == 1 else ""
    readable = (found is not None or not authors) and (sender != "" or not senders)
    if not found:
        return Authors((), sender, "", readable, bool(authors))
    return Authors(tuple(dict.fromkeys(box.address for box in found)), sender, display(found[0]), readable, True)


def _bodies(section: bytes, lowered: bytes, start: bytes) -> list[bytes]:
    """The unfolded bodies of the fields of one name."""
    bodies = []
    found = lowered.find(start)
    while found >= 0:
        if match := _BODY.match(section, found + len(start) - 2):
            bodies.append(match[1].replace(b"\r\n", b""))
        found = lowered.find(start, found + 1)
    return bodies


def mailboxes(body: bytes, *, longest: int = MAX_BODY, most: int = MAX_AUTHORS) -> list[Mailbox] | None:
    """The mailboxes of an address list, groups opened (RFC 5322 3.4, RFC 6854); None: it leaves a doubt.

    `body`: unfolded, at most `longest` octets, `most` mailboxes.  Work is linear in its length.
    """
    if len(body) > longest:
        return None
    text = body.decode("utf-8", "surrogateescape").strip(" \t")
    if (simple := _SIMPLE.fullmatch(text)) and text.isascii():
        return [Mailbox(simple[2], simple[1])] if _is_clear(simple[2]) else None
    if _CONTROL.search(text):
        return None
    return _list(text, most)


def _list(text: str, most: int) -> list[Mailbox] | None:
    boxes: list[Mailbox] = []
    position, groups, in_group = 0, 0, False
    while True:
        if not in_group and (group := _GROUP.match(text, position)) and group[0].strip(" \t:"):
            position, groups, in_group = group.end(), groups + 1, True
        if match := _MAILBOX.match(text, position):
            box = _mailbox(match)
            if not _is_clear(box.address) or len(boxes) >= most:
                return None
            boxes.append(box)
            position = match.end()
        end = _NEXT.match(text, position)
        if end is not None and end[1] == ";" and in_group:
            in_group = False
            end = _NEXT.match(text, end.end())
        if end is None or end[1] == ";":
            return None
        if not end[1]:
            return boxes if (boxes or groups) and not in_group else None
        position = end.end()


def _mailbox(match: re.Match[str]) -> Mailbox:
    address = match["angle"] or match["bare"]
    phrase = match["phrase"] or ""
    comment = _COMMENT.search(phrase + (match["behind"] or match["tail"] or ""))
    return Mailbox(address, phrase, comment[0] if comment else "")


def _is_clear(address: str) -> bool:
    """Whether every program sees the same address in this addr-spec."""
    local, _, domain = address.rpartition("@")
    if len(address.encode("utf-8", "replace")) > MAX_PATH or len(local) > MAX_LOCAL or len(domain) > MAX_DOMAIN:
        return False
    if "=?" in address:  # RFC 2047 5: no encoded word stands in an address; some decode it all the same
        return False
    if address.isascii():
        return True
    bracketed = f"<{address}>"
    folded = unicodedata.normalize("NFKC", bracketed)  # a fullwidth @ becomes a real one
    if "\u3002" in folded or not address.isprintable():  # IDNA takes it for a full stop (UTS 46)
        return False
    return _DELIMITERS.findall(folded) == _DELIMITERS.findall(bracketed)


def display(box: Mailbox, charset: str = "") -> str:
    """The display name, decoded; else what a comment says; "" for none. `charset`: of raw 8-bit text."""
    text = " ".join(_COMMENT.sub(" ", box.phrase).split()) if box.phrase else ""
    if not text and not box.comment:
        return ""
    text = _QUOTED.sub(lambda match: unquoted(match[0][1:-1]), text) if text else unquoted(box.comment[1:-1])
    if not text.isascii():
        text = decoded(text.encode("utf-8", "surrogateescape"), charset)[0]
    if "=?" in text:
        text = _decoded_words(text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text.strip()[:MAX_DISPLAY]


def _decoded_words(text: str) -> str:
    """With its encoded words read (RFC 2047); as it is when one of them is wrong."""
    try:
        return "".join(
            part if isinstance(part, str) else part.decode(_known(charset), "replace")
            for part, charset in decode_header(text)
        )
    except (HeaderParseError, ValueError):
        return text


def _known(charset: str | None) -> str:
    charset = (charset or "").partition("*")[0]  # RFC 2231 5: a language may follow
    return charset if _CHARSETS.fullmatch(charset) else "latin-1"
