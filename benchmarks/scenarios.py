"""What is measured: the loads, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

SENDERS = 10
SMALL = 4096
BIG = 5_000_000


@dataclass(frozen=True)
class Scenario:
    """A closed loop of `sessions`; each sends its next message when the last got its 250, from senders in turn.

    `messages` is for Postfix; `relay_messages` for the relay, more where it would be done too soon to measure. `fresh`:
    a new connection for each message. `delay_ms` is waited by the upstream before each burst of replies, and
    `max_per_account` is its limit of logged-in connections of one account (0: none).
    """

    name: str
    title: str
    sessions: int
    messages: int
    relay_messages: int
    size: int = SMALL
    fresh: bool = False
    delay_ms: float = 0
    max_per_account: int = 0
    slow: int = 0  # messages for a Postfix that cannot use the upstream's limit

    def count(self, peer: str) -> int:
        """Messages to send to `peer`."""
        if peer == "postfix.default" and self.slow:
            return self.slow
        return self.relay_messages if peer == "relay" else self.messages

    def quick(self) -> Scenario:
        """The same with so few messages that it ends in seconds: shows that it works, not how fast."""
        return replace(
            self,
            messages=min(self.messages, 200),
            relay_messages=min(self.relay_messages, 500),
            slow=min(self.slow, 20),
        )


ALL = (
    Scenario("one", "1 session", 1, 1500, 4000),
    Scenario("ten", "10 sessions", 10, 3000, 10000),
    Scenario("fifty", "50 sessions", 50, 3000, 10000),
    Scenario("fresh", "10 sessions, a new connection for each message", 10, 2000, 5000, fresh=True),
    Scenario("big", "50 x 5 MB over 10 sessions", 10, 50, 50, size=BIG),
    Scenario(
        "latency",
        "10 sessions, 20 ms a reply burst upstream, at most 3 connections an account",
        10,
        600,
        6000,
        delay_ms=20,
        max_per_account=3,
        slow=100,
    ),
)
BY_NAME = {scenario.name: scenario for scenario in ALL}
QUICK = ("ten", "fresh", "big")
