"""A plan: the accounts and senders that another relay's configuration amounts to, and what it cannot say here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relay.control.refusal import ControlError

MAX_BYTES = 4 << 20  # of one file
MAX_LINE = 65_536
MAX_ACCOUNTS = 2_000


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 1; 0: the file as a whole."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else str(self.path)


class BadConfiguration(ControlError):
    """A line that cannot be read: nothing is imported."""

    def __init__(self, place: Place, text: str, remedy: str) -> None:
        super().__init__(f"{place}: {text}", remedy)


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line, and where it begins."""

    place: Place
    text: str


@dataclass(slots=True)
class PlannedAccount:
    """`settings` are arguments of account.add by name; `secret` one of its secrets, never shown."""

    address: str
    place: Place
    settings: dict[str, str]
    secrets: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class PlannedSender:
    """A sender pattern, and the address of the account it goes through."""

    pattern: str
    account: str
    place: Place


@dataclass(frozen=True, slots=True)
class NotCarried:
    """What was left out, and the command or setting that does it by hand."""

    place: Place
    what: str
    by_hand: str


@dataclass(slots=True)
class Plan:
    """In the order of the configuration. The first sender of a pattern counts."""

    accounts: list[PlannedAccount] = field(default_factory=list)
    senders: list[PlannedSender] = field(default_factory=list)
    left: list[NotCarried] = field(default_factory=list)

    def account(self, place: Place, settings: dict[str, str], secrets: dict[str, str], *, address: str) -> str:
        """Plan an account unless the same one is; its address.

        Another one of the same address gets its host behind a `+`.  An address is made of login and host where the
        configuration names none.
        """
        named = address if "@" in address else f"{address or 'relay'}@{settings.get('host', 'localhost')}"
        for known in self.accounts:
            if (known.settings, known.secrets) == (settings, secrets):
                return known.address
        taken = {known.address.lower() for known in self.accounts}
        if named.lower() in taken:
            local, _, domain = named.rpartition("@")
            named = f"{local}+{settings.get('host', 'other')}@{domain}"
        if named.lower() in taken:
            self.leave(place, f"a second account for {named}", f"relay account add {named} --host …")
            return named
        if len(self.accounts) >= MAX_ACCOUNTS:
            raise BadConfiguration(place, f"more than {MAX_ACCOUNTS} accounts", "import a part of it")
        if "@" not in address:
            self.leave(place, f"the mailbox of this login is not known: it is named {named}", "relay account list")
        self.accounts.append(PlannedAccount(named, place, settings, secrets))
        return named

    def sender(self, pattern: str, account: str, place: Place) -> None:
        """Route a pattern, unless it has a route already."""
        if all(known.pattern.lower() != pattern.lower() for known in self.senders):
            self.senders.append(PlannedSender(pattern, account, place))

    def leave(self, place: Place, what: str, by_hand: str) -> None:
        """Say what is not carried over."""
        self.left.append(NotCarried(place, what, by_hand))


def lines_of(path: Path) -> list[Line]:
    """The lines of a file, without their ends. Refused: not readable, too large, a line too long, no text."""
    whole = Place(path, 0)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadConfiguration(
            whole, (error.strerror or "cannot be read").lower(), "give a file that can be read"
        ) from None
    if len(raw) > MAX_BYTES:
        raise BadConfiguration(
            whole, f"has more than {MAX_BYTES} octets", "that is no configuration; give another file"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadConfiguration(whole, "is not UTF-8", "convert it, or give another file") from None
    lines = [Line(Place(path, number), line) for number, line in enumerate(text.split("\n"), 1)]
    for line in lines:
        if len(line.text) > MAX_LINE or "\0" in line.text:
            raise BadConfiguration(line.place, "is too long, or no text", "that is no configuration; give another file")
    return [Line(line.place, line.text.removesuffix("\r")) for line in lines]


def joined(lines: list[Line]) -> list[Line]:
    """Comments and empty lines left out; a line that begins with white space goes on the one before (postconf(5))."""
    whole: list[Line] = []
    for line in lines:
        if not line.text.strip() or line.text.lstrip().startswith("#"):
            continue
        if line.text[0].isspace() and whole:
            whole[-1] = Line(whole[-1].place, f"{whole[-1].text} {line.text.strip()}")
        else:
            whole.append(Line(line.place, line.text.strip()))
    return whole


def host_port(text: str, place: Place, *, default: int) -> tuple[str, int]:
    """Of `[host]:port`, `host:port`, `host`."""
    bare = text.strip()
    if bare.startswith("["):
        host, closed, rest = bare[1:].partition("]")
        port = rest.removeprefix(":") if closed else "?"
    elif bare.count(":") == 1:
        host, _, port = bare.partition(":")
    else:
        host, port = bare, ""
    port = {"submission": "587", "submissions": "465", "smtps": "465", "smtp": "25"}.get(port, port)
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise BadConfiguration(place, f"{text[:80]!r} is no host and port", "write it as [host]:587")
    return host, int(port) if port else default


def yes(text: str) -> bool:
    """Of the words that these programs take for yes."""
    return text.strip().lower() in ("yes", "on", "true", "1", "y")
