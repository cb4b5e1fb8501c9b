"""Explains text that a person pastes: a reply, an exception that quotes one, an error message, an id."""

from __future__ import annotations

import re

from relay.diagnosis.catalogue import FALLBACKS, LONGEST_LINE, entry_by_id, match, one_line
from relay.diagnosis.conditions import CONDITIONS, recognised
from relay.diagnosis.model import Diagnosis, Entry
from relay.diagnosis.placement import placed, placed_condition
from relay.mail.outcome import Stage

# A code that SMTP has (RFC 5321 4.2.3), so that "port 587 timed out" is none.
_REPLY = re.compile(r"(?<![\d.])[45][0-5]\d[ -](?=\S)")
_TUPLE = re.compile(r"\(([45][0-5]\d), ?b?(['\"])(.*)\2")  # how Python's smtplib prints a reply
_STAGES = {stage.value: stage for stage in Stage}
_STATUS = re.compile(r"(?<![\d.])([45])\.\d{1,3}\.\d{1,3}(?![\d.])")


def explain(text: str) -> Diagnosis:
    """What `text` means, as if met where such a reply usually comes. Never fails: id `not-recognised` at worst."""
    line = one_line(_unquoted(text[:LONGEST_LINE]))
    if line in CONDITIONS:
        return _of(CONDITIONS[line], line)
    entry = entry_by_id(line) or _best(line) or recognised(line) or _by_status(line) or CONDITIONS["not-recognised"]
    return _of(entry, line)


def _best(line: str) -> Entry | None:
    """The most particular entry among the replies in `line`, and what only words without a code give away."""
    starts = [hit.start() for hit in _REPLY.finditer(line)][:8]
    found = [entry for start in starts if (entry := match(line[start:])) is not None]
    particular = [entry for entry in found if entry.id not in FALLBACKS]
    if particular:
        return particular[0]
    if found:
        return found[0]
    return match(line)


def _by_status(line: str) -> Entry | None:
    """A status without a code: read as the most ordinary reply of its class."""
    hit = _STATUS.search(line)
    return match(f"{hit[1]}50 {line[hit.start() :]}") if hit else None


def _unquoted(text: str) -> str:
    text = text.strip().strip("\"'")
    quoted = _TUPLE.search(text.replace("\\r", " ").replace("\\n", " "))
    return f"{quoted[1]} {quoted[3]}" if quoted else text


def _of(entry: Entry, line: str) -> Diagnosis:
    stage = _STAGES.get(entry.stage, Stage.DATA)
    if entry.id in CONDITIONS:
        return placed_condition(entry, stage)
    hit = _REPLY.search(line)
    code = int(line[hit.start() : hit.start() + 3]) if hit else int(entry.code[0]) * 100
    return placed(entry, stage, code)
