"""What the front door says: the only place where a failure of ours becomes a reply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from shlex import quote

from relay.mail.address import Fault, Malformed
from relay.mail.author import AuthorRefused
from relay.mail.errors import StorageFull
from relay.mail.header import MAX_HEADER, MAX_RECEIVED, HeaderTooLarge, MailLoop
from relay.mail.reply import Reply

_MAX_SHOWN = 100  # characters of an argument in a reply
_KEYWORD = re.compile(r"(?:from|to): *", re.I)


@dataclass(frozen=True, slots=True)
class Refusal(Reply):
    """A no of ours. `remedy` is for the administrator, who reads it beside the reply in the log: one line."""

    remedy: str = ""


SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
OK = Reply(250, "2.0.0", "Ok")
BYE = Reply(221, "2.0.0", "Bye")
HELP = Reply(214, "2.0.0", "HELO EHLO STARTTLS MAIL RCPT DATA RSET NOOP VRFY HELP QUIT; see RFC 5321")
CANNOT_VERIFY = Reply(252, "2.5.0", "Cannot verify, but will take a message for it")

_OF_PROTOCOL = "the application breaks SMTP: see its version and settings, or send through `relay sendmail`"
_IF_TLS = "if it speaks TLS from the first octet, give it a door with tls implicit, or switch its TLS off"
_OF_LOAD = "close connections in the application"
_OF_STORE = "see storage.full and storage.failed in this log"

SYNTAX = Refusal(
    500, "5.5.2", "syntax error: a command is one line of printable characters that ends in CR LF", _IF_TLS
)
LINE_TOO_LONG = Refusal(500, "5.5.2", "command line too long", _OF_PROTOCOL)
UNKNOWN_COMMAND = Refusal(500, "5.5.2", "command not recognised", _OF_PROTOCOL)
NOT_OFFERED = Refusal(
    502,
    "5.5.1",
    "command not offered here",
    "switch login and encryption off in the application; or give it what it asks for: "
    "AUTH with `relay client set NAME --auth accept-any`, STARTTLS with a certificate at this door",
)
NO_ARGUMENT = Refusal(501, "5.5.4", "this command takes no argument", _OF_PROTOCOL)
HELO_NAME = Refusal(
    501,
    "5.5.4",
    "HELO and EHLO need the name of the client",
    "give the application a host name of at most 255 octets; or take no-helo-syntax out of its client entry",
)
HELO_FIRST = Refusal(503, "5.5.1", "send HELO or EHLO first", _OF_PROTOCOL)
MAIL_TWICE = Refusal(503, "5.5.1", "sender already given; RSET starts again", _OF_PROTOCOL)
MAIL_FIRST = Refusal(503, "5.5.1", "need MAIL first", "see why MAIL was refused in the line before")
RECIPIENT_FIRST = Refusal(503, "5.5.1", "need a valid recipient first", "see why RCPT was refused in the line before")
TLS_ALREADY = Refusal(503, "5.5.1", "TLS already active", _OF_PROTOCOL)
TLS_READY = Reply(220, "2.0.0", "Ready to start TLS")
TLS_NOT_ALONE = Refusal(501, "5.5.1", "STARTTLS must be the last command before the reply to it", _OF_PROTOCOL)

TOO_MANY_RECIPIENTS = Refusal(
    452, "4.5.3", "too many recipients", "the application must send again to the rest; or raise MAX_RECIPIENTS"
)
TOO_MANY_RECIPIENTS_NOW = Refusal(
    450,
    "4.7.0",
    "too many recipients in a minute, try again later",
    "send more slowly, or `relay client set NAME --recipients-per-minute N`",
)
TOO_MANY_MESSAGES = Refusal(
    450,
    "4.7.0",
    "too many messages in a minute, try again later",
    "send more slowly, or `relay client set NAME --messages-per-minute N`",
)
LOGIN_FIRST = Refusal(
    530,
    "5.7.0",
    "authentication required",
    "let the application log in with the name and password of its client entry; or `relay client set NAME --auth none`",
)
AUTH_NOT_NOW = Refusal(503, "5.5.1", "authentication comes before MAIL, and once", _OF_PROTOCOL)
AUTH_MECHANISM = Refusal(501, "5.5.4", "AUTH needs the name of a mechanism", _OF_PROTOCOL)
TLS_FIRST = Refusal(
    530,
    "5.7.0",
    "must issue a STARTTLS command first",
    "switch STARTTLS on in the application, or send it to a door that does not require TLS",
)
BARE_LINE_END = Refusal(
    554,
    "5.6.0",
    "a line of the message does not end in CR LF",
    "take no-bare-lf and no-bare-cr out of the switches of its client entry, if that is meant",
)
NO_AUTHOR = Refusal(
    550,
    "5.7.1",
    "the header names no single author: it needs one address in From, or a Sender",
    "set the application's sender address; or let the envelope say whose mail it is: "
    "`relay client set NAME --identity envelope`",
)
UNREADABLE_AUTHOR = Refusal(
    550,
    "5.7.1",
    "the header's From cannot be read, so nobody knows whose mail this is",
    "write From as one address; or `relay client set NAME --tolerate +broken-fields`, "
    "or `relay sender add SENDER ACCOUNT --from rewrite`",
)
BUSY = Refusal(
    421, "4.7.0", "too many connections, try again later", f"{_OF_LOAD}, or raise RELAY_LISTENER__MAX_CONNECTIONS"
)
BUSY_CLIENT = Refusal(
    421,
    "4.7.0",
    "too many connections from this client, try again later",
    f"{_OF_LOAD}, or raise RELAY_LISTENER__MAX_CONNECTIONS_PER_CLIENT",
)
IDLE = Reply(421, "4.4.2", "idle for too long, closing")
TOO_SLOW = Reply(421, "4.4.2", "the message arrives too slowly, closing")
STOPPING = Reply(421, "4.3.2", "shutting down, try again later")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors, closing")
NOT_SMTP = Refusal(421, "4.7.0", "this is an SMTP server, closing", f"an HTTP or TLS client came here; {_IF_TLS}")
EARLY_TALKER = Refusal(554, "5.5.1", "wait for the greeting before sending commands", _OF_PROTOCOL)
NO_ROOM = Refusal(452, "4.3.1", "not enough storage, try again later", f"free space in RELAY_DATA_DIR; {_OF_STORE}")
FAULT = Refusal(421, "4.3.0", "local error, closing, try again later", "see daemon.fault in this log, and report it")
OUR_FAULT = Refusal(451, "4.3.0", "local error, try again later", _OF_STORE)


def _shown(address: str) -> str:
    """RFC 6531 3.7.4.2: replies are ASCII; who does not know SMTPUTF8 may stumble over more."""
    return address if address.isascii() else ascii(address)[1:-1]


def queued(message_id: str) -> Reply:
    """The reply that makes the message ours."""
    return Reply(250, "2.0.0", f"Ok: queued as {message_id}")


def too_large(limit: int) -> Refusal:
    """RFC 1870 6.1."""
    return Refusal(
        552,
        "5.3.4",
        f"message exceeds {limit} octets",
        "send less at a time, or raise RELAY_LISTENER__MAX_MESSAGE_BYTES as far as the provider takes it",
    )


def larger_than_a_day(limit: int, client: str) -> Refusal:
    """One mail that no day of this client has room for: to send it again is no use."""
    return Refusal(
        552,
        "5.3.4",
        f"larger than the {limit} octets that this client ({client}) may send in a day",
        f"send less at a time, or `relay client set {client} --bytes-per-day N`",
    )


def day_spent(client: str) -> Refusal:
    """Later there will be room."""
    return Refusal(
        452,
        "4.7.0",
        f"this client ({client}) has sent its octets of the day, try again later",
        f"wait, or `relay client set {client} --bytes-per-day N`",
    )


def network_not_allowed(host: str) -> Refusal:
    """The greeting of whoever may not connect."""
    return Refusal(
        554,
        "5.7.1",
        f"no access from {host}; ask the administrator to allow its network",
        f"if {host} may connect, add its network to RELAY_LISTENER__ALLOWED_NETWORKS, then `relay reload`",
    )


def no_account(reverse_path: str) -> Refusal:
    """Nobody's credential fits this sender."""
    # Quoted: an administrator will copy it, and a local part may hold what a shell obeys.
    if reverse_path:
        remedy = (
            f"`relay account add {quote(reverse_path)}`, or `relay sender add {quote(reverse_path)} ACCOUNT`; "
            f"or map it to one that has an account: --map {quote(f'{reverse_path}=ADDRESS')} (docs/legacy-clients.md)"
        )
    else:
        remedy = "bounces have no sender: `relay sender add '<>' ACCOUNT`"
    return Refusal(
        550,
        "5.7.1",
        f"<{_shown(reverse_path)}>: no account may send as this address; "
        "ask the administrator of this relay to register it",
        remedy,
    )


def not_your_sender(reverse_path: str, client: str, *, entry: bool) -> Refusal:
    """The sender is registered, but this client may not use it. `entry`: `client` is the name of an entry."""
    return Refusal(
        550,
        "5.7.1",
        f"<{_shown(reverse_path)}>: not allowed from this client ({client}); "
        "ask the administrator of this relay to allow it",
        _allow(reverse_path or "<>", client, entry=entry),
    )


def _allow(sender: str, client: str, *, entry: bool) -> str:
    if not entry:
        return f"`relay client add NAME --network {client} --sender {quote(sender)}`: no client has that network"
    return f"`relay client set {client} --sender {quote(sender)}` with the others it has: what is given replaces all"


def not_your_author(address: str, client: str) -> Refusal:
    """The header names somebody as author whom this client may not send as."""
    return Refusal(
        550,
        "5.7.1",
        f"<{_shown(address)}> in the header: not allowed from this client ({client}); "
        "ask the administrator of this relay to allow it",
        f"{_allow(address, client, entry=True)}; or `relay sender add SENDER ACCOUNT --from rewrite`, "
        "then From becomes the account's",
    )


def not_this_author(address: str) -> Refusal:
    """The From policy of the sender is `refuse`."""
    return Refusal(
        550,
        "5.7.1",
        f"<{_shown(address)}> in the header's From is not of the account that sends this mail",
        "set the application's From to an address of that account; or `relay sender add SENDER ACCOUNT --from rewrite`",
    )


def not_your_recipient(recipient: str, client: str) -> Refusal:
    """The client entry has lists of recipients."""
    return Refusal(
        550,
        "5.7.1",
        f"<{_shown(recipient)}>: not a recipient of this client ({client}); "
        "ask the administrator of this relay to allow it",
        f"see `relay client show {client}`: --recipient names whom alone it may send to, --deny whom not",
    )


def line_limit(octets: int) -> Refusal:
    """A line of the message is too long."""
    return Refusal(
        554,
        "5.6.0",
        f"a line of the message is longer than {octets} octets",
        "`relay client set NAME --tolerate +long-lines`: lines up to 1 MiB are re-encoded",
    )


_SENDER_STATUS = {
    Fault.KEYWORD: (501, "5.5.4"),
    Fault.BRACKETS: (501, "5.5.4"),
    Fault.PARAMETER: (501, "5.5.4"),
    Fault.SPACES: (501, "5.5.4"),
    Fault.UNKNOWN_PARAMETER: (555, "5.5.4"),
    Fault.NOT_ASCII: (553, "5.6.7"),  # RFC 6531 3.5
    Fault.SOURCE_ROUTE: (553, "5.1.7"),
}
_RECIPIENT_STATUS = _SENDER_STATUS | {
    Fault.SOURCE_ROUTE: (553, "5.7.1"),
    Fault.RELAY_HACK: (553, "5.7.1"),
    Fault.LITERAL: (553, "5.1.3"),
}


_REMEDIES = {
    Fault.BRACKETS: "`relay client set NAME --tolerate +no-brackets`",
    Fault.SPACES: "take no-spaces out of the switches of its client entry",
    Fault.NOT_ASCII: "give an address in ASCII, or an application that knows SMTPUTF8",
    Fault.NULL: "give the application a recipient",
    Fault.SOURCE_ROUTE: "give the address alone, without @host: in front of it",
    Fault.LITERAL: "give a recipient with a domain name",
    Fault.RELAY_HACK: "give the recipient's own address",
    Fault.UNKNOWN_PARAMETER: "an application may only ask for what EHLO offers: see its settings",
}
_OF_ADDRESS = (
    "give the application a whole address, name@example.com; or put up with it: "
    "`relay client set NAME --tolerate +odd-dots`, or +bare-recipients with --default-domain D"
)


def malformed(error: Malformed, argument: bytes, *, sender: bool) -> Refusal:
    """`argument` is outside the grammar; RFC 3463 3.2: x.1.7 bad sender, x.1.3 bad recipient address."""
    table, default = (_SENDER_STATUS, "5.1.7") if sender else (_RECIPIENT_STATUS, "5.1.3")
    code, status = table.get(error.fault, (501, default))
    text = error.fault.value + (f": {ascii(error.detail)[1:-1]}" if error.detail else "")
    given = said(argument)
    if given and given not in text:
        text += f" (it was {given})"
    return Refusal(code, status, text, _REMEDIES.get(error.fault, _OF_ADDRESS))


def said(argument: bytes) -> str:
    """The address in the argument of a command, parameters and all: printable ASCII, bounded."""
    text = ascii(_KEYWORD.sub("", argument.decode("utf-8", "replace"), count=1))[1:-1]
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def remedy_of(reply: Reply, client: str = "NAME") -> str:
    """What an administrator may do about it; "" when it is no refusal of ours. `client`: the name of its entry."""
    return reply.remedy.replace("set NAME ", f"set {client} ") if isinstance(reply, Refusal) else ""


def to_do_of(reply: Reply, client: str = "NAME") -> dict[str, str]:
    """Likewise, as the key `to_do` of a log line where there is anything to do."""
    remedy = remedy_of(reply, client)
    return {"to_do": remedy} if remedy else {}


def reply_to(error: Exception) -> Reply:
    """What a client hears of an exception. Never a 5xx for a fault of ours, never our insides."""
    match error:
        case AuthorRefused(reply=reply):
            return reply
        case HeaderTooLarge():
            return Refusal(
                552,
                "5.3.4",
                f"the header section is larger than {MAX_HEADER} octets",
                "send to fewer recipients at a time, or see what the application writes into its header",
            )
        case MailLoop():
            return Refusal(
                554,
                "5.4.6",
                f"mail loop: more than {MAX_RECEIVED} hops, or here before",
                "find who sends mail of this relay back to it: its Received fields name the hosts",
            )
        case StorageFull():
            return NO_ROOM
        case _:
            return OUR_FAULT
