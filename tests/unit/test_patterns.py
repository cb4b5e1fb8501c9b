"""Regular expressions that every supported Python reads alike."""

from __future__ import annotations

import re
from pathlib import Path

_POSSESSIVE_GROUP = re.compile(r"\)[*+?]\+")
_SOURCES = sorted(Path(__file__).parents[2].joinpath("relay").rglob("*.py"))


def test_no_group_is_possessive() -> None:
    """Before 3.11.5 `(?:…)*+` can match half a repetition (CPython gh-106052; Debian 12 has 3.11.2): `(?>(?:…)*)`."""
    assert _SOURCES
    lines = [(str(path), line) for path in _SOURCES for line in path.read_text().splitlines()]
    assert [(path, line) for path, line in lines if _POSSESSIVE_GROUP.search(line)] == []
