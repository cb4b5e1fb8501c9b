"""The strict grammar of the arguments of MAIL and RCPT: path and parameters (RFC 5321 4.1.2, RFC 6531 3.3)."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple, NoReturn

from relay.mail.errors import RelayError

MAX_PATH = 254  # octets; RFC 5321 4.5.3.1.3 without the brackets
MAX_LOCAL = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN = 255  # RFC 5321 4.5.3.1.2

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ATOM = r"[a-z0-9#$&'*+/=?^_`{|}~-]+"  # plain: "!" and "%" take the long way
_PLAIN = rf"<({_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*)>"
_PLAIN_MAIL = re.compile(rf"from: *{_PLAIN}".encode(), re.I)
_PLAIN_RCPT = re.compile(rf"to: *{_PLAIN}".encode(), re.I)
_PLAIN_OPTIONS = re.compile(rb"( SIZE=[0-9]{1,15})?( BODY=8BITMIME)?", re.I)

_WIDE = r"[^\x00-\x7f]"  # RFC 6531 3.3: UTF8-non-ascii joins atext, qtext and sub-domain
_WIDE_ATOM = rf"(?:[a-z0-9!#$%&'*+/=?^_`{{|}}~-]|{_WIDE})+"
_DOT_STRING = rf"{_WIDE_ATOM}(?:\.{_WIDE_ATOM})*"
_QUOTED = rf'"(?:[ !#-\[\]-~]|{_WIDE}|\\[ -~])+"'
_U = r"[^\x00-\x7f\u3002\uff0e\uff61]"  # no other script's full stop: some would read it as "."
_WIDE_LABEL = rf"(?:[a-z0-9]|{_U})(?:(?:[a-z0-9-]|{_U}){{0,61}}(?:[a-z0-9]|{_U}))?"
_LITERAL = r"\[(?:IPv6:[0-9a-f:.]{2,45}|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[a-z0-9-]*[a-z0-9]:[!-Z^-~]+)\]"
_MAILBOX = re.compile(rf"({_DOT_STRING}|{_QUOTED})@({_WIDE_LABEL}(?:\.{_WIDE_LABEL})*|{_LITERAL})", re.I)
_PARAMETER = re.compile(r"([a-z0-9][a-z0-9-]*)(?:=([!-<>-~]+))?", re.I)
_RELAY_HACK = re.compile(r"[%!@]")  # a second address inside the local part


class Fault(enum.Enum):
    """What is wrong with an argument."""

    KEYWORD = "the command needs FROM: or TO:"
    BRACKETS = "the address must stand in angle brackets"
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


def parse_mail(argument: bytes, *, extended: bool = True) -> MailArgument:
    """Read the argument of MAIL, its keyword included. Raises Malformed.

    Spaces behind the colon are taken, which RFC 5321 3.3 forbids: many old programs send one.  That is the only
    tolerance.  `extended` False (HELO): no parameters.  AUTH= is read and ignored (RFC 4954 5).
    """
    if match := _PLAIN_MAIL.match(argument):
        address = match[1].decode()
        options = _PLAIN_OPTIONS.fullmatch(argument, match.end())
        if options and _lengths_fit(match[1]) and (extended or match.end() == len(argument)):
            size, body = options.groups()
            return MailArgument(address, int(size[6:]) if size else 0, body is not None, False)
    path, rest = _split(argument, b"FROM:")
    size, eight_bit, smtputf8 = _parameters(rest, extended)
    if not path:
        return MailArgument("", size, eight_bit, smtputf8)
    _mailbox(path, smtputf8)
    return MailArgument(path, size, eight_bit, smtputf8)


def parse_rcpt(argument: bytes, *, smtputf8: bool) -> str:
    """Read the argument of RCPT, its keyword included; the forward-path. Raises Malformed.

    Refused although the grammar knows them, because a relay in front of a provider has no use for them and an
    open relay is made of them: source routes, address literals, and "%", "!" or "@" inside the local part.
    """
    if (match := _PLAIN_RCPT.fullmatch(argument)) and _lengths_fit(match[1]):
        return match[1].decode()
    path, rest = _split(argument, b"TO:")
    if not path:
        raise Malformed(Fault.NULL)
    local, domain = _mailbox(path, smtputf8)
    if _RELAY_HACK.search(local):
        raise Malformed(Fault.RELAY_HACK, path[:80])
    if domain.startswith("["):
        raise Malformed(Fault.LITERAL, path[:80])
    if rest:
        raise Malformed(Fault.UNKNOWN_PARAMETER, rest.split()[0].partition("=")[0][:80])
    return path


def _lengths_fit(address: bytes) -> bool:
    return len(address) <= MAX_PATH and address.index(b"@") <= MAX_LOCAL


def _split(argument: bytes, keyword: bytes) -> tuple[str, str]:
    """The path without its brackets, and what follows it."""
    if argument[: len(keyword)].upper() != keyword:
        raise Malformed(Fault.KEYWORD)
    try:
        text = argument[len(keyword) :].lstrip(b" ").decode()
    except UnicodeDecodeError:
        raise Malformed(Fault.SYNTAX) from None
    if not text.isprintable():
        raise Malformed(Fault.SYNTAX)
    if not text.startswith("<"):
        raise Malformed(Fault.BRACKETS)
    end = _closing_bracket(text)
    path, rest = text[1:end], text[end + 1 :]
    if rest and not rest.startswith(" "):
        raise Malformed(Fault.SYNTAX, text[:80])
    return path, rest.rstrip(" ")


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


def _mailbox(path: str, smtputf8: bool) -> tuple[str, str]:
    """Local part and domain of a path that is not null."""
    if path.startswith("@"):
        raise Malformed(Fault.SOURCE_ROUTE, path[:80])
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


def _parameters(rest: str, extended: bool) -> tuple[int, bool, bool]:
    """SIZE, BODY=8BITMIME and SMTPUTF8 of a MAIL command (RFC 1870, 6152, 6531)."""
    size, eight_bit, smtputf8 = 0, False, False
    seen = set()
    for parameter in rest.split():
        match = _PARAMETER.fullmatch(parameter)
        if match is None:
            raise Malformed(Fault.PARAMETER, parameter[:80])
        name, value = match[1].upper(), match[2]
        if name not in ("SIZE", "BODY", "SMTPUTF8", "AUTH") or not extended:
            raise Malformed(Fault.UNKNOWN_PARAMETER, name[:80])
        if name in seen:
            _bad(parameter)
        seen.add(name)
        match name:
            case "SIZE":
                if value is None or not value.isdecimal() or len(value) > 20:
                    _bad(parameter)
                size = int(value)
            case "BODY":
                if value is None or value.upper() not in ("7BIT", "8BITMIME"):
                    _bad(parameter)
                eight_bit = value.upper() == "8BITMIME"
            case "SMTPUTF8":
                if value is not None:
                    _bad(parameter)
                smtputf8 = True
            case _:
                if value is None:
                    _bad(parameter)
    return size, eight_bit, smtputf8


def _bad(parameter: str) -> NoReturn:
    raise Malformed(Fault.PARAMETER, parameter[:80])
