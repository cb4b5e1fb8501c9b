"""Keeps the passkey ceremonies under way: what was asked of a browser, until its answer comes, once."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from relay.config.own_address import is_own_address, origin_of
from relay.control.refusal import ControlError

if TYPE_CHECKING:
    from relay.config.console import ConsoleSettings

LIFETIME_S = 300.0
_MOST = 1000  # of each purpose: whoever asks for logins pushes no other ceremony out
_CHALLENGE_BYTES = 32  # WebAuthn 13.4.3: at least 16

Purpose = Literal["login", "prove", "register"]


@dataclass(frozen=True, slots=True)
class Ceremony:
    """`site` is the RP id, `origin` where the browser must be; `user_id` None: whoever's passkey it will be."""

    challenge: bytes
    site: str
    origin: str
    user_id: int | None
    at: float


class Ceremonies:
    """In memory, by an id that only the browser has; five minutes. `clock`: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[Purpose, OrderedDict[str, Ceremony]] = {
            "login": OrderedDict(),
            "prove": OrderedDict(),
            "register": OrderedDict(),
        }

    def begin(
        self, settings: ConsoleSettings, purpose: Purpose, origin: str, user_id: int | None
    ) -> tuple[str, Ceremony]:
        """A new challenge, and its id. `origin`: the console's address as the browser has it."""
        site, exact = site_of(settings, origin)
        made = Ceremony(secrets.token_bytes(_CHALLENGE_BYTES), site, exact, user_id, self._clock())
        begun, id_ = self._begun[purpose], secrets.token_urlsafe(24)
        begun[id_] = made
        while len(begun) > _MOST:
            begun.popitem(last=False)
        return id_, made

    def take(self, purpose: Purpose, id_: str, user_id: int | None) -> Ceremony:
        """The one of that id, for that purpose and person, once. Raises ControlError (unauthenticated)."""
        found = self._begun[purpose].pop(id_, None)
        if found is None or found.user_id != user_id or self._clock() - found.at >= LIFETIME_S:
            raise ControlError("this was not begun here, or is too old", "try the passkey again", "unauthenticated")
        return found


def site_of(settings: ConsoleSettings, origin: str) -> tuple[str, str]:
    """(RP id, origin) for the console at that address (WebAuthn 5.1.2: a domain, no IP address)."""
    if not is_own_address(settings, origin, ""):
        raise ControlError("this is not the console's address", "open it by the one in RELAY_CONSOLE__URL", "invalid")
    site, exact = origin_of(origin)
    if not any(letter.isalpha() for letter in site) or ":" in site:
        raise ControlError(
            "a passkey belongs to a name, not to an IP address",
            "open the console by its name: RELAY_CONSOLE__URL, or http://localhost",
            "invalid",
        )
    return site, exact
