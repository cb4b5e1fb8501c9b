"""How long to wait at each stage (RFC 5321 4.5.3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings


QUIT_S = 2.0  # nobody owes a reply to QUIT


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. `connect_s` includes the TLS handshake; `command_s` is for greeting, EHLO, AUTH, MAIL and RCPT."""

    connect_s: float
    command_s: float
    data_s: float
    block_s: float
    done_s: float

    @classmethod
    def of(cls, settings: SubmissionSettings) -> Self:
        """The settings' time-outs, each capped by `stage_timeout_s` if that is set."""
        cap = settings.stage_timeout_s or float("inf")
        return cls(
            min(settings.connect_timeout_s, cap),
            min(settings.command_timeout_s, cap),
            min(settings.data_timeout_s, cap),
            min(settings.block_timeout_s, cap),
            min(settings.done_timeout_s, cap),
        )
