"""Accounts: add and change, with the secrets they log in with."""

from __future__ import annotations

from typing import Any, Unpack

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.checking import checked_choice
from relay.accounts.model import Account, Auth
from relay.accounts.presets import preset_for
from relay.accounts.transitions import OPERATOR, Change, await_owner, resume
from relay.control.account_fields import SET_BACK, AccountFields, oauth_in, settings_in, told_of
from relay.control.context import Control, ControlError, now_ms
from relay.control.egress import store_proxy_password
from relay.control.listing import entry
from relay.control.managed import by_hand
from relay.control.oauth_settings import KEYS, ON_ITS_OWN, WITH_A_PERSON, forget_unfit, oauth_of, store_keys
from relay.control.queue import account_named
from relay.control.reasons import refusals
from relay.control.transports import consent_missing
from relay.control.upstreams import checked_upstream, clear_text_warning
from relay.control.web_hosts import check_by_web, mark, named_in


async def account_add(
    control: Control,
    *,
    address: str,
    auth: str = "password",
    password: str | None = None,
    invite: bool = False,
    sender: bool = True,
    **fields: Unpack[AccountFields],
) -> dict[str, Any]:
    """Register an account with its sealed password and, unless `sender` is False, its address as a sender of it.

    `invite`: without a password, which its owner will give; until then it is suspended, and its mail waits.
    None of it is kept when any part is refused.
    """
    with refusals():
        checked_choice("auth", auth, Auth)
    if invite and (auth != "password" or password is not None):
        raise ControlError("there is nothing for its owner to give", "leave out either --invite or the rest")
    if auth == "password" and password is None and not invite:
        raise ControlError(
            "no password was given", "use --password-file F, or - for standard input, or --invite, or --auth none"
        )
    if auth != "password" and password is not None:
        raise ControlError(f"an account with --auth {auth} has no password", "leave the password out")
    oauth = oauth_in(fields)
    proxy_password = fields.get("proxy_password")
    provider = fields.get("provider") or ("custom" if fields.get("host") else None)
    given = settings_in({**fields, "provider": provider, "auth": auth})
    named = {**given, **oauth.settings}
    check_by_web(control, {**given, "proxy_password": proxy_password})

    def add(connection: Connection) -> Account:
        account_id = store.add_account(connection, address, now_ms=now_ms(), **given)
        account = store.get_account(connection, account_id)
        upstream = checked_upstream(control, account)
        settings = oauth_of(account, upstream, oauth, control.settings.oauth)
        if settings:
            store.update_account(connection, account_id, oauth=settings)
            store_keys(connection, control.vault, account_id, oauth.keys)
        mark(connection, control, None, store.get_account(connection, account_id), named_in(named))
        if password is not None:
            control.vault.seal_into(connection, account_id, "password", password)
        store_proxy_password(connection, control, None, account, proxy_password)
        if invite:
            await_owner(connection, account_id, now_ms=now_ms())
        if sender:
            store.add_sender(connection, account.address, account_id, now_ms=now_ms())
        return account

    with refusals():
        detail = {**told_of(given, oauth), "sender": sender}
        added = await control.change("account.add", address, detail, add)
    account = account_named(control, added.address)
    guess = preset_for(account.address) if provider is None else None
    facts = await entry(control, account)
    upstream_is_other = guess is not None and guess.host != facts["host"]
    hint = guess.id if guess is not None and upstream_is_other else None
    warning = clear_text_warning(control.directory.upstream(account))
    return {**facts, "hint": hint, "to_do": await _to_do(control, account), "warning": warning}


async def account_set(
    control: Control,
    *,
    account: str,
    auth: str | None = None,
    defaults: list[str] | None = None,
    **fields: Unpack[AccountFields],
) -> dict[str, Any]:
    """Change what is given; `defaults` names settings that go back to the preset's value. Effective for queued mail."""
    found = account_named(control, account)
    by_hand(found.managed_by, f"account {found.address}")
    oauth = oauth_in(fields)
    proxy_password = fields.get("proxy_password")
    given = settings_in({**fields, "auth": auth})
    back = set(defaults or [])
    if back - SET_BACK:
        raise ControlError("--default does not know that setting", f"give one of {', '.join(sorted(SET_BACK))}")
    if back & given.keys():
        raise ControlError(f"{min(back & given.keys())} is both given and set back", "give one of the two")
    changed = {**given, **dict.fromkeys(back)}
    if not changed and not oauth.anything and proxy_password is None:
        raise ControlError("nothing to change was given", "see `relay account set --help`")
    known = KEYS if found.auth == auth or auth is None else ()
    complete = not set(await control.vault.kinds(found.id)) & set(known)
    detail = told_of(changed, oauth)
    check_by_web(control, {**given, **dict.fromkeys(back & {"proxy", "source_address", "ip"}, "default")})
    check_by_web(control, {"proxy_password": proxy_password})
    if oauth.keys:
        detail["stored"] = sorted(oauth.keys)

    def change(connection: Connection) -> list[Change]:
        store.update_account(connection, found.id, **changed)
        account = store.get_account(connection, found.id)
        upstream = checked_upstream(control, account)
        store_proxy_password(connection, control, found, account, proxy_password)
        moved = account.transport != found.transport or (account.fallback != found.fallback == "none")
        signs_in_anew = oauth.anything or account.auth != found.auth or upstream.provider != was.provider
        if signs_in_anew:
            settings = oauth_of(account, upstream, oauth, control.settings.oauth, complete=complete)
            store.update_account(connection, found.id, oauth=settings or None)
            forget_unfit(connection, control.vault, found, account, settings)
        mark(connection, control, found, store.get_account(connection, found.id), named_in(detail))
        if signs_in_anew:
            store_keys(connection, control.vault, found.id, oauth.keys)
        if account.state_cause == OPERATOR or not (moved or (signs_in_anew and account.auth in ON_ITS_OWN)):
            return []
        return resume(connection, found.id, now_ms=now_ms(), actor=control.actor)

    was = control.directory.upstream(found)
    with refusals():
        changes = await control.change("account.set", found.address, detail, change)
    account_now = account_named(control, found.address)
    if account_now.auth in WITH_A_PERSON + ON_ITS_OWN:
        control.logins.renewed(found.id)
        await control.logins.tokens.forget(found.id)
    resumed = control.went_on(changes)
    to_do = await _to_do(control, account_now)
    if not to_do and account_now.transport != found.transport and await consent_missing(control, account_now):
        to_do = f"relay account connect {account_now.address}"  # what was agreed to is another right
    warning = clear_text_warning(control.directory.upstream(account_now))
    return {**await entry(control, account_now), "to_do": to_do, "resumed": resumed, "warning": warning}


async def _to_do(control: Control, account: Account) -> str:
    """The command without which the account cannot send yet; empty: none."""
    kinds = await control.vault.kinds(account.id)
    if account.auth == "password" and "password" not in kinds:
        return f"relay account set-password {account.address}"
    if account.auth in WITH_A_PERSON and "refresh_token" not in kinds:
        return f"relay account connect {account.address}"
    return ""
