"""What the front door would do with a mail, step by step, without taking it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.control.context import Control, ControlError
from relay.control.queue import account_name
from relay.control.reasons import shown
from relay.listener import replies
from relay.listener.intake import MAX_LINE, MAX_LONG_LINE
from relay.listener.policy import AccessPolicy, Peer, Sender
from relay.listener.rates import Rates
from relay.listener.replies import LOGIN_FIRST, remedy_of
from relay.mail.address import Malformed, parse_mail, parse_rcpt
from relay.mail.author import Authors
from relay.mail.canonical import Canonicaliser
from relay.mail.care import Care
from relay.mail.errors import RelayError
from relay.mail.header import Facts, HeaderSurgeon, Trace
from relay.mail.reply import Reply

if TYPE_CHECKING:
    from relay.config.settings import ListenerSettings

_ID = "0000000000000"


@dataclass
class _Course:
    """What was found so far; `reply` is the one that ends it."""

    steps: list[dict[str, Any]]
    reply: Reply | None = None

    def note(self, step: str, text: str) -> None:
        self.steps.append({"step": step, "ok": True, "text": text})

    def refuse(self, step: str, reply: Reply) -> None:
        self.steps.append({"step": step, "ok": False, "text": str(reply)})
        self.reply = reply


class _Mail(NamedTuple):
    """`content`: its beginning, an octet a character; None: not given. `size` in octets, 0: not known."""

    sender: str
    recipient: str
    content: str | None
    size: int


async def client_try(
    control: Control,
    *,
    address: str,
    sender: str,
    recipient: str,
    content: str | None = None,
    size: int | None = None,
) -> dict[str, Any]:
    """Would mail from this IP address, MAIL FROM and RCPT TO be taken, and what becomes of it?

    `content`: the beginning of the mail, an octet a character (ISO 8859-1); without it the header is not looked at.
    `size`: octets of the whole mail, where `content` is not all of it.  Rates and connection caps are not part of the
    answer, nor is a login: it counts as done, where a door offers it.
    """
    _check_address(address)
    course = _Course([])
    found: dict[str, Any] = {"client": None, "account": None, "sender": None, "recipient": None, "repaired": []}
    mail = _Mail(sender, recipient, content, max(size or 0, len(content or "")))
    _walk(control, course, found, address, mail)
    reply = course.reply
    remedy = remedy_of(reply, found["client"] or "NAME") if reply is not None else ""
    return {
        **found,
        "accepted": reply is None,
        "reply": str(reply or ""),
        "remedy": remedy,
        "steps": course.steps,
    }


def _check_address(address: str) -> None:
    try:
        ip_address(address)
    except ValueError:
        raise ControlError(f"{address[:64]} is no IP address", "give the application's own, such as 10.1.2.3") from None


def _walk(control: Control, course: _Course, found: dict[str, Any], address: str, mail: _Mail) -> None:
    entered = _enter(control, course, address)
    if entered is None:
        return
    door, policy, peer = entered
    found["client"] = peer.client.name if peer.client is not None else None
    taken = _mail(course, door, policy, peer, mail)
    if taken is None:
        return
    if taken.route is not None:
        found["account"] = account_name(control, taken.route.account_id)
        found["sender"] = taken.path or "<>"
        course.note("MAIL", f"goes out as {taken.path or '<>'} through {found['account']}: rule {taken.route.rule}")
    else:
        course.note("MAIL", "taken for now: whose mail it is will be decided by its header")
    goal = _rcpt(course, policy, peer, mail.recipient)
    if goal is None:
        return
    captured = peer.client.capture if peer.client is not None else ""
    found["recipient"] = captured or goal
    course.note("RCPT", f"captured: goes to {captured} instead of {goal}" if captured else f"goes to {goal}")
    if mail.content is None and policy.must_judge(peer, taken.route):
        course.note("header", "decides as well for this client: give a FILE to see how")
    elif mail.content is not None:
        _header(control, course, found, door, policy, peer, taken, goal, mail.content)
    if course.reply is not None:
        return
    if mail.size > len(mail.content or ""):
        course.note("DATA", f"only its first {len(mail.content or '')} octets of {mail.size} were looked at")
    direct = peer.client is not None and peer.client.answer == "direct"
    course.note("DATA", "250, once the provider has answered" if direct else "250, once it is safely queued")


def _enter(control: Control, course: _Course, address: str) -> tuple[ListenerSettings, AccessPolicy, Peer] | None:
    """By the first door that lets `address` in; by the first that offers AUTH where the client must log in."""
    doors = [(door, AccessPolicy(door, control.directory, lambda: True, Rates())) for door in control.settings.doors]
    tried = [(door, policy, policy.enter(address)) for door, policy in doors]
    inside = [(door, policy, peer) for door, policy, peer in tried if isinstance(peer, Peer)]
    if not inside:
        reply = tried[0][2]
        assert isinstance(reply, Reply)
        course.refuse("connect", reply)
        return None
    client = inside[0][2].client
    logs_in = client is not None and client.auth == "login"
    offering = [entered for entered in inside if _auth(entered[0])] if logs_in else inside
    door, policy, peer = (offering or inside)[0]
    if len(doors) > 1 or door.tls_mode == "required":
        tls = ", behind STARTTLS" if door.tls_mode == "required" else ""
        which = f" that lets {address} in" + (" and offers AUTH" if logs_in and offering else "")
        course.note("door", f"{door.address}{tls}: the first of {len(doors)}{which}")
    course.note("connect", _who(control, peer))
    if logs_in:
        if not offering:
            course.note("AUTH", f"no door that lets {address} in offers it: {_NO_AUTH}")
            course.refuse("MAIL", LOGIN_FIRST)
            return None
        others = ", ".join(f"{other.address} {_auth(other)}" for other, _, _ in offering)
        course.note("AUTH", f"PLAIN and LOGIN are offered by {others}; the login counts as done here")
    return door, policy, peer._replace(authenticated=True)


_NO_AUTH = "give one a certificate (TLS_CERT, TLS_KEY), or AUTH_WITHOUT_TLS=yes where clear text is no risk"


def _auth(door: ListenerSettings) -> str:
    """How a client that must log in can do so; "": it cannot."""
    if door.tls_mode == "implicit":
        return "(TLS from the first octet)"
    if door.auth_without_tls:
        return "(also without TLS)" if door.tls_cert is not None else "(without TLS)"
    return "behind STARTTLS" if door.tls_mode != "none" else ""


def _who(control: Control, peer: Peer) -> str:
    if peer.client is None and control.directory.clients():
        return f"let in, but no client entry holds {peer.host}: relay client add NAME --network {peer.host}"
    if peer.client is None:
        return "let in; no client is defined, so every registered sender may be used"
    text = f"let in as client {peer.client.name}"
    return f"{text}; it has to log in as {peer.client.login}" if peer.client.auth == "login" else text


def _mail(course: _Course, door: ListenerSettings, policy: AccessPolicy, peer: Peer, mail: _Mail) -> Sender | None:
    argument = f"FROM:<{mail.sender.strip('<>')}>".encode()
    try:
        path = parse_mail(argument + b" SMTPUTF8", tolerance=peer.tolerance).address
    except Malformed as error:
        course.refuse("MAIL", replies.malformed(error, argument, sender=True))
        return None
    limit = door.max_message_bytes
    taken = replies.too_large(limit) if mail.size > limit else policy.sender(peer, path, mail.size)
    if isinstance(taken, Reply):
        course.refuse("MAIL", taken)
        return None
    return taken


def _rcpt(course: _Course, policy: AccessPolicy, peer: Peer, recipient: str) -> str | None:
    given = recipient.strip("<>")
    argument = f"TO:<{given}>".encode()
    try:
        goal = parse_rcpt(argument, smtputf8=True, tolerance=peer.tolerance).address
        if "@" not in goal and peer.client is not None:
            goal = parse_rcpt(f"TO:<{goal}@{peer.client.default_domain}>".encode(), smtputf8=True).address
    except Malformed as error:
        course.refuse("RCPT", replies.malformed(error, argument, sender=False))
        return None
    refusal = policy.recipient(peer, goal)
    if refusal is not None:
        course.refuse("RCPT", refusal)
        return None
    return goal


def _header(
    control: Control,
    course: _Course,
    found: dict[str, Any],
    door: ListenerSettings,
    policy: AccessPolicy,
    peer: Peer,
    taken: Sender,
    goal: str,
    content: str,
) -> None:
    """As the front door would: canonical line ends, header surgery, and the judgement on the author."""
    try:
        octets = content.encode("latin-1")
    except UnicodeEncodeError:
        raise ControlError("the content is not one octet a character", "use the command line") from None
    outcome: list[tuple[Sender, str | None]] = []

    def judge(authors: Authors) -> str | None:
        outcome.append(policy.judge(peer, taken, authors))
        return outcome[-1][1]

    client = peer.client
    must = policy.must_judge(peer, taken.route)
    care = Care(
        peer.tolerance,
        client.charset if client is not None else "",
        (goal,) if client is not None and client.capture else (),
        judge if must else None,
    )
    hostname = door.hostname or "localhost"
    trace = Trace(_ID, hostname, hostname, "try", peer.host, "ESMTP", taken.path, goal, 0.0)
    surgeon = HeaderSurgeon(trace, care)
    canonical = Canonicaliser()
    try:
        wire = canonical.feed(octets + b"\r\n.\r\n")
        surgeon.feed(wire)
        surgeon.finish()
    except RelayError as error:
        course.refuse("header", replies.reply_to(error))
        return
    refusal = _line_trouble(peer, canonical, wire)
    if refusal is not None:
        course.refuse("DATA", refusal)
        return
    facts = surgeon.facts or Facts()
    ends = ["bare-lf"] * canonical.bare_lf + ["bare-cr"] * canonical.bare_cr
    found["repaired"] = [*ends, *facts.repaired]
    if outcome:
        sender, author = outcome[-1]
        assert sender.route is not None
        found["account"], found["sender"] = account_name(control, sender.route.account_id), sender.path
        course.note("header", f"goes out as {sender.path} through {found['account']}: rule {sender.route.rule}")
        if author is not None:
            course.note("header", f"From becomes {author}")
    course.note("header", f"From: {shown(facts.header_from)}")
    if found["repaired"]:
        course.note("header", f"repaired: {', '.join(found['repaired'])}")


def _line_trouble(peer: Peer, canonical: Canonicaliser, wire: bytes) -> Reply | None:
    """As far as the beginning of the mail tells."""
    tolerance = peer.tolerance
    if (canonical.bare_lf and "bare-lf" not in tolerance) or (canonical.bare_cr and "bare-cr" not in tolerance):
        return replies.BARE_LINE_END
    limit = MAX_LONG_LINE if "long-lines" in tolerance else MAX_LINE
    return replies.line_limit(limit) if max(map(len, wire.split(b"\r\n"))) > limit else None
