"""Fuzzing for a few seconds, with a fixed seed; `make fuzz` goes on for an hour."""

from __future__ import annotations

import os
from random import Random

from tests.fuzz import listener, parsers
from tests.fuzz.grammar import content, cut, dialogue, mutated

SECONDS = float(os.environ.get("FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


def test_whatever_is_said_to_the_listener_it_answers_in_digits_and_keeps_what_it_answered() -> None:
    figures = listener.fuzz(SECONDS, SEED)
    print(figures)
    assert figures.accepted > 50, "the dialogues are too broken to show anything"
    assert {"250", "354", "421", "500", "501", "503", "550", "554"} <= figures.codes.keys()


def test_whatever_octets_the_parsers_are_given_they_read_one_thing_or_refuse() -> None:
    figures = parsers.fuzz(SECONDS, SEED)
    print(figures)
    assert figures.taken > 100
    assert figures.contents - figures.refused > 100
    assert figures.rewritten
    assert figures.reencoded


def test_a_case_can_be_repeated_from_its_seed() -> None:
    one, other = Random("7/3"), Random("7/3")
    assert dialogue(one) == dialogue(other)
    assert content(one) == content(other)
    octets = content(one)
    assert mutated(Random("9"), octets) == mutated(Random("9"), octets)
    assert b"".join(cut(one, octets)) == octets
