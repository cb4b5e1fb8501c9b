"""Turns what an operator gives of OAuth into an account's settings and the secrets beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from relay.accounts.model import Account, Auth, Upstream
from relay.accounts.presets import PRESETS
from relay.control.refusal import ControlError
from relay.credentials.errors import CredentialError, SecretRefused
from relay.credentials.oauth import OAuthApp, OAuthSettingsRefused, parse_oauth_app
from relay.credentials.vault import Vault

if TYPE_CHECKING:
    from relay.config.settings import OAuthSettings

WITH_A_PERSON: tuple[Auth, ...] = ("oauth-code", "oauth-device")
ON_ITS_OWN: tuple[Auth, ...] = ("oauth-app", "service-account")
GRANTS = ("refresh_token", "access_token")  # what a sign-in left in the vault
KEYS = ("client_secret", "client_certificate", "service_account")  # what the app proves itself with
# What an operator may say of an app: fields of OAuthApp.
SETTINGS = ("tenant", "client_id", "cloud", "token_url", "authorize_url", "device_url", "scope")

_CLIENT_ID_SETTINGS = {"microsoft": "RELAY_OAUTH__MICROSOFT_CLIENT_ID", "google": "RELAY_OAUTH__GOOGLE_CLIENT_ID"}
_OPTIONS = {
    "client_id": ("--client-id", "give the id of your app registration with --client-id"),
    "tenant": ("--tenant", "give --tenant with the organisation's id or domain, like contoso.onmicrosoft.com"),
    "auth": ("--auth", "`relay account add --help` lists the ways to sign in; docs/providers tells which fits"),
    "cloud": ("--cloud", "give --cloud global, gcch, dod or cn"),
    "token_url": ("--token-url", "give --token-url https://… as the provider's documentation has it"),
    "authorize_url": ("--authorize-url", "give --authorize-url https://… as the provider's documentation has it"),
    "device_url": ("--device-url", "give --device-url https://…, or sign in with --auth oauth-code"),
    "scope": ("--scope", "give --scope as the provider's documentation has it, or leave it out"),
    "purpose": ("--scope", "give --scope as the provider's documentation has it, or leave it out"),
    "client_certificate": ("--certificate-file", "give a PEM file with the certificate and its RSA key, unencrypted"),
    "service_account": ("--service-account-file", "give the JSON key file as Google made it"),
    "client_secret": ("--client-secret-file", "give the file that holds the secret's value alone"),
}


@dataclass(frozen=True, slots=True)
class GivenOAuth:
    """What an operator said; None: nothing of it. `keys`: kinds of the vault and their values in clear."""

    settings: Mapping[str, str | None]  # fields of OAuthApp
    keys: Mapping[str, str] = field(repr=False)
    secret_expires: str | None = None  # ISO 8601 date

    @property
    def anything(self) -> bool:
        """Was anything given?"""
        return any(value is not None for value in self.settings.values()) or bool(self.keys or self.secret_expires)


def given_oauth(
    settings: Mapping[str, str | None], keys: Mapping[str, str | None], secret_expires: str | None
) -> GivenOAuth:
    """As the actions get it. Refused: two kinds of key at once."""
    kept = {kind: value for kind, value in keys.items() if value is not None}
    if len(kept) > 1:
        raise ControlError("two kinds of proof were given", "give either a client secret or a certificate")
    return GivenOAuth(settings, kept, secret_expires)


def oauth_of(
    account: Account, upstream: Upstream, given: GivenOAuth, known: OAuthSettings, *, complete: bool = True
) -> str:
    """The JSON for `account.oauth`: what is given, over what it had, over the settings and the provider's preset.

    `account` is as it will be.  `complete`: it has no key in the vault yet.  Refused with the option to give.
    """
    if account.auth not in WITH_A_PERSON + ON_ITS_OWN:
        if given.anything:
            raise ControlError(
                f"OAuth options do not fit --auth {account.auth}", "give --auth oauth-code, oauth-device or oauth-app"
            )
        return ""
    _check_kind(account.auth, given, complete=complete)
    with oauth_refusals():
        base = _base(account, upstream, known)
        settings = {name: value for name, value in given.settings.items() if value is not None}
        app = parse_oauth_app({**dataclasses.asdict(base), **settings, **_facts(given)})
        app.check(account.auth)  # type: ignore[arg-type]  # password and none are gone
        return app.to_json()


def store_keys(connection: Connection, vault: Vault, account_id: int, keys: Mapping[str, str]) -> None:
    """Seal what is given in place of any other proof, in the caller's transaction."""
    with oauth_refusals():
        for kind, value in keys.items():
            for other in KEYS:
                vault.forget_in(connection, account_id, other)
            vault.seal_into(connection, account_id, kind, value)


def forget_unfit(connection: Connection, vault: Vault, before: Account, now: Account, settings: str) -> None:
    """Secrets that the new way to sign in does not use; a password stays until the account has signed in."""
    unfit: list[str] = []
    if now.auth in ON_ITS_OWN or (now.auth in WITH_A_PERSON and settings != before.oauth):
        unfit += GRANTS
    if now.auth != before.auth and (now.auth not in WITH_A_PERSON or before.auth not in WITH_A_PERSON):
        unfit += KEYS
    if now.auth in ("password", "none"):
        unfit += GRANTS
    for kind in unfit:
        vault.forget_in(connection, now.id, kind)


@contextmanager
def oauth_refusals() -> Iterator[None]:
    """Within, OAuth settings and keys that cannot be become refusals that name the option."""
    try:
        yield
    except OAuthSettingsRefused as error:
        option, remedy = _OPTIONS.get(error.field, (error.field, "see `relay account set --help`"))
        if error.field == "client_id":
            names = " or ".join(_CLIENT_ID_SETTINGS.values())
            remedy = f"{remedy}, or set {names}"
        raise ControlError(f"{option}: {error.field.replace('_', ' ')} {error.reason}", remedy) from None
    except SecretRefused as error:
        option, remedy = _OPTIONS.get(error.field, (error.field, "give another file"))
        raise ControlError(f"{option}: it {error.reason}", remedy) from None


def app_facts(account: Account) -> dict[str, Any] | None:
    """An account's OAuth settings for people; None: it has none, or they cannot be read."""
    if not account.oauth:
        return None
    try:
        app = parse_oauth_app(account.oauth)
    except CredentialError:
        return None
    return {name: value for name, value in dataclasses.asdict(app).items() if value}


def _check_kind(auth: Auth, given: GivenOAuth, *, complete: bool) -> None:
    kinds = set(given.keys)
    if auth == "service-account":
        if kinds - {"service_account"}:
            raise ControlError("a service account has no client secret or certificate", "give --service-account-file")
        if complete and not kinds:
            raise ControlError("no key file was given", "give --service-account-file JSON, as Google made it")
        return
    if "service_account" in kinds:
        raise ControlError("a key file of a service account was given", "give --auth service-account")
    if auth == "oauth-app" and complete and not kinds:
        raise ControlError(
            "an app signs in with a secret or a certificate",
            "give --client-secret-file F, or - for standard input, or --certificate-file PEM",
        )


def _base(account: Account, upstream: Upstream, known: OAuthSettings) -> OAuthApp:
    preset = PRESETS[upstream.provider]
    provider = preset.oauth or "generic"
    subject = account.login or account.address if account.auth == "service-account" else ""
    if account.oauth:
        before = parse_oauth_app(account.oauth)
        if before.provider == provider:
            return dataclasses.replace(before, subject=before.subject or subject)
    client_id = tenant = ""
    if provider.startswith("microsoft"):
        client_id, tenant = known.microsoft_client_id, preset.tenant or known.microsoft_tenant
    elif provider == "google" and account.auth != "service-account":
        client_id = known.google_client_id
    return OAuthApp(provider, client_id=client_id, tenant=tenant, cloud=preset.cloud, subject=subject)


def _facts(given: GivenOAuth) -> dict[str, Any]:
    """What the keys and dates say: thumbprint and end of a certificate, id of a service account."""
    found: dict[str, Any] = {}
    # Loaded here: an idle daemon does without what reads certificates.
    from relay.credentials.oauth.assertions import certificate_facts, service_account_facts

    if given.keys:
        found = {"certificate_sha256": "", "certificate_expires_at": 0, "secret_expires_at": 0}
    if "client_certificate" in given.keys:
        certificate = certificate_facts(given.keys["client_certificate"])
        found |= {"certificate_sha256": certificate.sha256, "certificate_expires_at": certificate.expires_at}
    if "service_account" in given.keys:
        facts = service_account_facts(given.keys["service_account"])
        found["client_id"] = facts.client_id or facts.email
    if given.secret_expires is not None:
        found["secret_expires_at"] = _end_of(given.secret_expires)
    return found


def _end_of(day: str) -> int:
    try:
        return int(datetime.fromisoformat(day.strip()).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise ControlError("--secret-expires is no date", "give it as 2027-05-31") from None
