"""The script of an upstream: rules, what each connection brought, and what a test waits for."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Self

import trustme

Step = Literal[
    "GREETING", "EHLO", "STARTTLS", "TLS", "AUTH", "CHALLENGE",
    "MAIL", "RCPT", "DATA", "BODY", "DOT", "RSET", "NOOP", "QUIT",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that was answered 250. `content` is as it came, still dot-stuffed; `connection` counts from 0."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes
    account: str
    connection: int
    parameters: str  # of MAIL
    recipient_parameters: tuple[str, ...] = ()  # of each RCPT


@dataclass(slots=True)
class Rule:
    """What happens at a step, in order; built by chaining. `times` None: always. `skip`: how many times not yet."""

    times: int | None = None
    skip: int = 0
    acts: list[tuple[str, bytes]] = field(default_factory=list)

    def answers(self, *lines: str) -> Self:
        """A reply, its lines given as text: `answers("250-a", "250 b")`."""
        return self.sends(b"".join(f"{line}\r\n".encode() for line in lines))

    def sends(self, octets: bytes) -> Self:
        """Exactly these octets."""
        self.acts.append(("send", octets))
        return self

    def well(self) -> Self:
        """The reply that would come without a rule."""
        self.acts.append(("well", b""))
        return self

    def disconnects(self) -> Self:
        """Then end the connection in an orderly way."""
        self.acts.append(("close", b""))
        return self

    def resets(self) -> Self:
        """Then end it with a TCP reset."""
        self.acts.append(("reset", b""))
        return self

    def stalls(self) -> Self:
        """Then say and read nothing any more."""
        self.acts.append(("stall", b""))
        return self

    def stops_reading(self) -> Self:
        """Then take nothing more from the socket either."""
        self.acts.append(("deaf", b""))
        return self

    def pauses(self) -> Self:
        """Send what there is, and go on when the test calls `go_on`."""
        self.acts.append(("pause", b""))
        return self


@dataclass
class Log:
    """What one connection brought: octets before TLS, octets inside (or all, for implicit), lines but for content."""

    clear: bytearray = field(default_factory=bytearray)
    secure: bytearray = field(default_factory=bytearray)
    lines: list[str] = field(default_factory=list)
    segments: list[bytes] = field(default_factory=list)
    account: str = ""
    lost: bool = False


@cache
def shared_authority() -> trustme.CA:
    """The CA of all servers here that bring no certificate."""
    return trustme.CA()


@cache
def _localhost() -> trustme.LeafCert:
    return shared_authority().issue_cert("localhost", "127.0.0.1")


class Script:
    """What a test says to its upstream, and what it learns from it.

    `accounts`: login to password; empty: AUTH is offered and takes anything. Its CA is `authority`.
    `extensions` are the EHLO lines besides STARTTLS, AUTH and PIPELINING.
    """

    def __init__(
        self,
        *,
        tls: Literal["starttls", "implicit", "none"] = "starttls",
        accounts: Mapping[str, str] | None = None,
        mechanisms: str = "PLAIN LOGIN",
        pipelining: bool = True,
        extensions: tuple[str, ...] = ("SIZE 10000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"),
        delay_s: float = 0,
        certificate: trustme.LeafCert | None = None,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.tls = tls
        self.host = host
        self.accounts = dict(accounts or {})
        self.mechanisms = mechanisms
        self.pipelining = pipelining
        self.extensions = extensions
        self.delay_s = delay_s
        self.authority = shared_authority()
        self.certificate = certificate or _localhost()
        self.context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate.configure_cert(self.context)
        self.port = 0
        self.connections: list[Log] = []
        self.takes_token: Callable[[str, str], bool] | None = None  # login, bearer token; None: any
        self.tokens: list[str] = []  # bearer tokens that came, in order
        self.messages: list[Taken] = []
        self.contents = 0  # bodies that came to their end, taken or not
        self._rules: dict[tuple[str, str], deque[Rule]] = {}
        self._go = asyncio.Event()
        self._waiting: set[asyncio.Event] = set()

    def on(self, step: Step, argument: str = "", *, times: int | None = None, skip: int = 0) -> Rule:
        """What to do at `step`, `times` times, after `skip` good ones.

        `argument` narrows it to an address: of MAIL and RCPT their own, of DATA and DOT that of MAIL.
        A second rule for the same place comes after the first one is used up.
        """
        rule = Rule(times, skip)
        self._rules.setdefault((step, argument), deque()).append(rule)
        return rule

    def forget_rules(self) -> None:
        """From now on everything goes well."""
        self._rules.clear()

    def go_on(self) -> None:
        """Let all that `pauses` continue, now and later."""
        self._go.set()

    async def next_message(self, timeout_s: float = 5) -> Taken:
        """The next message taken since the last call of this."""
        await self.until(lambda: bool(self.messages), timeout_s)
        return self.messages.pop(0)

    async def until(self, holds: Callable[[], bool], timeout_s: float = 5) -> None:
        """Wait until `holds()`, looked at after everything that happens here."""
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    changed.clear()
                    await changed.wait()
        finally:
            self._waiting.remove(changed)

    def changed(self) -> None:
        """Tell those who wait in `until`."""
        for waiter in self._waiting:
            waiter.set()

    def clear_octets(self, verb: bytes) -> int:
        """How many lines that begin with `verb` came outside TLS, over all connections."""
        return sum(bytes(log.clear).upper().count(verb) for log in self.connections)

    def lines(self) -> list[str]:
        """Command lines of all connections, in the order of the connections."""
        return [line for log in self.connections for line in log.lines]

    def rule(self, step: str, argument: str = "") -> Rule | None:
        """The rule that applies now, used up by one."""
        for key in ((step, argument), (step, "")):
            rules = self._rules.get(key)
            while rules:
                rule = rules[0]
                if rule.skip:
                    rule.skip -= 1
                    return None
                if rule.times is None:
                    return rule
                if rule.times:
                    rule.times -= 1
                    return rule
                rules.popleft()
        return None

    def rule_waits(self, step: Step) -> bool:
        """True if there is a rule for `step` that was not used up; it is not used by asking."""
        return any(rule.times != 0 for rule in self._rules.get((step, ""), ()))

    async def wait_to_go(self) -> None:
        """Until `go_on`."""
        await self._go.wait()
