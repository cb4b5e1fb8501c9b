"""The catalogue of upstream replies: read on first use, searched in its order, the first hit wins."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from relay.diagnosis.model import Entry

LONGEST_LINE = 2048  # characters; what is longer is cut: some patterns cost the square of it at worst
FALLBACKS = frozenset({"fallback-temporary", "fallback-permanent"})

_FILE = "catalogue.json"  # made from catalogue.yaml by relay.diagnosis.regenerate
# A reply within a reply: code and status of another hop, behind the words of the one that passes it on.
_INNER = re.compile(r"(?<=[\s:;,('\"])([45][0-5]\d)[ -]([45]\.\d{1,3}\.\d{1,3})(?![\d.])")


def catalogue_entries() -> tuple[Entry, ...]:
    """Every entry, in the order in which they are tried."""
    return tuple(entry for entry, _ in _compiled())


def entry_by_id(entry_id: str) -> Entry | None:
    """The entry of that id, or None."""
    return next((entry for entry, _ in _compiled() if entry.id == entry_id), None)


def one_line(text: str) -> str:
    """At most LONGEST_LINE characters on one line, runs of white space (line ends too) made one space."""
    return " ".join(text[:LONGEST_LINE].split())


def match(line: str, fits: Callable[[Entry], bool] | None = None) -> Entry | None:
    """The first entry whose pattern is found in `line` ("<code> <text>") and which `fits`, or None.

    A reply quoted inside (`... Error: 535 5.7.139 ...`) is asked first; only when nothing but a fallback knows it,
    the words around it.
    """
    line = one_line(line)
    for inner in _inner_replies(line):
        entry = _search(inner, fits)
        if entry is not None and entry.id not in FALLBACKS:
            return entry
    return _search(line, fits)


def _inner_replies(line: str) -> list[str]:
    """The last two replies quoted in `line`, innermost first.

    Not one: the same code and status again, as each line of a multi-line reply has it; a 4yz within a 5yz, which
    is why another hop waited before it gave up.
    """
    starts = [
        hit.start()
        for hit in _INNER.finditer(line, 1)
        if hit[1][0] >= line[0] and not (hit[1] == line[:3] and line[4:].startswith(hit[2]))
    ]
    return [line[start:] for start in reversed(starts[-2:])]


def _search(line: str, fits: Callable[[Entry], bool] | None) -> Entry | None:
    text = f"{line} "  # many patterns end with the space behind a status; a reply may hold nothing after it
    for entry, pattern in _compiled():
        if pattern.search(text) is not None and (fits is None or fits(entry)):
            return entry
    return None


@cache
def _compiled() -> tuple[tuple[Entry, re.Pattern[str]], ...]:
    raw = json.loads(Path(__file__).with_name(_FILE).read_bytes())
    return tuple((entry, re.compile(entry.pattern, re.IGNORECASE | re.DOTALL)) for entry in map(_entry, raw["entries"]))


def _entry(fields: dict[str, Any]) -> Entry:
    return Entry(
        id=fields["id"],
        provider=fields["provider"],
        code=fields["code"],
        enhanced=fields["enhanced"],
        stage=fields["stage"],
        cls=fields["class"],
        retry=fields["retry"],
        pause=fields["pause_account"],
        cause=fields["cause"],
        remedy=tuple(fields["remedy"]),
        pattern=fields["pattern"],
        sample=fields["sample"],
        source=fields["source"],
    )
