"""A number with its noun, for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 mail`, `2 deliveries`, `1,200 mails`; of nouns with a regular plural."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1] + 'ies' if noun.endswith('y') and noun[-2] not in 'aeiou' else noun + 's'}"
