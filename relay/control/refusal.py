"""The refusal of an operator action, as both ends of the control socket know it."""

from __future__ import annotations

from typing import Literal

from relay.mail.errors import RelayError

Kind = Literal[
    "refused", "invalid", "not-found", "conflict", "unauthenticated", "forbidden", "throttled", "unavailable"
]


class ControlError(RelayError):
    """An action was refused: `text` says why, `remedy` what to do; each one line, never with a secret.

    `kind` is for programs: the web process makes a status of it.
    """

    def __init__(self, text: str, remedy: str, kind: Kind = "refused") -> None:
        super().__init__(f"{text}; {remedy}")
        self.text, self.remedy, self.kind = text, remedy, kind
