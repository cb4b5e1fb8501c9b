"""How much of a proof the default suite runs: short forms, unless TESTS_LONG is set (`make test-long`)."""

from __future__ import annotations

import os

LONG = bool(os.environ.get("TESTS_LONG"))


def examples(short: int) -> int:
    """How many examples hypothesis tries: `short`, at length twenty times as many."""
    return short * 20 if LONG else short


def size_of(variable: str, *, short: int, long: int) -> int:
    """What the environment says in `variable`, else the default of this length."""
    return int(os.environ.get(variable) or (long if LONG else short))
