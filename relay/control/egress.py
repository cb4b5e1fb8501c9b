"""The way out of an account as operators set and see it; its proxy's password is sealed, and never shown."""

from __future__ import annotations

from sqlalchemy import Connection

from relay.accounts.egress import own_login, way_of, way_of_all
from relay.accounts.model import Account
from relay.control.context import Control, ControlError
from relay.credentials.ways import PROXY_PASSWORD

_MOST = 255  # octets, RFC 1929 2


def store_proxy_password(
    connection: Connection, control: Control, before: Account | None, now: Account, password: str | None
) -> None:
    """Seal what was given, in the caller's transaction; what was stored for another proxy is forgotten.

    Raises ControlError when there is no login that it belongs to.
    """
    proxy = own_login(now)
    if password is None:
        if before is not None and before.proxy != now.proxy:
            control.vault.forget_in(connection, now.id, PROXY_PASSWORD)
        return
    if proxy is None:
        raise ControlError(
            "the account has no proxy of its own with a login", "give --proxy http://LOGIN@HOST:PORT with the password"
        )
    if not 0 < len(password.encode()) <= _MOST or (proxy.scheme == "socks5" and not password.isascii()):
        raise ControlError(
            "this password cannot be given to the proxy", "1 to 255 octets; for socks5 in ASCII (RFC 1929)"
        )
    control.vault.seal_into(connection, now.id, PROXY_PASSWORD, password)


def path_of(control: Control, account: Account, host: str) -> str:
    """How `host` is reached: empty, or such as `through proxy http://proxy:3128`."""
    return way_of(account, way_of_all(control.settings.egress)).described(host)
