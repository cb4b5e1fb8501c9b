"""What the process knows of one account's tokens: those held, those waited for, and when to ask again."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from relay.credentials.errors import CredentialError
from relay.credentials.oauth.answers import Grant
from relay.credentials.oauth.app import OAuthApp
from relay.credentials.oauth.errors import TokenRefused, TokenUnavailable
from relay.credentials.oauth.providers import Purpose
from relay.credentials.oauth.sealed import KeptToken

REFUSED_S = 1200  # three times an hour at most; more often would look like an attack
_FIRST_WAIT_S, _MOST_WAIT_S = 5.0, 300.0
_SKEW_S = 300  # how wrong the wall clock may have been when a token was kept, or be now
_LEAST_LEFT_S = 60  # a login begun now must end before the token does
_JITTER = 0.2


@dataclass(slots=True)
class Held:
    """An access token in memory; times by the monotonic clock. `forced`: got because the one before was refused.

    `forgiven`: a person acted since; that it was refused does not tell of the next one.
    """

    token: str = field(repr=False)
    at: float
    refresh_at: float
    expires_at: float
    forced: bool = False
    refused: bool = False
    forgiven: bool = False

    @classmethod
    def of(cls, new: Unwritten, early: float, *, forced: bool) -> Held:
        """A token just given, counted from before it was asked for."""
        return cls._lasting(new.grant.access_token, new.asked, new.grant.expires_in_s, early, forced=forced)

    @classmethod
    def kept(cls, kept: KeptToken, early: float, *, now_s: float, now: float) -> Held | None:
        """A token of an earlier process, if it is good for long enough whichever way the clock was wrong."""
        left_s = kept.until_s - now_s
        if left_s > kept.life_s + _SKEW_S or left_s < min(early, kept.life_s / 2) + _SKEW_S:
            return None
        return cls._lasting(kept.token, now, min(left_s, kept.life_s) - _SKEW_S, early, forced=False)

    @classmethod
    def _lasting(cls, token: str, at: float, life_s: float, early: float, *, forced: bool) -> Held:
        return cls(token, at, at + life_s - min(early, life_s / 2), at + life_s, forced)


@dataclass(frozen=True, slots=True)
class Unwritten:
    """An answer on its way into the vault. `used`: the refresh token it was bought with, None: with none."""

    grant: Grant
    used: str | None = field(repr=False)
    purpose: Purpose
    asked: float  # monotonic
    asked_s: float  # wall clock
    generation: int


@dataclass(slots=True)
class _Wait:
    until: float
    error: TokenRefused | TokenUnavailable
    failures: int


class AccountTokens:
    """One account's. `generation` grows with `forget`: what was asked for before is not held any more."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.held: dict[Purpose, Held] = {}
        self.tasks: dict[Purpose, asyncio.Task[str | CredentialError]] = {}
        self.waits: dict[Purpose, _Wait] = {}
        self.unwritten: Unwritten | None = None
        self.generation = 0

    @property
    def idle(self) -> bool:
        """Nothing is under way, nor waits to be written."""
        return not self.tasks and not self.lock.locked() and self.unwritten is None

    def usable(self, purpose: Purpose, now: float, *, ahead: bool = True) -> str | None:
        """The token to log in with; `ahead` False: even one that should have been renewed by now."""
        held = self.held.get(purpose)
        if held is None or held.refused:
            return None
        if now < held.refresh_at or (not ahead and now < held.expires_at - _LEAST_LEFT_S):
            return held.token
        return None

    def hold(self, purpose: Purpose, held: Held, generation: int) -> None:
        """Keep it for the next one, unless it was forgotten while it was asked for."""
        if generation == self.generation:
            self.held[purpose] = held
            self.waits.pop(purpose, None)

    def forget(self) -> None:
        """As if nothing had been asked yet; a grant that is not written yet stays."""
        self.generation += 1
        self.held.clear()
        self.waits.clear()
        self.tasks.clear()

    def wait(self, purpose: Purpose, error: TokenRefused | TokenUnavailable, now: float, chance: float) -> float:
        """Nobody asks for so many seconds: longer each time, at least as long as the provider wants."""
        last = self.waits.get(purpose)
        failures = last.failures + 1 if last is not None else 0
        if isinstance(error, TokenRefused):
            seconds = float(REFUSED_S)
        else:
            usual = min(_FIRST_WAIT_S * 2 ** min(failures, 16), _MOST_WAIT_S)
            seconds = max(usual * (1 + _JITTER * chance), error.retry_after_s or 0)
        self.waits[purpose] = _Wait(now + seconds, error, failures)
        return seconds

    def waiting(self, purpose: Purpose, now: float) -> TokenRefused | TokenUnavailable | None:
        """Why nobody is to ask now; None: ask."""
        wait = self.waits.get(purpose)
        if wait is None or now >= wait.until:
            return None
        error = wait.error
        if isinstance(error, TokenUnavailable):
            return TokenUnavailable(error.reason, math.ceil(wait.until - now))
        return TokenRefused(
            error.error,
            suberror=error.suberror,
            number=error.number,
            description=error.description,
            scope=error.scope,
        )


def early_s(app: OAuthApp, chance: float) -> float:
    """How long before its end a token is renewed: not all accounts at once."""
    return app.preset.early_s * (1 + _JITTER * chance)
