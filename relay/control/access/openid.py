"""Signing in to the console at an OpenID provider: Microsoft, Google, any issuer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import Connection

from relay.accounts.normalise import normalise
from relay.config.console import is_own_address
from relay.control.access import rows
from relay.control.access.login import check_wait, open_session
from relay.control.access.model import Role
from relay.control.context import Control, ControlError, now_ms
from relay.control.reasons import shown
from relay.credentials.errors import CredentialError
from relay.credentials.oauth import TokenRefused
from relay.credentials.oauth.openid import OpenIdProvider, Person
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.console import ConsoleSettings

log = get_logger()

CALLBACK = "/login/oidc/callback"  # what follows the console's address


async def console_oidc_begin(control: Control, *, redirect: str) -> dict[str, Any]:
    """Where to send the browser, and what it must bring back: {"url", "browser"}."""
    settings = control.settings.console
    if not is_own_address(settings, redirect, CALLBACK):
        raise ControlError(
            "the sign-in would not come back to this console", "open it by the address in RELAY_CONSOLE__URL", "invalid"
        )
    try:
        begun = await _provider(control).begin(redirect)
    except CredentialError as error:
        raise _refusal(settings, error) from None
    return {"url": begun.url, "browser": control.desk.person_sign_ins.keep(begun)}


async def console_oidc_finish(control: Control, *, answer: str, browser: str, address: str) -> dict[str, Any]:
    """A session for whoever the provider says came back to `answer`, if they may sign in here."""
    key = f"address {address}"
    check_wait(control, key)
    try:
        state = parse_qs(urlsplit(answer).query[:16384], max_num_fields=32).get("state", [""])[0]
    except ValueError:
        state = ""
    begun = control.desk.person_sign_ins.take(state, browser)
    if begun is None:
        control.desk.attempts.bad(key)
        raise ControlError("this sign-in was not begun here, or is too old", "sign in again", "unauthenticated")
    settings = control.settings.console
    try:
        person = await _provider(control).finish(begun, answer)
    except CredentialError as error:
        control.desk.attempts.bad(key)
        log.warning("console.refused", operator="", client=address, reason="oidc", detail=str(error)[:300])
        raise _refusal(settings, error) from None
    user_id, name = await _user_of(control, person, address)
    return await open_session(control, user_id, name, address, "oidc")


async def _user_of(control: Control, person: Person, address: str) -> tuple[int, str]:
    settings = control.settings.console
    mail = person.email if person.verified or settings.oidc_trust_email else ""
    domain = mail.rpartition("@")[2]
    allowed = not settings.oidc_domains or domain in {one.lower() for one in settings.oidc_domains}
    mailboxes = [one.id for one in control.directory.accounts() if mail and normalise(one.address) == normalise(mail)]
    by = control.asked_by(f"console:{mail or 'unknown'}", control.progress)

    def work(connection: Connection) -> tuple[int, str] | None:
        subject = f"{person.issuer} {person.subject}"
        row = rows.find_user(connection, subject=subject)
        if row is None and mail:
            row = rows.find_user(connection, name=mail)
            if row is not None and row.subject is None and not row.disabled:
                rows.set_user(connection, row.id, subject=subject)
                by.record(connection, "user.linked", row.name, {"issuer": person.issuer})
            elif row is not None:
                return None  # the address belongs to somebody else there now
        if row is not None:
            return None if row.disabled else (row.id, row.name)
        if not (settings.oidc_owners and mailboxes):
            return None
        user_id = rows.add_user(connection, mail, Role.OWNER, now_ms(), subject=subject)
        rows.grant(connection, user_id, mailboxes)
        by.record(connection, "user.add", mail, {"role": "owner", "by": "oidc", "issuer": person.issuer})
        return user_id, mail

    found = await control.database.write(work) if allowed else None
    if found is not None:
        return found
    log.warning("console.refused", operator=shown(mail)[:64], client=address, reason="oidc user")
    if person.email and not mail:
        raise ControlError(
            "your provider does not say that it verified your address",
            "ask an administrator: RELAY_CONSOLE__OIDC_TRUST_EMAIL, see docs/console-sign-in.md",
            "forbidden",
        )
    raise ControlError(
        "you are signed in at your provider, but nobody here has that address",
        "ask an administrator for an invitation to it",
        "forbidden",
    )


def _provider(control: Control) -> OpenIdProvider:
    settings, desk = control.settings.console, control.desk.person_sign_ins
    if not settings.oidc_issuer:
        raise ControlError("there is no provider to sign in at", "set RELAY_CONSOLE__OIDC_ISSUER", "not-found")
    if desk.provider is None:
        secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret is not None else ""
        desk.provider = OpenIdProvider(control.oauth, settings.oidc_issuer, settings.oidc_client_id, secret)
    return desk.provider


def _refusal(settings: ConsoleSettings, error: CredentialError) -> ControlError:
    name = settings.oidc_name
    if isinstance(error, TokenRefused) and error.error == "wrong_issuer":
        return ControlError(
            f"{name} calls itself {shown(error.description)}",
            "set RELAY_CONSOLE__OIDC_ISSUER to exactly that",
            "unavailable",
        )
    if isinstance(error, TokenRefused):
        return ControlError(f"{name} refused it ({shown(error)})", "sign in again", "unauthenticated")
    return ControlError(
        f"{name} gave no usable answer ({shown(error)})",
        "try again; this machine must reach it by HTTPS",
        "unavailable",
    )
