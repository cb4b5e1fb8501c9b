"""Which patterns an address matches, and so which account a sender's mail goes through. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from relay.accounts.model import Route, Sender
from relay.accounts.normalise import DEFAULT, NULL, base_address, normalise

Step = Literal["exact", "alias", "domain", "default", "null"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`route`, and `steps`: one sentence for each rule, in the order in which they were tried."""

    route: Route | None
    steps: tuple[str, ...]


@lru_cache(maxsize=1024)  # one message asks several times, and an application has few senders
def candidates(reverse_path: str) -> tuple[tuple[Step, str], ...]:
    """The patterns that would match `reverse_path` ("": null), the most particular first."""
    if not reverse_path:
        return (("null", NULL),)  # never `*`: notices and loops are let out only by an entry of their own
    address = normalise(reverse_path)
    local, at, domain = address.rpartition("@")
    found: list[tuple[Step, str]] = []
    if local and at:
        found.append(("exact", address))
        base = base_address(address)
        if base is not None:
            found.append(("alias", base))
        found.append(("domain", f"@{domain}"))
    found.append(("default", DEFAULT))
    return tuple(found)


class RouteTable:
    """The registered senders, for look-up by address. Immutable, so that it remembers what it was asked."""

    def __init__(self, senders: Iterable[Sender]) -> None:
        self._senders = {sender.pattern: sender for sender in senders}
        self._remembered = lru_cache(maxsize=1024)(self._look_up)

    def route(self, reverse_path: str) -> Route | None:
        """Where mail of `reverse_path` ("": null) goes, or None: no account may send as this address."""
        return self._remembered(reverse_path)

    def _look_up(self, reverse_path: str) -> Route | None:
        for step, pattern in candidates(reverse_path):
            sender = self._senders.get(pattern)
            if sender is not None:
                return Route(sender.account_id, pattern, step, sender.from_policy)
        return None

    def explain(self, reverse_path: str) -> Explanation:
        """What `route` does, in words."""
        route = self.route(reverse_path)
        steps = []
        for step, pattern in candidates(reverse_path):
            hit = route is not None and route.step == step
            steps.append(f"{_WORDS[step].format(pattern=pattern)}: {'found' if hit else 'no entry'}")
            if hit:
                return Explanation(route, tuple(steps))
        if not reverse_path:
            steps.append("the null reverse-path never falls to *: add an entry <> if its mail should go out")
        return Explanation(None, tuple(steps))


def explain_route(senders: Iterable[Sender], reverse_path: str) -> Explanation:
    """Which of `senders` matches `reverse_path` ("": null), and what was tried before."""
    return RouteTable(senders).explain(reverse_path)


def matches(patterns: frozenset[str], reverse_path: str) -> bool:
    """Is `reverse_path` ("": null) one of those that the normalised `patterns` name? The same rule as for routes."""
    return any(pattern in patterns for _, pattern in candidates(reverse_path))


def recipient_candidates(recipient: str) -> Iterator[str]:
    """The patterns that would match: the address, it without its +detail, `@domain`, `@*.` and each parent domain."""
    address = normalise(recipient)
    yield address
    local, at, domain = address.rpartition("@")
    if not (local and at):
        return
    base = base_address(address)
    if base is not None:
        yield base
    yield f"@{domain}"
    _, dot, parent = domain.partition(".")
    while dot:
        yield f"@*.{parent}"
        _, dot, parent = parent.partition(".")


def matches_recipient(patterns: frozenset[str], recipient: str) -> bool:
    """Is `recipient` one of those that the normalised `patterns` name?"""
    return any(pattern in patterns for pattern in recipient_candidates(recipient))


_WORDS: dict[Step, str] = {
    "null": "null reverse-path, entry {pattern}",
    "exact": "exact address {pattern}",
    "alias": "address without its +detail, {pattern}",
    "domain": "domain entry {pattern}",
    "default": "default entry {pattern}",
}
