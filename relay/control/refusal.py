"""The refusal of an operator action, as both ends of the control socket know it."""

from __future__ import annotations

from typing import Literal

from relay.mail.errors import RelayError

Kind = Literal[
    "refused", "invalid", "not-found", "conflict", "unauthenticated", "forbidden", "proof", "throttled", "unavailable"
]  # proof: who is signed in must first show once more that it is them


class ControlError(RelayError):
    """An action was refused: `text` says why, `remedy` what to do; each one line, never with a secret.

    `kind` is for programs: the web process makes a status of it; `wait_s`: when to come back, None: nobody knows.
    """

    def __init__(self, text: str, remedy: str, kind: Kind = "refused", wait_s: int | None = None) -> None:
        super().__init__(f"{text}; {remedy}")
        self.text, self.remedy, self.kind, self.wait_s = text, remedy, kind, wait_s
