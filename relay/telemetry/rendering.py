"""Turns an event into its line: JSON for programs, aligned text for people."""

from __future__ import annotations

import time
from typing import Any

import orjson

from relay.telemetry.cleaning import clean_fields, clean_text, clean_with_care, described_exception

_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN, _DIM = "\x1b[0m", "\x1b[2m"


class JsonRenderer:
    """Event and fields in (the fields are its own to change), one line of JSON with its newline out.

    `{"event":…,"level":…,"timestamp":…,…}`; the timestamp is ISO 8601, UTC, in milliseconds.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[str, str], bytes] = {}
        self._ms = 0
        self._second = 0
        self._second_text = b""
        self._stamp = b""

    def __call__(self, level: str, event: str, fields: dict[str, Any]) -> bytes:
        head = self._heads.get((event, level)) or self._head(event, level)
        if "exc_info" in fields:
            _fold_exception(fields)
        clean_fields(fields)
        now = time.time_ns() // 1_000_000
        if now != self._ms:
            self._tick(now)
        if not fields:
            return head + self._stamp + b'"}\n'
        try:
            tail = orjson.dumps(fields)
        except TypeError:  # an integer beyond 64 bits
            clean_with_care(fields)
            tail = orjson.dumps(fields)
        return b"".join((head, self._stamp, b'",', tail[1:], b"\n"))

    def _head(self, event: str, level: str) -> bytes:
        name = clean_text(str(event), 128, own=True)
        head = orjson.dumps({"event": name, "level": level})[:-1] + b',"timestamp":"'
        if len(self._heads) < 1000:
            self._heads[event, level] = head
        return head

    def _tick(self, now: int) -> None:
        second, ms = divmod(now, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
        self._stamp = self._second_text + b"%03dZ" % ms
        self._ms = now


class ConsoleRenderer:
    """For people: local time, level, event, `key=value`; values with blanks or quotes in them are quoted."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, level: str, event: str, fields: dict[str, Any]) -> bytes:
        event = clean_text(str(event), 128, own=True)
        if "exc_info" in fields:
            _fold_exception(fields)
        clean_fields(fields)
        now = time.time_ns() // 1_000_000
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now // 1000)) + f".{now % 1000:03d}"
        if self._colours:
            pairs = " ".join(f"{_DIM}{key}={_PLAIN}{_quoted(value)}" for key, value in fields.items())
            line = f"{_DIM}{stamp}{_PLAIN} {_COLOURS.get(level, '')}{level:<7}{_PLAIN} {event:<22} {pairs}"
        else:
            pairs = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
            line = f"{stamp} {level:<7} {event:<22} {pairs}"
        return line.rstrip().encode("utf-8") + b"\n"


def _fold_exception(fields: dict[str, Any]) -> None:
    info = fields.pop("exc_info")
    if info:
        fields["traceback"] = described_exception(info)


def _quoted(value: Any) -> str:
    if isinstance(value, str) and value and not any(c in value for c in " \"'=\\\u00a0"):
        return value
    return orjson.dumps(value).decode("utf-8")
