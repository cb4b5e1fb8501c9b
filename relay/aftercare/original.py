"""What a notice shows of the message it is about: all of it when it is small, else its header. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage

from relay.aftercare.letters import MARK
from relay.aftercare.wording import line
from relay.mail.content import unstuff

MOST = 65_536  # octets of the original, in all
_SECRET = re.compile(rb"^(?:bcc|resent-bcc|return-path)[ \t]*:[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*\r?\n?", re.M | re.I)
_FIELD = re.compile(
    rb"^(auto-submitted|precedence|" + MARK.encode() + rb")[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.M | re.I
)
_BULK = frozenset({"bulk", "list", "junk"})


@dataclass(frozen=True, slots=True)
class Original:
    """`part` is a whole MIME part: its header, an empty line, its body. `silence`: why nobody is told ("": tell)."""

    part: bytes
    subject: str
    described: str
    silence: str


def original_of(excerpt: bytes, *, size: int, full: bool, plain_only: bool) -> Original:
    """`excerpt`: the first octets in wire form, `size`: how many there are in all; empty: the content is gone.

    `full`: show all of it, if it is small enough.  `plain_only`: whoever takes the notice may not take 8-bit text.
    """
    header, complete = _header(excerpt)
    fields = {match[1].lower().decode(): _text(match[2]) for match in reversed(list(_FIELD.finditer(header)))}
    subject, silence = _subject(header), _silence(fields)
    if not excerpt:
        gone = "The message itself is not kept any more."
        return Original(_headers_part(b""), subject, gone, silence)
    if full and complete and len(excerpt) == size <= MOST and (excerpt.isascii() or not plain_only):
        encoding = b"" if excerpt.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
        body = unstuff(excerpt).partition(b"\r\n\r\n")[2]
        part = b"Content-Type: message/rfc822\r\n" + encoding + b"\r\n" + header + b"\r\n" + body
        return Original(part, subject, "The message is attached.", silence)
    return Original(_headers_part(header), subject, "The header of the message is attached.", silence)


def _header(excerpt: bytes) -> tuple[bytes, bool]:
    """The header section without what may not be shown, cut at a line; False: it is not complete."""
    text = unstuff(excerpt)
    end = text.find(b"\r\n\r\n")
    complete = end >= 0
    section = text[: end + 2] if complete else text[: text.rfind(b"\r\n") + 2]
    return _SECRET.sub(b"", section), complete


def _headers_part(header: bytes) -> bytes:
    """RFC 6522 4: text, so that it may be encoded where it is not ASCII."""
    if header.isascii():
        return b"Content-Type: text/rfc822-headers\r\n\r\n" + header
    part = EmailMessage(policy=policy.SMTP)
    part.set_content(header.decode("utf-8", "replace").replace("\r\n", "\n"), cte="quoted-printable")
    body = part.as_bytes().partition(b"\r\n\r\n")[2]
    return (
        b'Content-Type: text/rfc822-headers; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
        + body
    )


def _subject(header: bytes) -> str:
    """Decoded, on one line, bounded."""
    try:
        found = message_from_bytes(header, policy=policy.default)["Subject"]
    except Exception:  # the standard library fails on some malformed encoded words
        return ""
    return line(str(found))[:120] if found else ""


def _silence(fields: dict[str, str]) -> str:
    if MARK.lower() in fields:
        return "it is a notice of a relay"
    if fields.get("auto-submitted", "").partition(";")[0].strip() == "auto-replied":
        return "it is an automatic reply (Auto-Submitted)"
    if fields.get("precedence", "").strip() in _BULK:
        return f"it is bulk mail (Precedence: {line(fields['precedence'])})"
    return ""


def _text(value: bytes) -> str:
    return value.replace(b"\r\n", b"").decode("ascii", "replace").strip().lower()
