"""Signing in to the console at an OpenID provider: Microsoft, Google, any issuer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import Connection

from relay.accounts.normalise import normalise
from relay.config.own_address import is_own_address
from relay.control.access import rows
from relay.control.access.factors import person_of
from relay.control.access.login import check_wait, open_session
from relay.control.access.model import Role
from relay.control.access.pending import LIFETIME_S, Begun
from relay.control.context import Control, ControlError, now_ms
from relay.control.reasons import shown
from relay.credentials.errors import CredentialError
from relay.credentials.oauth import TokenRefused
from relay.credentials.oauth.openid import OpenIdProvider, Person, PersonSignIn
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.console import ConsoleSettings

log = get_logger()

CALLBACK = "/login/oidc/callback"  # what follows the console's address
_PAGE = re.compile(r"(?:/[A-Za-z0-9_~@+-][A-Za-z0-9._~@+-]*)+")
_LEEWAY_S = 120


async def console_oidc_begin(control: Control, *, redirect: str) -> dict[str, Any]:
    """Where to send the browser, and what it must bring back: {"url", "browser"}."""
    begun = await _begin(control, redirect, anew=False)
    return {"url": begun.url, "browser": control.desk.person_sign_ins.keep(begun)}


async def me_oidc_begin(control: Control, *, redirect: str, back: str) -> dict[str, Any]:
    """As console_oidc_begin, for whoever is signed in and has to show again who they are.

    The provider must ask them anew.  `back`: the page of the console where they go on.
    """
    person_of(control)
    assert control.principal is not None
    if not _PAGE.fullmatch(back):
        raise ControlError("this is no page of the console", "start again from the page you came from", "invalid")
    begun = await _begin(control, redirect, anew=True)
    browser = control.desk.person_sign_ins.keep(begun, session=control.principal.session, back=back)
    return {"url": begun.url, "browser": browser}


async def _begin(control: Control, redirect: str, *, anew: bool) -> PersonSignIn:
    settings = control.settings.console
    if not is_own_address(settings, redirect, CALLBACK):
        raise ControlError(
            "the sign-in would not come back to this console", "open it by the address in RELAY_CONSOLE__URL", "invalid"
        )
    try:
        return await _provider(control).begin(redirect, anew=anew)
    except CredentialError as error:
        raise _refusal(settings, error) from None


async def console_oidc_finish(control: Control, *, answer: str, browser: str, address: str) -> dict[str, Any]:
    """A session for whoever the provider says came back to `answer`, if they may sign in here.

    Of somebody who shows again who they are it is their former session, under a new token; `back`: where they go on.
    """
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
        person = await _provider(control).finish(begun.sign_in, answer)
    except CredentialError as error:
        control.desk.attempts.bad(key)
        log.warning("console.refused", operator="", client=address, reason="oidc", detail=str(error)[:300])
        raise _refusal(settings, error) from None
    if begun.session:
        return await _proved(control, begun, person)
    user_id, name = await _user_of(control, person, address)
    opened = await open_session(
        control, user_id, name, address, "oidc", proved_at=min(person.auth_time_s * 1000, now_ms())
    )
    return {**opened, "back": ""}


async def _proved(control: Control, begun: Begun, person: Person) -> dict[str, Any]:
    """Core 3.1.2.1, 3.1.3.7: it counts only if they were asked after this had begun, and the provider says so."""
    now_s = now_ms() // 1000
    if not now_s - int(LIFETIME_S) - _LEEWAY_S <= person.auth_time_s <= now_s + _LEEWAY_S:
        raise ControlError(
            f"{control.settings.console.oidc_name} does not say that you signed in just now",
            "set up a passkey or a password for such changes: see docs/console-sign-in.md",
            "forbidden",
        )

    def work(connection: Connection) -> dict[str, Any]:
        user = rows.find_user(connection, subject=f"{person.issuer} {person.subject}")
        if user is None or user.disabled or rows.user_of_session(connection, begun.session) != user.id:
            raise ControlError("this is not who is signed in here", "sign in as the same person", "forbidden")
        token = rows.renew_session(connection, begun.session, now_ms())
        by = control.asked_by(f"console:{user.name}", control.progress)
        by.record(connection, "console.proof", user.name, {"by": "oidc"})
        return {"session": token, "name": user.name, "owner": user.role == Role.OWNER.value}

    opened = await control.database.write(work)
    return {**opened, "lifetime_s": int(control.settings.console.session_s), "back": begun.back}


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
