"""Signs an account in at its provider through the console: the browser goes there, and comes back to a page of ours."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.model import Account
from relay.accounts.transitions import Change, resume, stopped_by_relay
from relay.config.own_address import is_own_address
from relay.control.connecting import refusal_of
from relay.control.context import Control, ControlError, now_ms
from relay.control.managed import by_hand
from relay.control.oauth_settings import forget_unfit, given_oauth, oauth_of, oauth_refusals
from relay.control.queue import account_named
from relay.control.sign_ins import LIFETIME_S, Begun
from relay.credentials.errors import CredentialError
from relay.credentials.oauth import OAuthApp, parse_oauth_app, sealed

CALLBACK = "/oauth/callback"  # what follows the console's address
_FROM = frozenset({"password", "oauth-code", "oauth-device"})  # accounts of a person


async def account_begin_sign_in(control: Control, *, account: str, redirect: str) -> dict[str, Any]:
    """Where to send the browser: {"url", "expires_in_s"}. `redirect`: the console's own address for the answer.

    Works for an account with a password too: it keeps that until the sign-in has succeeded.
    """
    found = account_named(control, account)
    _check_redirect(control, redirect)
    app, _ = await asyncio.to_thread(_app_of, control, found)
    with oauth_refusals():
        sign_in = await asyncio.to_thread(
            control.oauth.begin_sign_in, app, redirect, (found.transport,), login_hint=found.login or found.address
        )
    control.desk.sign_ins.keep(Begun(_asker(control), found.id, app, sign_in))
    return {"url": sign_in.url, "expires_in_s": round(LIFETIME_S)}


async def account_which_sign_in(control: Control, *, answer: str) -> dict[str, Any]:
    """To which of the asker's own sign-ins the address is an answer that the browser came back with: {"account"}."""
    begun = _begun(control, answer)
    found = control.directory.account(begun.account_id)
    if found is None:
        raise _unknown()
    return {"account": found.address}


async def account_finish_sign_in(control: Control, *, account: str, answer: str) -> dict[str, Any]:
    """Exchange the code in `answer`, the address that the browser came back to; then the account signs in with OAuth.

    The grant is sealed, a password forgotten, a suspension by the relay ends, in one transaction.  On any failure the
    account stays as it was.
    """
    found = account_named(control, account)
    begun = _begun(control, answer)
    if begun.account_id != found.id:
        raise _unknown()
    control.desk.sign_ins.end(begun)
    app, settings = await asyncio.to_thread(_app_of, control, found)
    if app != begun.app:
        raise ControlError(f"the settings of {found.address} changed meanwhile", "start the sign-in again", "conflict")
    control.logins.person_acted(found.id)
    try:
        code = control.oauth.code_of(begun.sign_in, answer)
        kept = await control.database.read(partial(sealed.load, vault=control.vault, account_id=found.id))
        grant = await control.oauth.exchange(app, kept.keys, code, begun.sign_in.verifier, begun.sign_in.redirect)
        resumes = stopped_by_relay(account_named(control, found.address))

        def seal(connection: Connection) -> list[Change]:
            before = store.get_account(connection, found.id)
            store.update_account(connection, found.id, auth="oauth-code", oauth=settings)
            forget_unfit(connection, control.vault, before, store.get_account(connection, found.id), settings)
            sealed.seal_sign_in(connection, control.vault, found.id, grant)
            control.vault.forget_in(connection, found.id, "password")
            return resume(connection, found.id, now_ms=now_ms(), actor=control.actor) if resumes else []

        changes = await control.change(
            "account.connect", found.address, {"auth": "oauth-code", "resumed": resumes}, seal
        )
    except CredentialError as error:
        raise refusal_of(error, found) from None
    await control.logins.tokens.forget(found.id)
    control.logins.renewed(found.id)
    resumed = control.went_on(changes)
    if not resumed and control.lanes is not None:
        control.lanes.wake(found.id)
    return {"account": found.address, "auth": "oauth-code", "resumed": resumed}


def _app_of(control: Control, account: Account) -> tuple[OAuthApp, str]:
    """The app that the account will sign in with, and the settings to store. Loads libraries: not in the event loop."""
    if account.auth not in _FROM:
        raise ControlError(
            f"{account.address} signs in without a person (--auth {account.auth})",
            f"an administrator can change that: relay account set {account.address} --auth oauth-code",
            "conflict",
        )
    settings = account.oauth
    if account.auth != "oauth-code" or not settings:
        by_hand(account.managed_by, f"how {account.address} signs in")
        later = replace(account, auth="oauth-code")
        settings = oauth_of(later, control.directory.upstream(later), given_oauth({}, {}, None), control.settings.oauth)
    with oauth_refusals():
        app = parse_oauth_app(settings)
        app.check("oauth-code", account.transport)
    return app, settings


def _check_redirect(control: Control, redirect: str) -> None:
    """The provider sends the code there: to nobody but the console."""
    if not is_own_address(control.settings.console, redirect, CALLBACK):
        raise ControlError(
            "the sign-in would not come back to this console", "open it by the address in RELAY_CONSOLE__URL", "invalid"
        )


def _begun(control: Control, answer: str) -> Begun:
    """Raises ControlError (not-found), alike for an unknown state and for somebody else's."""
    try:
        state = parse_qs(urlsplit(answer).query[:16384], max_num_fields=32).get("state", [""])[0]
    except ValueError:
        state = ""
    begun = control.desk.sign_ins.find(state, _asker(control))
    if begun is None or not hmac.compare_digest(begun.sign_in.state.encode(), state.encode()):
        raise _unknown()
    return begun


def _asker(control: Control) -> tuple[str, str]:
    """A person's own session: another login of the same person is another asker."""
    return control.actor, control.principal.csrf if control.principal is not None else ""


def _unknown() -> ControlError:
    return ControlError(
        "no sign-in of yours is under way that this answers", "start it again from the mailbox's page", "not-found"
    )
