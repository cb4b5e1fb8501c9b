"""Regular expressions that every supported Python reads alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_POSSESSIVE_GROUP = re.compile(r"\)[*+?]\+")
_SOURCES = sorted(Path(__file__).parents[2].joinpath("relay").rglob("*.py"))


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_group_is_possessive(path: Path) -> None:
    """Before 3.11.5 `(?:…)*+` can match half a repetition (CPython gh-106052; Debian 12 has 3.11.2): `(?>(?:…)*)`."""
    assert [line for line in path.read_text().splitlines() if _POSSESSIVE_GROUP.search(line)] == []
