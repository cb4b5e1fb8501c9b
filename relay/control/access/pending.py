"""Keeps the sign-ins of people at the OpenID provider, until their browser comes back."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from relay.control.access import rows
from relay.credentials.oauth.openid import OpenIdProvider, PersonSignIn

LIFETIME_S = 600.0
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Begun:
    """One under way; `back`: the page that its person came from."""

    sign_in: PersonSignIn
    browser: bytes  # hash of what the browser that began it keeps
    at: float
    session: bytes  # hash of the one whose person shows again who they are; empty: somebody signs in
    back: str


class PersonSignIns:
    """Those under way, by their state, in memory; at most 1,000, ten minutes. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: OrderedDict[str, Begun] = OrderedDict()
        self.provider: OpenIdProvider | None = None  # remembers what the issuer publishes

    def keep(self, begun: PersonSignIn, *, session: bytes = b"", back: str = "") -> str:
        """Remember it; what the browser has to bring back."""
        browser = rows.new_token()
        self._begun[begun.sign_in.state] = Begun(begun, rows.hashed(browser), self._clock(), session, back)
        while len(self._begun) > _MOST:
            self._begun.popitem(last=False)
        return browser

    def take(self, state: str, browser: str) -> Begun | None:
        """The one with that state, once, and only for the browser that began it; None: there is none."""
        found = self._begun.get(state)
        if found is None or not hmac.compare_digest(found.browser, rows.hashed(browser)):
            return None
        del self._begun[state]
        return found if self._clock() - found.at < LIFETIME_S else None
