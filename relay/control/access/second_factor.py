"""The second factor: time-based codes of an authenticator (RFC 6238), their secret sealed like any other."""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row

from relay.credentials.errors import CredentialError
from relay.credentials.sealed_rows import TOTP
from relay.credentials.vault import Vault
from relay.mail.errors import RelayError

if TYPE_CHECKING:
    from pyotp import TOTP as Authenticator

_PERIOD_S = 30
_DRIFT = 1  # steps that clocks may differ (RFC 6238 5.2)
ISSUER = "relay"


def new_secret() -> str:
    """160 random bits in base 32 (RFC 4226 4)."""
    import pyotp

    return pyotp.random_base32(32)


def seal(vault: Vault, user_id: int, secret: str) -> dict[str, Any]:
    """The columns of console_users that hold it. Raises KeyMissing."""
    key = vault.ring.primary
    return {"totp_key": key.id, "totp_sealed": key.seal(user_id, TOTP, secret)}


def accepted_step(vault: Vault, row: Row[Any], code: str, *, now_s: float | None = None) -> int | None:
    """The time step whose code it is, if that was not used before; None: wrong, used, or the secret does not open."""
    try:
        secret = vault.ring.key(row.totp_key).open(row.id, TOTP, row.totp_sealed)
    except (CredentialError, RelayError):
        return None
    return matching_step(secret, code, after=row.totp_step, now_s=now_s)


def matching_step(secret: str, code: str, *, after: int | None = None, now_s: float | None = None) -> int | None:
    """The step after `after`, within the drift of now, whose code is `code`."""
    digits = "".join(code.split())
    if len(digits) != 6 or not digits.isascii() or not digits.isdigit():
        return None
    current = int((time.time() if now_s is None else now_s) // _PERIOD_S)
    for step in range(current - _DRIFT, current + _DRIFT + 1):
        if (after is None or step > after) and hmac.compare_digest(_authenticator(secret).at(step * _PERIOD_S), digits):
            return step
    return None


def enrolment(secret: str, name: str) -> str:
    """What an authenticator app reads from a QR code (otpauth:// key URI)."""
    return _authenticator(secret).provisioning_uri(name=name, issuer_name=ISSUER)


def _authenticator(secret: str) -> Authenticator:
    import pyotp

    return pyotp.TOTP(secret, interval=_PERIOD_S)
