"""Builds delivery status notifications: RFC 3464 in a multipart/report (RFC 6522), for people and programs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage

from relay.aftercare.letters import plain, put_text
from relay.aftercare.original import Original
from relay.aftercare.wording import indented, line, moment, numbered, rendered
from relay.mail.counted import counted
from relay.mail.dsn import decoded_xtext, seven_bit
from relay.mail.header import format_date
from relay.queue.model import Owed

_MOST_IN_WORDS = 50  # recipients that people see; programs see all
_MOST_DIAGNOSTIC = 500  # characters of a reply; the whole of it is in the relay's history
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")  # RFC 3464 2.3.4
_ORDER = (Owed.FAILED, Owed.DELAYED, Owed.RELAYED)  # what a notice of several kinds is called after


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one recipient. `remote` is the host that said `reply`; "": nobody did, or we ourselves.

    `cause` and `steps` are for people.  `attempted_at` is ms since 1970, None: it was never tried.
    """

    recipient: str
    action: Owed
    orcpt: str
    code: int
    status: str
    reply: str
    remote: str
    cause: str
    steps: tuple[str, ...]
    attempted_at: int | None
    expired: bool = False  # it was tried until its lifetime was over


@dataclass(frozen=True, slots=True)
class Report:
    """One notice about one message. Times are ms since 1970; `envid` is in xtext, as it was given.

    `waits`: recipients that are still tried and that it does not tell of.  `unsaid`: notices about other messages that
    were withheld before this one.
    """

    id: str  # of the message, as people see it
    sender: str
    message_id: str
    envid: str
    arrived: int
    retried_until: int
    fates: tuple[Fate, ...]
    original: Original
    waits: int = 0
    unsaid: int = 0

    @property
    def kind(self) -> Owed:
        """The gravest of what became of its recipients."""
        return next(kind for kind in _ORDER if any(fate.action is kind for fate in self.fates))


def report(facts: Report, *, relay: str) -> tuple[EmailMessage, bytes]:
    """Header and body of the notice, without its origin: `letters.own_mail` adds that."""
    subject, body = _words(facts, relay)
    mail = plain(subject, "")
    del mail["Content-Type"], mail["Content-Transfer-Encoding"], mail["Auto-Submitted"]
    mail["Auto-Submitted"] = "auto-replied"  # RFC 3834 5.1, as every mail system says it of its notices
    text = EmailMessage()
    put_text(text, body)
    del text["MIME-Version"]
    parts = (
        text.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        b"Content-Type: message/delivery-status\r\n\r\n" + _status(facts, relay),
        facts.original.part,
    )
    boundary = f"=_relay_{facts.id}"
    while any(boundary.encode() in part for part in parts):
        boundary += "_"
    separator = f"--{boundary}\r\n".encode()
    octets = b"".join(separator + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
    mail["Content-Type"] = f'multipart/report; report-type="delivery-status"; boundary="{boundary}"'
    if not octets.isascii():
        mail["Content-Transfer-Encoding"] = "8bit"
    return mail, octets


# -- for people --------------------------------------------------------------------------------------------


def _words(facts: Report, relay: str) -> tuple[str, str]:
    original = facts.original
    return rendered(
        facts.kind.value,
        relay=relay,
        sender=line(facts.sender),
        subject=original.subject or "(no subject)",
        message_id=line(facts.message_id) or "(none)",
        arrived=moment(facts.arrived),
        until=moment(facts.retried_until),
        recipients=_recipients(facts.fates),
        others=_others(facts.waits),
        more=_unsaid(facts.unsaid),
        attached=original.described,
        id=facts.id,
    )


def _recipients(fates: Sequence[Fate]) -> str:
    """Those with the same reason together, each group with why and what to do."""
    groups: dict[tuple[object, ...], list[Fate]] = {}
    for fate in fates:
        groups.setdefault((fate.action, fate.cause, fate.code, fate.status, fate.reply), []).append(fate)
    return "\n\n".join(_group(group) for group in groups.values())


_BEFORE = {Owed.FAILED: "Not delivered to:", Owed.DELAYED: "Still waiting for:", Owed.RELAYED: "Handed on for:"}


def _group(fates: Sequence[Fate]) -> str:
    first, names = fates[0], [fate.recipient for fate in fates[:_MOST_IN_WORDS]]
    if len(fates) > len(names):
        names.append(f"and {len(fates) - len(names)} more")
    text = [_BEFORE[first.action], indented(names)]
    if first.cause:
        text += ["", "Why:", line(first.cause)]
    said = _said(first)
    if said and first.action is not Owed.RELAYED:
        text += ["", "The provider said:" if first.remote else "What happened:", indented([said])]
    if first.steps and first.action is not Owed.RELAYED:
        text += ["", "What to do:", numbered(first.steps)]
    return "\n".join(text)


def _said(fate: Fate) -> str:
    return " ".join(part for part in (str(fate.code or ""), fate.status, fate.reply) if part)


def _others(waits: int) -> str:
    if not waits:
        return ""
    return f" {counted(waits, 'other recipient')} {'is' if waits == 1 else 'are'} still tried."


def _unsaid(count: int) -> str:
    if not count:
        return ""
    return (
        f"{counted(count, 'more notice')} {'was' if count == 1 else 'were'} not written, as too many came in an hour; "
        "whoever runs the relay sees all of it with relay queue list --state bounced"
    )


# -- for programs ------------------------------------------------------------------------------------------


def _status(facts: Report, relay: str) -> bytes:
    """RFC 3464 2: the fields of the message, then those of each recipient, separated by empty lines."""
    message = [("Original-Envelope-Id", decoded_xtext(facts.envid) or "")] if facts.envid else []
    message += [("Reporting-MTA", f"dns; {relay}"), ("Arrival-Date", format_date(facts.arrived / 1000))]
    blocks = [message, *(_of(fate, facts) for fate in facts.fates)]
    return b"\r\n".join(_fields(block) for block in blocks)


def _of(fate: Fate, facts: Report) -> list[tuple[str, str]]:
    fields = [("Original-Recipient", _original_recipient(fate.orcpt))] if fate.orcpt else []
    fields += [("Final-Recipient", _address(fate.recipient))]
    fields += [("Action", fate.action.value), ("Status", status_of(fate))]
    if fate.remote:
        fields.append(("Remote-MTA", f"dns; {fate.remote}"))
    said = _said(fate)
    if said and fate.code:
        fields.append(("Diagnostic-Code", f"smtp; {_ascii(said)[:_MOST_DIAGNOSTIC]}"))
    elif said:
        fields.append(("Diagnostic-Code", f"X-Relay; {_ascii(said)[:_MOST_DIAGNOSTIC]}"))
    if fate.attempted_at is not None:
        fields.append(("Last-Attempt-Date", format_date(fate.attempted_at / 1000)))
    if fate.action is Owed.DELAYED:  # RFC 3464 2.3.8: of no other action
        fields.append(("Will-Retry-Until", format_date(facts.retried_until / 1000)))
    return fields


def status_of(fate: Fate) -> str:
    """The status of RFC 3463 that goes with the action: 2 for what was relayed, 4 for what waits or waited too long."""
    known = fate.status if _STATUS.fullmatch(fate.status) else ""
    match fate.action:
        case Owed.RELAYED:
            return known if known.startswith("2") else "2.0.0"
        case Owed.DELAYED:
            return known if known.startswith("4") else "4.0.0"
        case _:
            if fate.expired:
                return "4.4.7"  # RFC 3463 3.5: delivery time expired
            return f"5{known[1:]}" if known else "5.0.0"  # a 4yz that lasts comes to the same as a 5yz


def _address(address: str) -> str:
    """RFC 3464 2.3.2, RFC 6533 3: in a form that needs no SMTPUTF8."""
    return f"rfc822; {address}" if address.isascii() else f"utf-8; {seven_bit(address)}"


def _original_recipient(orcpt: str) -> str:
    """RFC 3464 2.3.1: without the xtext; an address of type utf-8 stays as it is (RFC 6533 3)."""
    kind, _, address = orcpt.partition(";")
    plain_form = address if kind.lower() == "utf-8" else decoded_xtext(address)
    return f"{kind}; {plain_form or address}"


def _ascii(text: str) -> str:
    return line(text).encode("ascii", "backslashreplace").decode()


def _fields(fields: Iterable[tuple[str, str]]) -> bytes:
    return "".join(f"{_folded(f'{name}: {_ascii_only(value)}')}\r\n" for name, value in fields).encode("ascii")


def _ascii_only(value: str) -> str:
    return value if value.isascii() and value.isprintable() else _ascii(value)


def _folded(field: str) -> str:
    """RFC 5322 2.2.3: at spaces, lines of at most 76 characters where there are any."""
    lines: list[str] = []
    while len(field) > 76:
        at = field.rfind(" ", 1 if lines else field.index(":") + 2, 77)
        at = at if at > 0 else field.find(" ", 77)
        if at < 0:
            break
        lines.append(field[:at])
        field = field[at:]
    return "\r\n".join([*lines, field])
