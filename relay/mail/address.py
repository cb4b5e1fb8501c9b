"""The strict grammar of the arguments of MAIL and RCPT: path and parameters (RFC 5321 4.1.2, RFC 6531 3.3)."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple, NoReturn

from relay.mail.dsn import (
    NO_MESSAGE_REQUEST,
    NO_RECIPIENT_REQUEST,
    MessageRequest,
    RecipientRequest,
    decoded_xtext,
    envid_of,
    message_request,
    notify_of,
    orcpt_of,
    recipient_request,
    ret_of,
)
from relay.mail.errors import RelayError
from relay.mail.tolerance import DEFAULT, Tolerance

MAX_PATH = 254  # octets; RFC 5321 4.5.3.1.3 without the brackets
MAX_LOCAL = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN = 255  # RFC 5321 4.5.3.1.2

# What most addresses look like, without "!" and "%"; the others take the long way.  Written for speed: both cases
# spelled out, nothing tried twice.
_ATOM = r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]++"
_LABEL = r"[A-Za-z0-9]++(?>(?:-++[A-Za-z0-9]++)*)"
_PLAIN = rf"<({_ATOM}(?>(?:\.{_ATOM})*)@{_LABEL}(?>(?:\.{_LABEL})*))>"
_PLAIN_MAIL = re.compile(rf"[Ff][Rr][Oo][Mm]: *{_PLAIN}".encode())
_PLAIN_RCPT = re.compile(rf"[Tt][Oo]: *{_PLAIN}".encode())
_SHORT = 63 + len(b"TO:<a@>")  # octets of an argument in which no local part and no label is too long
_PLAIN_OPTIONS = re.compile(rb"( SIZE=[0-9]{1,15})?( BODY=8BITMIME)?", re.I)

_WIDE = r"[^\x00-\x7f]"  # RFC 6531 3.3: UTF8-non-ascii joins atext, qtext and sub-domain
_WIDE_ATOM = rf"(?:[a-z0-9!#$%&'*+/=?^_`{{|}}~-]|{_WIDE})+"
_DOT_STRING = rf"{_WIDE_ATOM}(?:\.{_WIDE_ATOM})*"
_QUOTED = rf'"(?:[ !#-\[\]-~]|{_WIDE}|\\[ -~])+"'
_U = r"[^\x00-\x7f\u3002\uff0e\uff61]"  # no other script's full stop: some would read it as "."
_WIDE_LABEL = rf"(?:[a-z0-9]|{_U})(?:(?:[a-z0-9-]|{_U}){{0,61}}(?:[a-z0-9]|{_U}))?"
_LITERAL = r"\[(?:IPv6:[0-9a-f:.]{2,45}|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[a-z0-9-]*[a-z0-9]:[!-Z^-~]+)\]"
_MAILBOX = re.compile(rf"({_DOT_STRING}|{_QUOTED})@({_WIDE_LABEL}(?:\.{_WIDE_LABEL})*|{_LITERAL})", re.I)
_BARE = re.compile(rf"{_DOT_STRING}|{_QUOTED}", re.I)
_UNBRACKETED = re.compile(r'(?:"(?:[^"\\]|\\.)*")?[^ "]*')
_PARAMETER = re.compile(r"([a-z0-9][a-z0-9-]*)(?:=((?:[!-<>-~]|[^\x00-\x7f])+))?", re.I | re.A)  # RFC 6531 3.3
_RELAY_HACK = re.compile(r"[%!@]")  # a second address inside the local part
_OPEN = ord("<")

_MAIL_PARAMETERS = frozenset({"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID"})
_RCPT_PARAMETERS = frozenset({"NOTIFY", "ORCPT"})
_NONE: frozenset[str] = frozenset()


class Fault(enum.Enum):
    """What is wrong with an argument."""

    KEYWORD = "the command needs FROM: or TO:"
    BRACKETS = "the address must stand in angle brackets"
    SPACES = "a space stands where none may be"
    SYNTAX = "not a valid address"
    TOO_LONG = "the address is too long"
    NOT_ASCII = "an address outside ASCII needs SMTPUTF8"
    NULL = "the null address is no recipient"
    SOURCE_ROUTE = "source routes are not supported"
    LITERAL = "an address literal is no recipient here"
    RELAY_HACK = "a local part may not name another destination"
    PARAMETER = "a parameter has a bad value"
    UNKNOWN_PARAMETER = "a parameter is not supported"


class Malformed(RelayError):
    """An argument outside the grammar. `fault` says why, `detail` shows where (printable, at most 80 characters)."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(fault, detail)
        self.fault = fault
        self.detail = detail


class MailArgument(NamedTuple):
    """MAIL FROM: `address` is "" for the null reverse-path; `size` 0 means not declared (RFC 1870)."""

    address: str
    size: int
    eight_bit: bool
    smtputf8: bool
    request: MessageRequest = NO_MESSAGE_REQUEST


class RcptArgument(NamedTuple):
    """RCPT TO: `address` has no "@" where a recipient without a domain is tolerated."""

    address: str
    request: RecipientRequest = NO_RECIPIENT_REQUEST


def parse_mail(argument: bytes, *, extended: bool = True, tolerance: Tolerance = DEFAULT) -> MailArgument:
    """Read the argument of MAIL, its keyword included. Raises Malformed.

    `extended` False (HELO): no parameters.  AUTH= is checked and ignored: nobody here is trusted to say who sent it
    first (RFC 4954 5).
    """
    match = _PLAIN_MAIL.match(argument)
    if match is not None and (end := match.end()) <= _SHORT and (argument[5] == _OPEN or "spaces" in tolerance):
        if end == len(argument):
            return MailArgument(match[1].decode(), 0, False, False)
        options = _PLAIN_OPTIONS.fullmatch(argument, end)
        if options is not None and extended:
            declared, body = options.groups()
            return MailArgument(match[1].decode(), int(declared[6:]) if declared else 0, body is not None, False)
    path, rest = _split(argument, b"FROM:", tolerance)
    given = _parameters(rest, _MAIL_PARAMETERS if extended else _NONE)
    smtputf8 = "SMTPUTF8" in given
    size, eight_bit, request = _of_message(given)
    if path:
        path = "@".join(_mailbox(path, smtputf8, tolerance))
    return MailArgument(path, size, eight_bit, smtputf8, request)


def parse_rcpt(
    argument: bytes, *, smtputf8: bool, extended: bool = True, tolerance: Tolerance = DEFAULT
) -> RcptArgument:
    """Read the argument of RCPT, its keyword included. Raises Malformed.

    Refused although the grammar knows them, because a relay in front of a provider has no use for them and an
    open relay is made of them: source routes, address literals, and "%", "!" or "@" inside the local part.  With the
    switch `bare-recipients` the address may come back without a domain: append one and parse it again.
    """
    if (
        len(argument) <= _SHORT
        and (match := _PLAIN_RCPT.fullmatch(argument))
        and (argument[3] == _OPEN or "spaces" in tolerance)
    ):
        return RcptArgument(match[1].decode())
    path, rest = _split(argument, b"TO:", tolerance)
    if not path:
        raise Malformed(Fault.NULL)
    request = _of_recipient(_parameters(rest, _RCPT_PARAMETERS if extended else _NONE), smtputf8)
    if "bare-recipients" in tolerance and (local := _bare(path, smtputf8, tolerance)):
        address = local
    else:
        local, domain = _mailbox(path, smtputf8, tolerance)
        if domain.startswith("["):
            raise Malformed(Fault.LITERAL, path[:80])
        address = f"{local}@{domain}"
    if _RELAY_HACK.search(local):
        raise Malformed(Fault.RELAY_HACK, path[:80])
    return RcptArgument(address, request)


def _split(argument: bytes, keyword: bytes, tolerance: Tolerance) -> tuple[str, str]:
    """The path without its brackets, and what follows it."""
    if argument[: len(keyword)].upper() != keyword:
        raise Malformed(Fault.KEYWORD)
    try:
        text = argument[len(keyword) :].decode()
    except UnicodeDecodeError:
        raise Malformed(Fault.SYNTAX) from None
    if not text.isprintable():
        raise Malformed(Fault.SYNTAX)
    spaces = "spaces" in tolerance
    if spaces:
        text = text.strip(" ")
    elif text[:1] == " " or text[-1:] == " ":  # RFC 5321 3.3
        raise Malformed(Fault.SPACES)
    if text.startswith("<"):
        end = _closing_bracket(text)
        path, rest = text[1:end], text[end + 1 :]
        if spaces:
            path = path.strip(" ") or path  # nothing but spaces is not the null path
    else:
        match = _UNBRACKETED.match(text) if "no-brackets" in tolerance else None
        if match is None or not match[0]:
            raise Malformed(Fault.BRACKETS)
        path, rest = match[0], text[match.end() :]
    if rest and not rest.startswith(" "):
        raise Malformed(Fault.SYNTAX, text[:80])
    return path, rest


def _closing_bracket(text: str) -> int:
    """Where the path ends: the first ">" outside a quoted local part."""
    if not text.startswith('<"'):
        end = text.find(">")
    else:
        quoted = re.match(r'<"(?:[^"\\]|\\.)*"', text)
        end = text.find(">", quoted.end()) if quoted else -1
    if end < 0:
        raise Malformed(Fault.BRACKETS)
    return end


def _mailbox(path: str, smtputf8: bool, tolerance: Tolerance) -> tuple[str, str]:
    """Local part and domain of a path that is not null."""
    if path.startswith("@"):
        raise Malformed(Fault.SOURCE_ROUTE, path[:80])
    if "odd-dots" in tolerance and not path.startswith('"'):
        local, at, domain = path.rpartition("@")
        path = f"{_without_odd_dots(local)}{at}{domain}"
    octets = path.encode()
    if len(octets) > MAX_PATH:
        raise Malformed(Fault.TOO_LONG)
    match = _MAILBOX.fullmatch(path)
    if match is None:
        raise Malformed(Fault.SYNTAX, path[:80])
    if not smtputf8 and len(octets) != len(path):
        raise Malformed(Fault.NOT_ASCII)
    local, domain = match[1], match[2]
    if len(local.encode()) > MAX_LOCAL or len(domain.encode()) > MAX_DOMAIN:
        raise Malformed(Fault.TOO_LONG)
    return local, domain


def _bare(path: str, smtputf8: bool, tolerance: Tolerance) -> str:
    """The local part, if the path is nothing else; "": it is something else."""
    if "odd-dots" in tolerance and not path.startswith('"'):
        path = _without_odd_dots(path)
    if not _BARE.fullmatch(path):
        return ""
    if not smtputf8 and not path.isascii():
        raise Malformed(Fault.NOT_ASCII)
    if len(path.encode()) > MAX_LOCAL:
        raise Malformed(Fault.TOO_LONG)
    return path


def _without_odd_dots(local: str) -> str:
    return ".".join(filter(None, local.split(".")))


def _parameters(rest: str, known: frozenset[str]) -> dict[str, str]:
    """The parameters by their names in upper case, each once; "" where there is no value."""
    given: dict[str, str] = {}
    for parameter in rest.split():
        match = _PARAMETER.fullmatch(parameter)
        if match is None:
            _bad(parameter)
        name, value = match[1].upper(), match[2] or ""
        if name not in known:
            raise Malformed(Fault.UNKNOWN_PARAMETER, name[:80])
        if name in given or not (value.isascii() or name == "ORCPT"):
            _bad(parameter)
        given[name] = value
    return given


def _of_message(given: dict[str, str]) -> tuple[int, bool, MessageRequest]:
    """SIZE, BODY and what is asked; SMTPUTF8 and AUTH are checked (RFC 1870, 6152, 3461 4, 6531 3.4, 4954 5)."""
    size, body, ret, envid = given.get("SIZE", "0"), given.get("BODY", "7BIT").upper(), None, None
    if not size.isdecimal() or len(size) > 20:
        _bad(f"SIZE={size}")
    if body not in ("7BIT", "8BITMIME"):
        _bad(f"BODY={body}")
    if given.get("SMTPUTF8"):
        _bad("SMTPUTF8=" + given["SMTPUTF8"])
    if "AUTH" in given and not _is_submitter(given["AUTH"]):
        _bad("AUTH=" + given["AUTH"])
    if "RET" in given and (ret := ret_of(given["RET"])) is None:
        _bad("RET=" + given["RET"])
    if "ENVID" in given and (envid := envid_of(given["ENVID"])) is None:
        _bad("ENVID=" + given["ENVID"])
    return int(size), body == "8BITMIME", message_request(ret, envid)


def _of_recipient(given: dict[str, str], smtputf8: bool) -> RecipientRequest:
    """NOTIFY and ORCPT (RFC 3461 4.1, 4.2; RFC 6533 3)."""
    notify, orcpt = None, None
    if "NOTIFY" in given and (notify := notify_of(given["NOTIFY"])) is None:
        _bad("NOTIFY=" + given["NOTIFY"])
    if "ORCPT" in given and (orcpt := orcpt_of(given["ORCPT"], smtputf8=smtputf8)) is None:
        _bad("ORCPT=" + given["ORCPT"])
    return recipient_request(notify, orcpt)


def _is_submitter(value: str) -> bool:
    """A mailbox or <> in xtext (RFC 4954 5). Within brackets too, as some servers write it."""
    plain = decoded_xtext(value)
    if plain is None:
        return False
    bare = plain[1:-1] if plain.startswith("<") and plain.endswith(">") else plain
    return plain == "<>" or (len(bare) <= MAX_PATH and _MAILBOX.fullmatch(bare) is not None)


def _bad(parameter: str) -> NoReturn:
    raise Malformed(Fault.PARAMETER, parameter[:80])
