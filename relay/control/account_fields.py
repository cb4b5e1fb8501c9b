"""What may be said of an account: declared once for `account.add` and `account.set`, and so for the REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from relay.accounts.checking import AccountSettings
from relay.control.oauth_settings import KEYS, SETTINGS, GivenOAuth, given_oauth


class AccountFields(TypedDict, total=False):
    """Settings, the fields of its OAuth app, and secrets in clear; None, or left out: nothing is said of it."""

    provider: str | None
    host: str | None
    port: int | None
    tls: str | None
    trust: str | None
    login: str | None
    max_connections: int | None
    per_minute: int | None
    per_day: int | None
    in_doubt: str | None
    proxy: str | None
    proxy_password: str | None
    source_address: str | None
    ip: str | None
    imap_host: str | None
    imap_port: int | None
    imap_tls: str | None
    imap_login: str | None
    transport: str | None
    fallback: str | None
    owner: str | None
    null_sender: bool | None
    bounces: str | None
    sent_copy: str | None
    tenant: str | None
    client_id: str | None
    cloud: str | None
    token_url: str | None
    authorize_url: str | None
    device_url: str | None
    scope: str | None
    client_secret: str | None
    client_certificate: str | None
    service_account: str | None
    secret_expires: str | None


# What `account set --default NAME` takes back.
SET_BACK = frozenset(
    {"host", "port", "tls", "trust", "login", "max_connections", "per_minute", "per_day", "owner"}
    | {"proxy", "source_address", "ip", "imap_host", "imap_port", "imap_tls", "imap_login"}
)


def settings_in(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the account itself that are given, for `accounts.checking` to look at."""
    known = AccountSettings.__annotations__.keys() - {"oauth"}
    return {name: value for name, value in fields.items() if name in known and value is not None}


def oauth_in(fields: Mapping[str, Any]) -> GivenOAuth:
    """What is said of its OAuth app, and the keys of that in clear."""
    return given_oauth(
        {name: fields.get(name) for name in SETTINGS},
        {kind: fields.get(kind) for kind in KEYS},
        fields.get("secret_expires"),
    )


def told_of(settings: Mapping[str, Any], oauth: GivenOAuth) -> dict[str, Any]:
    """For the audit trail: never a secret's value."""
    return {**settings, **{name: value for name, value in oauth.settings.items() if value is not None}}
