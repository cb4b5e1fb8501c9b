"""Signs an account in with OAuth: a person in a browser or on another device, or the app by itself."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, assert_never

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.advice import steps_for
from relay.accounts.model import Account, AccountState
from relay.accounts.transitions import OPERATOR, Change, resume
from relay.control.context import Control, ControlError, now_ms
from relay.control.listing import token_facts
from relay.control.loopback import listening
from relay.control.oauth_settings import oauth_refusals
from relay.control.queue import account_named
from relay.control.reasons import shown
from relay.credentials.errors import CredentialError, SecretMissing
from relay.credentials.oauth import OAuthApp, TokenRefused, TokenUnavailable, parse_oauth_app, sealed
from relay.credentials.oauth.answers import Grant
from relay.credentials.oauth.client import AppKeys
from relay.credentials.oauth.providers import Purpose
from relay.diagnosis.conditions import CONDITIONS, token_condition

BROWSER_S = 600.0  # for the person; below what an action may take (wire.ACTION_S)
_DEVICE_S = 840.0


async def account_connect(control: Control, *, account: str, port: int = 0, imap: bool = False) -> dict[str, Any]:
    """Sign in as the account's kind of sign-in wants it; the grant is sealed, a suspension for the login ends.

    `control.progress` gets {step: code, user_code, uri, uri_complete, expires_in_s} or {step: link, url, port,
    expires_in_s} when a person has to do something.  `port`: where the browser comes back to, 0: any free one.
    `imap`: ask for the right to read the mailbox as well.
    """
    found = account_named(control, account)
    if found.auth == "password" or found.auth == "none":
        raise ControlError(
            f"{found.address} logs in {'with a password' if found.auth == 'password' else 'without anything'}",
            f"choose how it signs in first: relay account set {found.address} --auth oauth-code --client-id ID",
        )
    if not 0 <= port <= 65535:
        raise ControlError("--port is no port", "give a number from 1 to 65535, or leave it out")
    control.logins.person_acted(found.id)
    purposes: tuple[Purpose, ...] = (found.transport, "imap") if imap else (found.transport,)
    try:
        with oauth_refusals():
            app = parse_oauth_app(found.oauth or {})
            app.check(found.auth, found.transport)
            kept = await control.database.read(partial(sealed.load, vault=control.vault, account_id=found.id))
            match found.auth:
                case "oauth-device":
                    await control.logins.tokens.sign_in(found.id, await _by_device(control, app, kept.keys, purposes))
                case "oauth-code":
                    grant = await _by_browser(control, found, app, kept.keys, port, purposes)
                    await control.logins.tokens.sign_in(found.id, grant)
                case "oauth-app" | "service-account":
                    await control.logins.tokens.renew(found.id, found.transport)
                case _:
                    assert_never(found.auth)
            proved = await _proved(control, found)
    except CredentialError as error:
        raise refusal_of(error, found) from None
    resumed = await _finish(control, found)
    return {
        "account": found.address,
        "auth": found.auth,
        "proved": proved,
        "resumed": resumed,
        **await token_facts(control, found),
    }


def refusal_of(error: CredentialError, account: Account) -> ControlError:
    """Why there is no token, and the first thing to do about it."""
    match error:
        case TokenRefused():
            entry = token_condition(error.error, error.number)
            remedy = steps_for(entry.cls, entry.remedy, account)[0]
            return ControlError(f"{entry.cause.rstrip('.')} ({shown(error)})", remedy.rstrip("."))
        case TokenUnavailable(reason=reason):
            return ControlError(
                f"the provider's sign-in service gave no usable answer ({reason})",
                "check that this machine reaches it by HTTPS, then try again",
            )
        case SecretMissing(kind="refresh_token"):
            return ControlError(
                "the provider gave a token for now, but no grant that lasts (no refresh token)",
                "let the app ask for offline access (--scope with offline_access), then sign in again",
            )
        case _:
            entry = CONDITIONS["sign-in-missing" if isinstance(error, SecretMissing) else "credential-unreadable"]
            remedy = steps_for(entry.cls, entry.remedy, account)[-1]
            return ControlError(entry.cause.rstrip("."), remedy.rstrip("."))


async def _by_device(control: Control, app: OAuthApp, keys: AppKeys, purposes: tuple[Purpose, ...]) -> Grant:
    """RFC 8628: show a code, wait until somebody has typed it elsewhere."""
    code = await control.oauth.begin_device(app, keys, purposes)
    control.progress(
        {
            "step": "code",
            "user_code": code.user_code,
            "uri": code.verification_uri,
            "uri_complete": code.verification_uri_complete,
            "expires_in_s": code.expires_in_s,
        }
    )
    try:
        async with asyncio.timeout(_DEVICE_S):
            return await control.oauth.poll_device(app, keys, code)
    except TimeoutError:
        raise TokenRefused("expired_token") from None


async def _by_browser(
    control: Control, account: Account, app: OAuthApp, keys: AppKeys, port: int, purposes: tuple[Purpose, ...]
) -> Grant:
    """Authorization code with PKCE: the browser comes back to a loopback port of this machine."""
    begun: list[Any] = []
    try:
        async with listening(port, lambda url: control.oauth.code_of(begun[0], url)) as loopback:
            redirect = f"http://{_host_of(app)}:{loopback.port}/"
            sign_in = await asyncio.to_thread(
                control.oauth.begin_sign_in, app, redirect, purposes, login_hint=account.login or account.address
            )
            begun.append(sign_in)
            control.progress(
                {"step": "link", "url": sign_in.url, "port": loopback.port, "expires_in_s": round(BROWSER_S)}
            )
            async with asyncio.timeout(BROWSER_S):
                code = await loopback.code
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise TokenRefused("expired_token") from None
        raise ControlError(
            f"cannot listen on 127.0.0.1 port {port}: {error.strerror}", "leave --port out, or give another"
        ) from None
    return await control.oauth.exchange(app, keys, code, sign_in.verifier, redirect)


def _host_of(app: OAuthApp) -> str:
    """Microsoft takes any port for `localhost` alone, the others for 127.0.0.1."""
    return "localhost" if app.provider.startswith("microsoft") else "127.0.0.1"


async def _proved(control: Control, account: Account) -> bool:
    """Get a token as mail will; False: the provider cannot be asked just now, which ends by itself."""
    try:
        await control.logins.token(account.id, account.transport)
    except TokenUnavailable:
        return False
    return True


async def _finish(control: Control, account: Account) -> bool:
    """The password is not needed any more; a suspension by the relay ends. True: there was one."""
    current = account_named(control, account.address)
    resumes = current.state is AccountState.SUSPENDED and current.state_cause != OPERATOR

    def finish(connection: Connection) -> list[Change]:
        control.vault.forget_in(connection, account.id, "password")
        store.bump_revision(connection, account.id)
        return resume(connection, account.id, now_ms=now_ms(), actor=control.actor) if resumes else []

    detail = {"auth": account.auth, "resumed": resumes}
    changes = await control.change("account.connect", account.address, detail, finish)
    control.logins.renewed(account.id)
    if not changes and control.lanes is not None:
        control.lanes.wake(account.id)
    return control.went_on(changes)
