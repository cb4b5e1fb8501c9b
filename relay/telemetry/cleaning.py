"""Makes any value fit for one log line: no control characters, no secrets, no more than 1 KiB (promise 25)."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Any

import orjson

from relay.telemetry.events import RESERVED_KEYS
from relay.telemetry.redaction import LIVE, MASK, auth_masked, secret_key

MAX_FIELD = 1024  # octets of UTF-8, traceback included
SHORT = 256  # characters: at most MAX_FIELD octets whatever they are
_MAX_DEPTH, _MAX_MEMBERS, _MAX_FIELDS = 4, 50, 40
_MAX_FRAMES, _MAX_CHAIN = 12, 4
_LINES = frozenset({"line", "command"})  # keys that carry protocol lines
_UNIQUE = frozenset({"message_id", "header_message_id", "session_id", "delivery_id", "reply", "detail"})
# Keys whose values are our own words, with an address or a name filled in: a secret that is an ordinary word is not
# masked there, since that would spoil the advice and tell that the word is a password.
_OWN = frozenset({"cause", "remedy", "to_do", "who"})
_MAX_HARMLESS, _MAX_PASSING = 4096, 64
_IDS = frozenset({"message_id", "session_id"})
_OUR_ID = 13  # characters of `mail.ids.format_id`, which no secret gets into
_PLAIN = frozenset({int, float, bool, type(None)})
_ordinary: set[str] = set()  # keys found to need no care; they come from the source, so they are few

Field = str | int | float | bool | None | list[Any] | dict[str, Any]


def clean_fields(fields: dict[str, Any]) -> None:
    """Replace in place what cannot stand in a line as it is; the common case changes nothing.

    Addresses, states and causes come again and again: those found harmless are looked at once.
    """
    harmless, passing = LIVE.harmless, LIVE.passing
    for key, value in fields.items():
        if key not in _ordinary:
            break
        kind = value.__class__
        if kind is str:
            if value in harmless or value in passing or (key in _IDS and len(value) == _OUR_ID):
                continue
            if len(value) > SHORT or not value.isprintable() or LIVE.touches(value):
                break
            known, most = (passing, _MAX_PASSING) if key in _UNIQUE else (harmless, _MAX_HARMLESS)
            if len(known) >= most:
                known.clear()
            known.add(value)
        elif kind not in _PLAIN:
            break
    else:
        return
    clean_with_care(fields)


def clean_with_care(fields: dict[str, Any]) -> None:
    """Replace in place every key and value by its clean form, whatever it is; at most 40 stay."""
    with_care = {_clean_key(key): _clean_field(key, value) for key, value in list(fields.items())[:_MAX_FIELDS]}
    fields.clear()
    fields.update(with_care)


def _clean_key(key: str) -> str:
    if key in RESERVED_KEYS:
        return key + "_"
    if key.isascii() and key.isidentifier() and len(key) <= 64:
        if len(_ordinary) < 1000 and not secret_key(key) and key not in _LINES:
            _ordinary.add(key)
        return key
    return clean_text(key)[:64] or "_"


def _clean_field(key: str, value: object) -> Field:
    if secret_key(key) and value not in (None, "", True, False):
        return MASK
    if key in _OWN and isinstance(value, str):
        return clean_text(str.__str__(value), own=True)
    if key in _LINES and isinstance(value, str):
        value = auth_masked(value)
    cleaned = _clean(value, 0)
    if isinstance(cleaned, list | dict):
        octets = orjson.dumps(cleaned)
        if len(octets) > MAX_FIELD:
            return clean_text(octets.decode("utf-8"))
    return cleaned


def _clean(value: object, depth: int) -> Field:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 63 else clean_text(f"{value:#x}")
    if isinstance(value, str):
        return clean_text(str.__str__(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return clean_text(bytes(value[: 2 * MAX_FIELD]).decode("utf-8", "backslashreplace"))
    if isinstance(value, BaseException):
        return clean_text(f"{type(value).__name__}: {value}")
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        members = list(value.items())[:_MAX_MEMBERS]
        return {
            clean_text(str(key)): MASK if secret_key(str(key)) else _clean(member, depth + 1) for key, member in members
        }
    if depth < _MAX_DEPTH and isinstance(value, list | tuple | AbstractSet):
        return [_clean(member, depth + 1) for member in list(value)[:_MAX_MEMBERS]]
    return clean_text(str(value))


def clean_text(text: str, limit: int = MAX_FIELD, *, own: bool = False) -> str:
    """One printable line of at most `limit` octets, live secrets masked; `own`: but for those that are mere words.

    Escaped are control characters, line and paragraph separators, format characters (bidi overrides), surrogates and
    unassigned ones: all that `str.isprintable` says no to.  The count of characters left out ends a cut text.
    """
    whole = len(text)
    longest = LIVE.longest
    cut = whole > limit + longest
    text = text[: limit + longest] if cut else text
    text = LIVE.masked(text, words=not own)  # a secret across the limit is still seen as one
    if cut:
        text = text[: max(0, len(text) - longest)]  # but the beginning of one may end the piece that was looked at
    if not text.isprintable():
        text = "".join([c if c.isprintable() else _escaped(c) for c in text])
    if not cut and (len(text) * 4 <= limit or len(text.encode("utf-8")) <= limit):
        return text
    head = text.encode("utf-8")[: limit - 24].decode("utf-8", "ignore")
    return f"{head}…[{whole} in all]"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def described_exception(info: object) -> str:
    """An exception on one bounded line: kind, message, the innermost frames, and what caused it. No locals.

    `info` is an exception, what sys.exc_info() gives, or anything true for the exception being handled.
    """
    error = info
    if isinstance(info, tuple) and len(info) == 3:
        error = info[1]
    elif not isinstance(info, BaseException):
        import sys

        error = sys.exc_info()[1]
    parts: list[str] = []
    while isinstance(error, BaseException) and len(parts) < _MAX_CHAIN:
        parts.append(_one(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return clean_text(" <- ".join(parts))


def _one(error: BaseException) -> str:
    try:
        message = clean_text(str(error), 300)
    except Exception:  # whatever a foreign __str__ does, the log line comes out
        message = "?"
    if isinstance(error, BaseExceptionGroup):
        message += " [" + "; ".join(_one(member) for member in error.exceptions[:3]) + "]"
    return f"{type(error).__name__}: {message}{_frames(error.__traceback__)}"


def _frames(trace: TracebackType | None) -> str:
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        path = "/".join(code.co_filename.split("/")[-3:])
        frames.append(f"{path}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
        del frames[:-_MAX_FRAMES]
    return " at " + " < ".join(reversed(frames)) if frames else ""
