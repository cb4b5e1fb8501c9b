"""The words of notices: templates as files, filled in, and broken into lines of at most 76 characters."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from string import Template

from relay.mail.counted import counted
from relay.telemetry.cleaning import clean_text

_WIDTH = 76  # characters; RFC 5322 2.1.1 asks for no more than 78
_LONGEST = 2000  # characters of one value from outside
_NUMBERED = re.compile(r"[ ]*(?:\d+\. |- )?")
_EMPTY = re.compile(r"\n{3,}")


def rendered(name: str, **values: object) -> tuple[str, str]:
    """Subject and body of the template `name`; the body ends with a line end.

    Every value in one line must have been through `line`; several lines are kept apart.  Raises KeyError when the
    template asks for a value that is not given.
    """
    subject, body = _template(name)
    return " ".join(subject.substitute(values).split()), wrapped(body.substitute(values))


def wrapped(text: str) -> str:
    """Lines broken at spaces, continued under their own text; empty lines never come in twos."""
    lines = [broken for line in text.splitlines() for broken in _broken(line.rstrip())]
    return _EMPTY.sub("\n\n", "\n".join(lines)).strip("\n") + "\n"


def line(text: str) -> str:
    """What somebody else wrote, on one bounded line: nothing in it can act or look like a line of ours."""
    return clean_text(" ".join(text.split()), _LONGEST)


def numbered(steps: Sequence[str]) -> str:
    """Steps in order, or that there are none."""
    return (
        "\n".join(f"{number}. {line(step)}" for number, step in enumerate(steps, 1)) or "Nothing: it passes by itself."
    )


def indented(lines: Iterable[str]) -> str:
    """Lines that are to be copied as they are."""
    return "\n".join(f"    {line(each)}" for each in lines)


def moment(at_ms: int) -> str:
    """A time as anybody reads it; always UTC, so that nobody has to guess."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_ms / 1000))


def span(seconds: float) -> str:
    """`4 hours`, `5 days`, `90 seconds`: a length in its largest unit that is whole enough."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = round(seconds / size)
            return counted(count, unit)
    return counted(round(seconds), "second")


def _broken(line: str) -> list[str]:
    if len(line) <= _WIDTH or line.startswith("    "):  # commands are never broken
        return [line]
    lead = _NUMBERED.match(line)
    indent = " " * len(lead[0]) if lead else ""
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


@cache
def _template(name: str) -> tuple[Template, Template]:
    text = (Path(__file__).with_name("templates") / f"{name}.txt").read_text("utf-8")
    subject, _, body = text.partition("\n\n")
    return Template(subject), Template(body)
