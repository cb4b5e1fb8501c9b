"""SASL exchanges: what the client says in PLAIN, LOGIN, XOAUTH2 or OAUTHBEARER. Pure; no input or output.

The connection chooses between two forms: the initial response on the AUTH line, or, because access tokens
outgrow the command line of old servers, `AUTH <name>` alone and the response after the 334.

SASLprep (RFC 4013) is not applied: a login or password goes out as the UTF-8 that was entered, which is the
same thing for ASCII.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable

from relay.accounts.model import Auth
from relay.credentials.errors import CredentialError, SecretRefused
from relay.credentials.secret import Secret, reveal

MECHANISMS = ("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER")
COMMAND_LINE_OCTETS = 512  # RFC 5321 4.5.3.1.4, with CRLF; what every server takes
MAX_RESPONSE_OCTETS = 12288  # RFC 4954 4: of base64, with CRLF

_OAUTH = frozenset({"XOAUTH2", "OAUTHBEARER"})
_BY_AUTH: dict[Auth, tuple[str, ...]] = {
    "none": (),
    "password": ("PLAIN", "LOGIN"),
    "oauth-code": ("XOAUTH2", "OAUTHBEARER"),
    "oauth-device": ("XOAUTH2", "OAUTHBEARER"),
    "oauth-app": ("XOAUTH2", "OAUTHBEARER"),
    "service-account": ("XOAUTH2", "OAUTHBEARER"),
}


class UnexpectedChallenge(CredentialError):
    """The server asked on after the exchange was complete, or not in base64: cancel with `*`, drop the connection."""

    def __init__(self, mechanism: str) -> None:
        super().__init__(f"the server sent a challenge that has no place in {mechanism}")
        self.mechanism = mechanism


def choose(offered: Iterable[str], auth: Auth) -> str | None:
    """The one mechanism to try, from those that EHLO lists after TLS; None: none of them fits, do not log in."""
    listed = {name.upper() for name in offered}
    return next((name for name in _BY_AUTH[auth] if name in listed), None)


class Mechanism:
    """One login, made for one connection. `secret`: a password, or an access token for the OAuth mechanisms.

    `host` and `port` are the upstream's; only OAUTHBEARER tells them.  Raises SecretRefused (field `login`,
    `password` or `token`) for what the mechanism cannot carry, ValueError for an unknown name.
    """

    def __init__(self, name: str, login: str, secret: str | Secret, *, host: str = "", port: int = 0) -> None:
        if name not in MECHANISMS:
            raise ValueError(f"unknown mechanism {name!r}")
        self.name = name
        self.refusal = ""  # the `status` in a server's OAuth failure: 401 and invalid_token mean a dead token
        clear = reveal(secret)
        _check_text("login", login)
        if name in _OAUTH:
            _check_token(clear)
        else:
            _check_text("password", clear)
        self._answers = _answers(name, login, clear, host, port)
        if any(len(encode(answer)) + 2 > MAX_RESPONSE_OCTETS for answer in self._answers):
            raise SecretRefused("token" if name in _OAUTH else "password", "is too long for SMTP (RFC 4954 4)")
        self._given = 0

    def __repr__(self) -> str:
        return f"Mechanism({self.name!r})"

    def initial(self) -> bytes | None:
        """The initial response, counted as given; None when the mechanism waits for a challenge first (LOGIN)."""
        return None if self.name == "LOGIN" else self._give()

    def next(self, challenge: bytes) -> bytes:
        """The response to `challenge` (both decoded). Raises UnexpectedChallenge when there is nothing to say.

        After an OAuth failure the server sends why as a challenge, and the real reply only when that was
        answered: with nothing in XOAUTH2, with 0x01 in OAUTHBEARER (RFC 7628 3.2.3).  `refusal` has the reason.
        """
        if self._given < len(self._answers):
            return self._give()  # LOGIN's prompts differ between servers: their order is all that counts
        if self.name in _OAUTH and self._given == len(self._answers):
            self._given += 1
            self.refusal = _status(challenge)
            return b"" if self.name == "XOAUTH2" else b"\x01"
        raise UnexpectedChallenge(self.name)

    def command(self, limit: int = COMMAND_LINE_OCTETS) -> bytes:
        """The AUTH line without CRLF: with the initial response if it fits into `limit` octets with CRLF, else without.

        0 always gives the two-step form.
        """
        bare = b"AUTH " + self.name.encode()
        if self.name == "LOGIN":
            return bare
        line = bare + b" " + encode(self._answers[0])
        if len(line) + 2 > limit:
            return bare
        self._give()
        return line

    def answer(self, text: str | bytes) -> bytes:
        """The line, without CRLF, that answers a 334 reply with this text. Raises UnexpectedChallenge."""
        return encode(self.next(_decode(text, self.name)))

    def _give(self) -> bytes:
        if self._given >= len(self._answers):
            raise UnexpectedChallenge(self.name)
        self._given += 1
        return self._answers[self._given - 1]


def encode(response: bytes) -> bytes:
    """Base64 for the wire; an empty response is an empty line."""
    return base64.b64encode(response)


def plain(login: str, password: str) -> bytes:
    """RFC 4616 2: no authorization identity, the server derives it."""
    return b"\0" + login.encode() + b"\0" + password.encode()


def xoauth2(login: str, token: str) -> bytes:
    """Google's and Microsoft's form. A shared mailbox goes in as `login`, with the delegate's token."""
    return b"user=" + login.encode() + b"\x01auth=Bearer " + token.encode() + b"\x01\x01"


def oauthbearer(login: str, token: str, host: str, port: int) -> bytes:
    """RFC 7628 3.1, with the GS2 header of RFC 5801 4: `=` and `,` in the name are escaped."""
    name = login.replace("=", "=3D").replace(",", "=2C").encode()
    place = b"".join((b"host=" + host.encode() + b"\x01" if host else b"", b"port=%d\x01" % port if port else b""))
    return b"n,a=" + name + b",\x01" + place + b"auth=Bearer " + token.encode() + b"\x01\x01"


def _answers(name: str, login: str, secret: str, host: str, port: int) -> tuple[bytes, ...]:
    match name:
        case "PLAIN":
            return (plain(login, secret),)
        case "LOGIN":
            return login.encode(), secret.encode()
        case "XOAUTH2":
            return (xoauth2(login, secret),)
        case _:
            return (oauthbearer(login, secret, host, port),)


def _check_text(field: str, text: str) -> None:
    """RFC 4616 2 forbids NUL; other controls are never typed on purpose (a line end from a file, mostly)."""
    if not text:
        raise SecretRefused(field, "is empty")
    for character in text:
        if character < " " or character == "\x7f":
            raise SecretRefused(field, "contains a control character, perhaps a line end; enter it again without")
        if "\ud800" <= character <= "\udfff":
            raise SecretRefused(field, "is not UTF-8 text")


def _check_token(token: str) -> None:
    """RFC 6750 2.1 in its widest reading: visible ASCII."""
    if not token:
        raise SecretRefused("token", "is empty")
    if not all("!" <= character <= "~" for character in token):
        raise SecretRefused("token", "contains a character that no access token has")


def _decode(text: str | bytes, mechanism: str) -> bytes:
    octets = text.encode("utf-8", "replace") if isinstance(text, str) else text
    try:
        return base64.b64decode(octets.strip(), validate=True)
    except (ValueError, binascii.Error):
        # Deviates from RFC 4954 4: some servers prompt for LOGIN in clear; in LOGIN the text has no meaning.
        if mechanism == "LOGIN":
            return octets
        raise UnexpectedChallenge(mechanism) from None


def _status(challenge: bytes) -> str:
    """The `status` of an OAuth failure (RFC 7628 3.2.2), printable and bounded; empty when there is none."""
    try:
        found = json.loads(challenge[:4096])
    except (ValueError, RecursionError):
        return ""
    status = found.get("status", "") if isinstance(found, dict) else ""
    return "".join(character for character in str(status) if character.isascii() and character.isprintable())[:64]
