"""Keeps the sign-ins at providers that the console began, until the browser comes back."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from relay.credentials.oauth import OAuthApp
from relay.credentials.oauth.client import SignIn

LIFETIME_S = 600.0
_MOST, _MOST_OF_ONE = 200, 5


@dataclass(frozen=True, slots=True)
class Begun:
    """One that waits for its answer. `asker`: the session that began it, and nobody else's may end it."""

    asker: tuple[str, str]
    account_id: int
    app: OAuthApp
    sign_in: SignIn
    at: float = field(default=0.0)


class SignIns:
    """Those under way, by their state, in memory: a restart of the daemon ends them. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: OrderedDict[str, Begun] = OrderedDict()

    def keep(self, begun: Begun) -> None:
        """At most five of one session, 200 of all: the oldest goes."""
        self._forget_old()
        mine = [state for state, other in self._begun.items() if other.asker == begun.asker]
        for state in mine[: max(0, len(mine) - _MOST_OF_ONE + 1)]:
            del self._begun[state]
        self._begun[begun.sign_in.state] = replace(begun, at=self._clock())
        while len(self._begun) > _MOST:
            self._begun.popitem(last=False)

    def find(self, state: str, asker: tuple[str, str]) -> Begun | None:
        """What this session began with that state; None: nothing, or it is too old."""
        self._forget_old()
        begun = self._begun.get(state)
        return begun if begun is not None and begun.asker == asker else None

    def end(self, begun: Begun) -> None:
        """Each answer counts once."""
        self._begun.pop(begun.sign_in.state, None)

    def _forget_old(self) -> None:
        before = self._clock() - LIFETIME_S
        for state in [state for state, begun in self._begun.items() if begun.at < before]:
            del self._begun[state]
