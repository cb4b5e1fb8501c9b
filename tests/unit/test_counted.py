"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from relay.mail.counted import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "mail", "0 mails"),
        (1, "delivery", "1 delivery"),
        (2, "delivery", "2 deliveries"),
        (2, "day", "2 days"),
        (1200, "sealed secret", "1,200 sealed secrets"),
    ],
)
def test_a_noun_has_the_form_of_its_number(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
