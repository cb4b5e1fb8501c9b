"""What the front door says: the only place where a failure of ours becomes a reply."""

from __future__ import annotations

from relay.mail.address import Fault, Malformed
from relay.mail.author import AuthorRefused
from relay.mail.errors import StorageFull
from relay.mail.header import MAX_HEADER, MAX_RECEIVED, HeaderTooLarge, MailLoop
from relay.mail.reply import Reply

SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
OK = Reply(250, "2.0.0", "Ok")
BYE = Reply(221, "2.0.0", "Bye")
HELP = Reply(214, "2.0.0", "HELO EHLO STARTTLS MAIL RCPT DATA RSET NOOP VRFY HELP QUIT; see RFC 5321")
CANNOT_VERIFY = Reply(252, "2.5.0", "Cannot verify, but will take a message for it")

SYNTAX = Reply(500, "5.5.2", "syntax error: a command is one line of printable characters that ends in CR LF")
LINE_TOO_LONG = Reply(500, "5.5.2", "command line too long")
UNKNOWN_COMMAND = Reply(500, "5.5.2", "command not recognised")
NOT_OFFERED = Reply(502, "5.5.1", "command not offered here")
NO_ARGUMENT = Reply(501, "5.5.4", "this command takes no argument")
HELO_NAME = Reply(501, "5.5.4", "HELO and EHLO need the name of the client")
HELO_FIRST = Reply(503, "5.5.1", "send HELO or EHLO first")
MAIL_TWICE = Reply(503, "5.5.1", "sender already given; RSET starts again")
MAIL_FIRST = Reply(503, "5.5.1", "need MAIL first")
RECIPIENT_FIRST = Reply(503, "5.5.1", "need a valid recipient first")
TLS_ALREADY = Reply(503, "5.5.1", "TLS already active")
TLS_READY = Reply(220, "2.0.0", "Ready to start TLS")
TLS_NOT_ALONE = Reply(501, "5.5.1", "STARTTLS must be the last command before the reply to it")

TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "too many recipients")
TOO_MANY_RECIPIENTS_NOW = Reply(450, "4.7.0", "too many recipients in a minute, try again later")
TOO_MANY_MESSAGES = Reply(450, "4.7.0", "too many messages in a minute, try again later")
DAY_SPENT = Reply(452, "4.7.0", "this client has sent its octets of the day, try again later")
LOGIN_FIRST = Reply(530, "5.7.0", "authentication required")
AUTH_NOT_NOW = Reply(503, "5.5.1", "authentication comes before MAIL, and once")
AUTH_MECHANISM = Reply(501, "5.5.4", "AUTH needs the name of a mechanism")
TLS_FIRST = Reply(530, "5.7.0", "must issue a STARTTLS command first")
BARE_LINE_END = Reply(554, "5.6.0", "a line of the message does not end in CR LF")
NO_AUTHOR = Reply(550, "5.7.1", "the header names no single author: it needs one address in From, or a Sender")
UNREADABLE_AUTHOR = Reply(550, "5.7.1", "the header's From cannot be read, so nobody knows whose mail this is")
BUSY = Reply(421, "4.7.0", "too many connections, try again later")
BUSY_CLIENT = Reply(421, "4.7.0", "too many connections from this client, try again later")
IDLE = Reply(421, "4.4.2", "idle for too long, closing")
TOO_SLOW = Reply(421, "4.4.2", "the message arrives too slowly, closing")
STOPPING = Reply(421, "4.3.2", "shutting down, try again later")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors, closing")
NOT_SMTP = Reply(421, "4.7.0", "this is an SMTP server, closing")
EARLY_TALKER = Reply(554, "5.5.1", "wait for the greeting before sending commands")
NO_ROOM = Reply(452, "4.3.1", "not enough storage, try again later")
FAULT = Reply(421, "4.3.0", "local error, closing, try again later")
OUR_FAULT = Reply(451, "4.3.0", "local error, try again later")


def _shown(address: str) -> str:
    """RFC 6531 3.7.4.2: replies are ASCII; who does not know SMTPUTF8 may stumble over more."""
    return address if address.isascii() else ascii(address)[1:-1]


def queued(message_id: str) -> Reply:
    """The reply that makes the message ours."""
    return Reply(250, "2.0.0", f"Ok: queued as {message_id}")


def too_large(limit: int) -> Reply:
    """RFC 1870 6.1."""
    return Reply(552, "5.3.4", f"message exceeds {limit} octets")


def network_not_allowed(host: str) -> Reply:
    """The greeting of whoever may not connect."""
    return Reply(554, "5.7.1", f"no access from {host}; ask the administrator to allow its network")


def no_account(reverse_path: str) -> Reply:
    """Nobody's credential fits this sender."""
    return Reply(
        550,
        "5.7.1",
        f"<{_shown(reverse_path)}>: no account may send as this address; "
        "ask the administrator of this relay to register it",
    )


def not_your_sender(reverse_path: str, client: str) -> Reply:
    """The sender is registered, but this client may not use it."""
    return Reply(
        550,
        "5.7.1",
        f"<{_shown(reverse_path)}>: not allowed from this client ({client}); "
        "ask the administrator of this relay to allow it",
    )


def not_your_author(address: str, client: str) -> Reply:
    """The header names somebody as author whom this client may not send as."""
    return Reply(
        550,
        "5.7.1",
        f"<{_shown(address)}> in the header: not allowed from this client ({client}); "
        "ask the administrator of this relay to allow it",
    )


def not_this_author(address: str) -> Reply:
    """The From policy of the sender is `refuse`."""
    return Reply(550, "5.7.1", f"<{_shown(address)}> in the header's From is not of the account that sends this mail")


def not_your_recipient(recipient: str, client: str) -> Reply:
    """The client entry has lists of recipients."""
    return Reply(
        550,
        "5.7.1",
        f"<{_shown(recipient)}>: not a recipient of this client ({client}); "
        "ask the administrator of this relay to allow it",
    )


def line_limit(octets: int) -> Reply:
    """A line of the message is too long."""
    return Reply(554, "5.6.0", f"a line of the message is longer than {octets} octets")


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


def malformed(error: Malformed, *, sender: bool) -> Reply:
    """An argument outside the grammar; RFC 3463 3.2: x.1.7 bad sender, x.1.3 bad recipient address."""
    table, default = (_SENDER_STATUS, "5.1.7") if sender else (_RECIPIENT_STATUS, "5.1.3")
    code, status = table.get(error.fault, (501, default))
    detail = f": {ascii(error.detail)[1:-1]}" if error.detail else ""
    return Reply(code, status, error.fault.value + detail)


def reply_to(error: Exception) -> Reply:
    """What a client hears of an exception. Never a 5xx for a fault of ours, never our insides."""
    match error:
        case AuthorRefused(reply=reply):
            return reply
        case HeaderTooLarge():
            return Reply(552, "5.3.4", f"the header section is larger than {MAX_HEADER} octets")
        case MailLoop():
            return Reply(554, "5.4.6", f"mail loop: more than {MAX_RECEIVED} hops, or here before")
        case StorageFull():
            return NO_ROOM
        case _:
            return OUR_FAULT
