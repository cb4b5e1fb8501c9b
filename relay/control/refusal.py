"""The refusal of an operator action, as both ends of the control socket know it."""

from __future__ import annotations

from relay.mail.errors import RelayError


class ControlError(RelayError):
    """An action was refused: `text` says why, `remedy` what to do; each one line, never with a secret."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(f"{text}; {remedy}")
        self.text, self.remedy = text, remedy
