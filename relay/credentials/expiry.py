"""When what an account signs in with ends: client secret, certificate, sign-in of a person. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relay.accounts.model import Account
from relay.credentials.errors import CredentialError
from relay.credentials.oauth.app import parse_oauth_app

Ending = Literal["secret-expiring", "certificate-expiring", "grant-expiring"]  # ids of the catalogue


@dataclass(frozen=True, slots=True)
class End:
    """`at_ms` since 1970: from then on the provider takes it no more."""

    cause: Ending
    at_ms: int


def ends_of(account: Account, grant_used_ms: int | None) -> list[End]:
    """What is known, the nearest first. `grant_used_ms`: when its refresh token was asked with last; None: it has none.

    Each use of a grant gives it its whole idle time anew (Microsoft 90 days, Google six months).
    """
    if not account.oauth:
        return []
    try:
        app = parse_oauth_app(account.oauth)
    except CredentialError:
        return []
    found: list[End] = []
    if app.secret_expires_at:
        found.append(End("secret-expiring", app.secret_expires_at))
    if app.certificate_expires_at:
        found.append(End("certificate-expiring", app.certificate_expires_at))
    life_s = app.preset.grant_life_s
    if life_s and grant_used_ms is not None and account.auth in ("oauth-code", "oauth-device"):
        found.append(End("grant-expiring", grant_used_ms + life_s * 1000))
    return sorted(found, key=lambda end: end.at_ms)
