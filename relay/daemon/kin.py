"""Finds the accounts that one cause stops together: those of an app registration, or of an organisation."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from relay.accounts.directory import Directory
from relay.accounts.health import Kin
from relay.accounts.model import Account, AccountState
from relay.credentials.errors import CredentialError
from relay.credentials.oauth import parse_oauth_app, sealed
from relay.credentials.vault import Vault
from relay.database.engine import Database
from relay.diagnosis.responsibility import reach_of

AppKey = tuple[str, ...]

_NO_TENANTS = frozenset({"", "common", "organizations", "consumers"})
_PERSONAL = frozenset({"outlook", "gmail"})  # presets of mailboxes that belong to no organisation


class Kinship:
    """`of(account, cause)` is what `accounts.health.Health.kin` asks."""

    def __init__(self, directory: Directory, database: Database, vault: Vault) -> None:
        self._directory, self._database, self._vault = directory, database, vault

    async def of(self, account: Account, cause: str) -> Kin:
        """Accounts that are well and will meet the same refusal as `account` did."""
        match reach_of(cause):
            case "app":
                return await self._of_the_app(account)
            case "tenant":
                return self._of_the_tenant(account)
            case "tenant-passwords":
                kin = self._of_the_tenant(account)
                return Kin(kin.group_key, tuple(other for other in kin.others if other.auth == "password"))
            case _:
                return Kin()

    def app_group(self, account_id: int) -> str:
        """The key of all accounts with the same app registration; empty: it has none."""
        key = _app_key(self._directory.account(account_id))
        return _shown(key) if key is not None else ""

    async def _of_the_app(self, account: Account) -> Kin:
        """Those that prove themselves with the same secret: another one may be good."""
        key = _app_key(account)
        if key is None:
            return Kin()
        others = [other for other in self._well(account) if _app_key(other) == key]
        same = await self._database.read(partial(self._with_same_keys, account=account, others=others))
        return Kin(_shown(key), tuple(same))

    def _of_the_tenant(self, account: Account) -> Kin:
        """Those of the same domain at the same host, and those whose sign-in names the same tenant."""
        upstream = self._directory.upstream(account)
        if upstream.provider in _PERSONAL:
            return Kin()
        domain, tenant = _domain(account), _tenant(account)
        others = tuple(
            other
            for other in self._well(account)
            if self._directory.upstream(other).host == upstream.host
            and (_domain(other) == domain or (tenant and _tenant(other) == tenant))
        )
        return Kin(f"tenant {tenant or domain}", others)

    def _well(self, account: Account) -> list[Account]:
        return [
            other for other in self._directory.accounts() if other.id != account.id and other.state is AccountState.OK
        ]

    def _with_same_keys(self, connection: Connection, account: Account, others: list[Account]) -> list[Account]:
        def keys(account_id: int) -> tuple[str | None, ...] | None:
            try:
                known = sealed.load(connection, self._vault, account_id).keys
            except CredentialError:
                return None
            return known.client_secret, known.client_certificate, known.service_account

        refused = keys(account.id) if others else None
        return [other for other in others if refused is not None and keys(other.id) == refused]


def _domain(account: Account) -> str:
    return account.address.rpartition("@")[2].lower()


def _tenant(account: Account) -> str:
    try:
        tenant = parse_oauth_app(account.oauth).tenant.lower() if account.oauth else ""
    except CredentialError:
        return ""
    return "" if tenant in _NO_TENANTS else tenant


def _app_key(account: Account | None) -> AppKey | None:
    """What accounts of the same app registration have in common; None: it has no app."""
    if account is None or not account.oauth:
        return None
    try:
        app = parse_oauth_app(account.oauth)
        if not app.client_id:
            return None
        return account.auth, app.provider, app.cloud, app.tenant, app.client_id, app.token_endpoint()
    except CredentialError:
        return None


def _shown(key: AppKey) -> str:
    return " ".join(("app", *key))
