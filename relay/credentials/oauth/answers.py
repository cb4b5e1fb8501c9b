"""What a token endpoint's answer holds: a grant or a refusal, each bounded and cleaned before anybody sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.credentials.oauth.errors import TokenRefused, TokenUnavailable
from relay.diagnosis.token_errors import token_scope
from relay.telemetry.redaction import LIVE, mask

MAX_TOKEN = 12288  # characters; what is longer fits no AUTH line (RFC 4954 4)
MAX_ID_TOKEN = 32768
# `expires_in` is only a hint (RFC 6749 4.2.2): absent, zero or negative it is an hour, of years a day, and of seconds a
# minute, so that no figure makes each login ask anew.  What the mail server says of a token is what counts.
_DEFAULT_LIFE_S, _LEAST_LIFE_S, _MOST_LIFE_S = 3600, 60, 86400
_DESCRIPTION = 400  # characters
_ERROR = re.compile(r"[\x21-\x7e]{1,64}")
_AADSTS = re.compile(r"AADSTS(\d{4,8})")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token request gave. `refresh_token` None: there is none, or the old one stays."""

    access_token: str = field(repr=False)
    expires_in_s: int
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)  # of an OpenID provider


def grant_of(body: Mapping[str, Any]) -> Grant:
    """The tokens of an answer with status 200. Raises TokenUnavailable when they are not what they should be."""
    token, kind, refresh_token = body.get("access_token"), body.get("token_type"), body.get("refresh_token")
    for secret in (token, refresh_token):
        if isinstance(secret, str):
            mask(secret)
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN or not _visible(token):
        raise TokenUnavailable("bad-answer")
    if not isinstance(kind, str) or kind.lower() != "bearer":  # RFC 6749 7.1
        raise TokenUnavailable("bad-answer")
    if refresh_token is not None and (not isinstance(refresh_token, str) or len(refresh_token) > MAX_TOKEN):
        raise TokenUnavailable("bad-answer")
    id_token = body.get("id_token")
    if isinstance(id_token, str):
        mask(id_token)
    life_s = max(_LEAST_LIFE_S, seconds_of(body.get("expires_in"), _DEFAULT_LIFE_S, _MOST_LIFE_S))
    identity = id_token if isinstance(id_token, str) and len(id_token) <= MAX_ID_TOKEN else None
    return Grant(token, life_s, refresh_token or None, identity)


def refusal_of(body: Mapping[str, Any]) -> TokenRefused:
    """The refusal in an answer: bounded, printable, with every secret of ours that it quotes masked."""
    description = text_of(body, "error_description", 8192)
    found = _AADSTS.search(description)
    codes = body.get("error_codes")
    number = codes[0] if isinstance(codes, list) and codes and type(codes[0]) is int else None
    if number is None and found is not None:
        number = int(found[1])
    error = body.get("error")
    name = error if isinstance(error, str) and _ERROR.fullmatch(error) else "unknown_error"
    suberror = text_of(body, "suberror", 64)
    return TokenRefused(
        LIVE.masked(name),
        suberror=LIVE.masked(suberror),
        number=number,
        description=LIVE.masked(description)[:_DESCRIPTION],
        scope=token_scope(name),
    )


def text_of(body: Mapping[str, Any], name: str, limit: int) -> str:
    """A member in one printable line of at most `limit` characters; empty when it is no text."""
    value = body.get(name)
    if not isinstance(value, str):
        return ""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in value[:limit]).split())


def seconds_of(value: object, default: int, most: int) -> int:
    """`expires_in` and its like: a number, which some servers send as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        return default
    return min(int(value), most)


def _visible(token: str) -> bool:
    return all("!" <= letter <= "~" for letter in token)  # RFC 6750 2.1 in its widest reading
