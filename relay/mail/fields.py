"""Header fields: how a section is taken apart, how a new field is written."""

from __future__ import annotations

import re
import string
from binascii import b2a_base64
from collections.abc import Iterable
from typing import NamedTuple

LINE = 78  # RFC 5322 2.1.1: what a line should not exceed

# RFC 5322 3.2.2, 3.2.4.  A comment in a comment in a comment is not a comment to us.
COMMENT = r"\((?>(?:[^()\\]|\\.|\((?>(?:[^()\\]|\\.)*)\))*)\)"
QUOTED = r'"(?>(?:[^"\\]|\\.)*)"'

_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:[^\n]*\n(?>(?:[ \t][^\n]*\n)*)", re.M)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile(r"([ \t]*)([^ \t]+)")
_ENCODED_WORD = re.compile(r"(=\?[^?\s]{1,40}\?[bBqQ]\?[^?\s]*\?=)")
_PLAIN = "".join(map(chr, range(32, 127))) + "\t"
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_ESCAPED = re.compile(r"\\(.)", re.S)

_ENCODED_WORD_LENGTH = 62  # RFC 2047 2 allows 75; with a field name before it the line stays short
_CHARSET = re.compile(r"[A-Za-z0-9_.:+-]{1,30}")
# RFC 2047 4.2; by 5 (3) only these stand for themselves in a phrase
_Q = {octet: f"={octet:02X}" for octet in range(256)}
_Q |= {ord(letter): letter for letter in string.ascii_letters + string.digits + "!*+-/"} | {ord(" "): "_"}


class Field(NamedTuple):
    """`name` in lower case; `raw`: all its lines, as they came."""

    name: bytes
    raw: bytes

    @property
    def body(self) -> bytes:
        """What follows the colon, unfolded (RFC 5322 2.2.3)."""
        return self.raw.partition(b":")[2].replace(b"\r\n", b"").strip(b" \t")

    def renamed(self, name: str) -> Field:
        """The same body under another name; its first line is broken again if it got too long."""
        first, end, rest = self.raw.partition(b":")[2].partition(b"\r\n")
        body = first.rstrip(b" \t") + end + rest
        if len(name) + 1 + len(body) - len(end + rest) > LINE:
            body = b"\r\n " + body.lstrip(b" \t")  # so no line gets longer than it was
        return Field(name.lower().encode(), name.encode() + b":" + body)


def split(section: bytes) -> list[Field]:
    """The fields of a section that holds nothing but fields, in order; joined again they are the section."""
    return [Field(match[1].lower(), match[0]) for match in _FIELD.finditer(section)]


def fold(name: str, text: str | Iterable[str]) -> Field:
    """A new field: lines of at most 78 characters where the words allow it. Words are never cut in two.

    `text` may be given as its words, to keep spaces within one.  Raises ValueError for control characters: no text,
    wherever it came from, ends a field and begins another.
    """
    tokens = _TOKEN.findall(" " + text.strip(" \t")) if isinstance(text, str) else [(" ", word) for word in text]
    lines, line = [], name + ":"
    for blank, word in tokens:
        if _CONTROL.search(word):
            raise ValueError(f"control character in a {name} field")
        if len(line) + len(blank) + len(word) > LINE:
            lines.append(line)
            line = " " + word
        else:
            line += blank + word
    lines.append(line)
    return Field(name.lower().encode(), "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape"))


def decoded(octets: bytes, charset: str = "") -> tuple[str, str]:
    """Text of unknown origin and the charset it was read in: `charset` if it fits, UTF-8, or windows-1252."""
    for name in (charset, "utf-8", "windows-1252"):
        try:
            if _CHARSET.fullmatch(name):
                return octets.decode(name), name
        except (LookupError, UnicodeError):
            pass
    return octets.decode("latin-1"), "iso-8859-1"  # five octets are nothing in windows-1252


def unquoted(text: str) -> str:
    """What a quoted string or a comment says, given without its delimiters."""
    return _ESCAPED.sub(r"\1", text)


def phrase(text: str) -> str:
    """`text` as a display name (RFC 5322 3.2.5): atoms, a quoted string, or encoded words."""
    if not text.isascii() or not text.isprintable():
        return encoded_words(text, "utf-8")
    if _ATOMS.fullmatch(text) and "=?" not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def encoded(text: str, charset: str) -> str:
    """Unstructured text with whatever is not printable ASCII as encoded words (RFC 2047), all else as it was.

    Encoded words in it are kept.  The result is printable ASCII.
    """
    pieces = _ENCODED_WORD.split(text)
    last = len(pieces) - 1
    for index in range(0, len(pieces), 2):
        piece = pieces[index]
        start, end = _unplain(piece)
        if start == end:
            continue
        # White space between encoded words is not shown (RFC 2047 6.2): what stands there goes into one itself.
        start = 0 if index else start
        end = len(piece) if index < last else end
        words = encoded_words(piece[start:end], charset)
        pieces[index] = f"{piece[:start]}{' ' * (index > 0)}{words}{' ' * (index < last)}{piece[end:]}"
    return "".join(pieces)


def _unplain(text: str) -> tuple[int, int]:
    """Where the words begin and end that are not printable ASCII, with all between them; two equal ones: nowhere."""
    start, end = len(text) - len(text.lstrip(_PLAIN)), len(text.rstrip(_PLAIN))
    if start >= end:
        return 0, 0
    start = max(text.rfind(" ", 0, start), text.rfind("\t", 0, start)) + 1
    behind = [blank for blank in (text.find(" ", end), text.find("\t", end)) if blank >= 0]
    return start, min(behind, default=len(text))


def encoded_words(text: str, charset: str) -> str:
    """All of `text` as encoded words; each can be decoded alone (RFC 2047 5)."""
    octets = text.encode(charset, "replace")
    letter = "q" if len(_q(octets)) <= len(_b(octets)) else "b"
    encode = _q if letter == "q" else _b
    room = _ENCODED_WORD_LENGTH - len(f"=?{charset}?q??=")
    words, start = [], 0
    while start < len(text):
        length = room
        while len(word := encode(text[start : start + length].encode(charset, "replace"))) > room and length > 1:
            length = max(1, min(length - 1, length * room // len(word)))
        words.append(f"=?{charset}?{letter}?{word}?=")
        start += length
    return " ".join(words)


def _q(octets: bytes) -> str:
    return octets.decode("latin-1").translate(_Q)


def _b(octets: bytes) -> str:
    return b2a_base64(octets, newline=False).decode("ascii")
