"""What an error line about a setting is made of."""

from __future__ import annotations

from relay.mail.errors import RelayError


class Wrong(ValueError):
    """A value or combination that cannot be: `field` is the setting to name, within the section that raised it.

    `text` is what was wrong and the right form, without the value of anything secret.
    """

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field
        self.text = text


class SettingsError(RelayError):
    """The start must stop: `problems` are lines of the form `NAME: what was wrong; the right form`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def shown(value: object, limit: int = 60) -> str:
    """A value as an error line may carry it: one line, printable, bounded; no character of it can act on a terminal."""
    text = str(value)
    if len(text) > limit:
        text = text[:limit] + "…"
    if not text:
        return '""'
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
