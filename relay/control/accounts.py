"""Accounts: add, change, suspend, resume, remove, with the secrets they log in with."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.managing import managed_secrets
from relay.accounts.model import Account, AccountState, Upstream
from relay.accounts.normalise import normalise
from relay.accounts.presets import preset_for
from relay.accounts.transitions import OPERATOR, Change, resume, suspend_by_hand, tell
from relay.control.context import Control, ControlError, now_ms
from relay.control.egress import store_proxy_password
from relay.control.listing import entry
from relay.control.mailboxes import check_mailbox
from relay.control.managed import by_hand
from relay.control.oauth_settings import (
    GRANTS,
    KEYS,
    ON_ITS_OWN,
    WITH_A_PERSON,
    given_oauth,
    oauth_of,
    store_keys,
)
from relay.control.queue import account_named
from relay.control.reasons import refusals
from relay.control.transports import check_transport, consent_missing
from relay.control.web_hosts import check_by_web, mark, named_in
from relay.queue.waiting import waiting

_SETTABLE = frozenset(
    {"host", "port", "tls", "trust", "login", "max_connections", "per_minute", "per_day", "owner"}
    | {"proxy", "source_address", "ip", "imap_host", "imap_port", "imap_tls", "imap_login"}
)


async def account_add(
    control: Control,
    *,
    address: str,
    provider: str | None = None,
    host: str | None = None,
    port: int | None = None,
    tls: str | None = None,
    trust: str | None = None,
    login: str | None = None,
    auth: str = "password",
    password: str | None = None,
    max_connections: int | None = None,
    per_minute: int | None = None,
    per_day: int | None = None,
    in_doubt: str | None = None,
    proxy: str | None = None,
    proxy_password: str | None = None,
    source_address: str | None = None,
    ip: str | None = None,
    imap_host: str | None = None,
    imap_port: int | None = None,
    imap_tls: str | None = None,
    imap_login: str | None = None,
    transport: str | None = None,
    fallback: str | None = None,
    owner: str | None = None,
    null_sender: bool | None = None,
    bounces: str | None = None,
    sent_copy: str | None = None,
    tenant: str | None = None,
    client_id: str | None = None,
    cloud: str | None = None,
    token_url: str | None = None,
    authorize_url: str | None = None,
    device_url: str | None = None,
    scope: str | None = None,
    client_secret: str | None = None,
    client_certificate: str | None = None,
    service_account: str | None = None,
    secret_expires: str | None = None,
    sender: bool = True,
) -> dict[str, Any]:
    """Register an account with its sealed password and, unless `sender` is False, its address as a sender of it.

    None of it is kept when any part is refused.
    """
    if auth == "password" and password is None:
        raise ControlError("no password was given", "use --password-file F, or - for standard input, or --auth none")
    if auth != "password" and password is not None:
        raise ControlError(f"an account with --auth {auth} has no password", "leave the password out")
    oauth = given_oauth(
        {
            "tenant": tenant,
            "client_id": client_id,
            "cloud": cloud,
            "token_url": token_url,
            "authorize_url": authorize_url,
            "device_url": device_url,
            "scope": scope,
        },
        {
            "client_secret": client_secret,
            "client_certificate": client_certificate,
            "service_account": service_account,
        },
        secret_expires,
    )
    given = _given(
        provider=provider or ("custom" if host else None),
        host=host,
        port=port,
        tls=tls,
        trust=trust,
        login=login,
        auth=auth,
        max_connections=max_connections,
        per_minute=per_minute,
        per_day=per_day,
        in_doubt=in_doubt,
        proxy=proxy,
        source_address=source_address,
        ip=ip,
        imap_host=imap_host,
        imap_port=imap_port,
        imap_tls=imap_tls,
        imap_login=imap_login,
        transport=transport,
        fallback=fallback,
        owner=owner,
        null_sender=null_sender,
        bounces=bounces,
        sent_copy=sent_copy,
    )

    named = {**given, **oauth.settings}
    check_by_web(control, {**given, "proxy_password": proxy_password})

    def add(connection: Connection) -> Account:
        account_id = store.add_account(connection, address, now_ms=now_ms(), **given)
        account = store.get_account(connection, account_id)
        upstream = control.directory.upstream(account)
        check_clear_text(upstream)
        check_transport(account, upstream)
        check_mailbox(account, upstream, control.settings.imap)
        settings = oauth_of(account, upstream, oauth, control.settings.oauth)
        if settings:
            store.update_account(connection, account_id, oauth=settings)
            store_keys(connection, control.vault, account_id, oauth.keys)
        mark(connection, control, None, store.get_account(connection, account_id), named_in(named))
        if password is not None:
            control.vault.seal_into(connection, account_id, "password", password)
        store_proxy_password(connection, control, None, account, proxy_password)
        if sender:
            store.add_sender(connection, account.address, account_id, now_ms=now_ms())
        return account

    with refusals():
        detail = {**given, **{name: value for name, value in oauth.settings.items() if value is not None}}
        added = await control.change("account.add", address, {**detail, "sender": sender}, add)
    account = control.directory.account(added.id)
    assert account is not None
    guess = preset_for(account.address) if provider is None and host is None else None
    facts = await entry(control, account)
    upstream_is_other = guess is not None and guess.host != facts["host"]
    hint = guess.id if guess is not None and upstream_is_other else None
    return {**facts, "hint": hint, "to_do": await _to_do(control, account)}


async def account_set(
    control: Control,
    *,
    account: str,
    provider: str | None = None,
    host: str | None = None,
    port: int | None = None,
    tls: str | None = None,
    trust: str | None = None,
    login: str | None = None,
    auth: str | None = None,
    max_connections: int | None = None,
    per_minute: int | None = None,
    per_day: int | None = None,
    in_doubt: str | None = None,
    proxy: str | None = None,
    proxy_password: str | None = None,
    source_address: str | None = None,
    ip: str | None = None,
    imap_host: str | None = None,
    imap_port: int | None = None,
    imap_tls: str | None = None,
    imap_login: str | None = None,
    transport: str | None = None,
    fallback: str | None = None,
    owner: str | None = None,
    null_sender: bool | None = None,
    bounces: str | None = None,
    sent_copy: str | None = None,
    tenant: str | None = None,
    client_id: str | None = None,
    cloud: str | None = None,
    token_url: str | None = None,
    authorize_url: str | None = None,
    device_url: str | None = None,
    scope: str | None = None,
    client_secret: str | None = None,
    client_certificate: str | None = None,
    service_account: str | None = None,
    secret_expires: str | None = None,
    defaults: list[str] | None = None,
) -> dict[str, Any]:
    """Change what is given; `defaults` names settings that go back to the preset's value. Effective for queued mail."""
    found = account_named(control, account)
    by_hand(found.managed_by, f"account {found.address}")
    oauth = given_oauth(
        {
            "tenant": tenant,
            "client_id": client_id,
            "cloud": cloud,
            "token_url": token_url,
            "authorize_url": authorize_url,
            "device_url": device_url,
            "scope": scope,
        },
        {
            "client_secret": client_secret,
            "client_certificate": client_certificate,
            "service_account": service_account,
        },
        secret_expires,
    )
    given = _given(
        provider=provider,
        host=host,
        port=port,
        tls=tls,
        trust=trust,
        login=login,
        auth=auth,
        max_connections=max_connections,
        per_minute=per_minute,
        per_day=per_day,
        in_doubt=in_doubt,
        proxy=proxy,
        source_address=source_address,
        ip=ip,
        imap_host=imap_host,
        imap_port=imap_port,
        imap_tls=imap_tls,
        imap_login=imap_login,
        transport=transport,
        fallback=fallback,
        owner=owner,
        null_sender=null_sender,
        bounces=bounces,
        sent_copy=sent_copy,
    )
    back = set(defaults or [])
    if back - _SETTABLE:
        raise ControlError("--default does not know that setting", f"give one of {', '.join(sorted(_SETTABLE))}")
    if back & given.keys():
        raise ControlError(f"{min(back & given.keys())} is both given and set back", "give one of the two")
    changed = {**given, **dict.fromkeys(back)}
    if not changed and not oauth.anything and proxy_password is None:
        raise ControlError("nothing to change was given", "see `relay account set --help`")
    known = KEYS if found.auth == auth or auth is None else ()
    complete = not set(await control.vault.kinds(found.id)) & set(known)
    detail = {**changed, **{name: value for name, value in oauth.settings.items() if value is not None}}
    check_by_web(control, {**given, **dict.fromkeys(back & {"proxy", "source_address", "ip"}, "default")})
    check_by_web(control, {"proxy_password": proxy_password})
    if oauth.keys:
        detail["stored"] = sorted(oauth.keys)

    def change(connection: Connection) -> list[Change]:
        store.update_account(connection, found.id, **changed)
        account = store.get_account(connection, found.id)
        upstream = control.directory.upstream(account)
        check_clear_text(upstream)
        store_proxy_password(connection, control, found, account, proxy_password)
        check_transport(account, upstream)
        check_mailbox(account, upstream, control.settings.imap)
        moved = account.transport != found.transport or (account.fallback != found.fallback == "none")
        signs_in_anew = oauth.anything or account.auth != found.auth or upstream.provider != was.provider
        if signs_in_anew:
            settings = oauth_of(account, upstream, oauth, control.settings.oauth, complete=complete)
            store.update_account(connection, found.id, oauth=settings or None)
            forget_unfit(connection, control, found, account, settings)
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
    return {**await entry(control, account_now), "to_do": to_do, "resumed": resumed}


async def account_set_password(control: Control, *, account: str, password: str) -> dict[str, Any]:
    """Seal a new password. An account that the relay had suspended goes on; one that an operator did does not."""
    found = account_named(control, account)
    if found.auth != "password":
        raise ControlError(
            f"{found.address} logs in without a password", f"relay account set {found.address} --auth password first"
        )
    declared = await control.database.read(lambda connection: managed_secrets(connection, found.id))
    by_hand(declared.get("password"), f"the password of {found.address}")
    resumes = stopped_by_relay(found)

    def store_it(connection: Connection) -> list[Change]:
        control.vault.seal_into(connection, found.id, "password", password)
        return resume(connection, found.id, now_ms=now_ms(), actor=control.actor) if resumes else []

    with refusals():
        changes = await control.change("account.set-password", found.address, {"resumed": resumes}, store_it)
    control.logins.renewed(found.id)
    resumed = control.went_on(changes)
    if not resumed:
        _wake(control, found)
    return {"account": found.address, "resumed": resumed}


async def account_suspend(control: Control, *, account: str) -> dict[str, Any]:
    """Stop sending; mail for it is still accepted and waits."""
    found = account_named(control, account)
    if found.state is AccountState.SUSPENDED and found.state_cause == OPERATOR:
        return {"account": found.address, "state": AccountState.SUSPENDED.value, "changed": False}
    changes = await control.change(
        "account.suspend",
        found.address,
        {},
        lambda connection: suspend_by_hand(connection, found.id, actor=control.actor, now_ms=now_ms()),
    )
    tell(changes)
    return {"account": found.address, "state": AccountState.SUSPENDED.value, "changed": True}


async def account_resume(control: Control, *, account: str) -> dict[str, Any]:
    """Send again, at once; also ends a rest."""
    found = account_named(control, account)
    suspended = found.state is not AccountState.OK
    control.logins.renewed(found.id)
    if suspended:
        changes = await control.change(
            "account.resume",
            found.address,
            {},
            lambda connection: resume(connection, found.id, now_ms=now_ms(), actor=control.actor),
        )
        control.went_on(changes)
    else:
        _wake(control, found)
    counts = await control.database.read(waiting)
    owed = counts.get(found.id, 0)
    return {"account": found.address, "state": AccountState.OK.value, "waiting": owed, "changed": suspended}


async def account_remove(control: Control, *, account: str, force: bool = False) -> dict[str, Any]:
    """Remove an account with its secrets and its own sender entry; `force`: with every sender that uses it.

    Refused while mail waits for it: nothing could send that any more.
    """
    found = account_named(control, account)
    by_hand(found.managed_by, f"account {found.address}")
    own = normalise(found.address)
    patterns = [sender.pattern for sender in control.directory.senders() if sender.account_id == found.id]
    going = [pattern for pattern in patterns if force or pattern == own]
    for sender in control.directory.senders():
        if sender.pattern in going:
            by_hand(sender.managed_by, f"sender {sender.pattern}")

    def remove(connection: Connection) -> None:
        for pattern in going:
            store.remove_sender(connection, pattern)
        store.remove_account(connection, found.id)

    with refusals():
        await control.change("account.remove", found.address, {"senders": going}, remove)
    return {"account": found.address, "senders": going}


def stopped_by_relay(account: Account) -> bool:
    """Is it suspended, and not by a person?"""
    return account.state is AccountState.SUSPENDED and account.state_cause != OPERATOR


def forget_unfit(connection: Connection, control: Control, before: Account, now: Account, settings: str) -> None:
    """Secrets that the new way to sign in does not use; a password stays until the account has signed in."""
    unfit: list[str] = []
    if now.auth in ON_ITS_OWN or (now.auth in WITH_A_PERSON and settings != before.oauth):
        unfit += GRANTS
    if now.auth != before.auth and (now.auth not in WITH_A_PERSON or before.auth not in WITH_A_PERSON):
        unfit += KEYS
    if now.auth in ("password", "none"):
        unfit += GRANTS
    for kind in unfit:
        control.vault.forget_in(connection, now.id, kind)


async def _to_do(control: Control, account: Account) -> str:
    """The command without which the account cannot send yet; empty: none."""
    kinds = await control.vault.kinds(account.id)
    if account.auth == "password" and "password" not in kinds:
        return f"relay account set-password {account.address}"
    if account.auth in WITH_A_PERSON and "refresh_token" not in kinds:
        return f"relay account connect {account.address}"
    return ""


def check_clear_text(upstream: Upstream) -> None:
    """A password or token never travels in clear, except to this very machine."""
    if upstream.tls == "none" and upstream.auth != "none" and not _is_here(upstream.host):
        raise ControlError(
            f"the password would go to {upstream.host} in clear text", "give --tls starttls or --tls implicit"
        )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _wake(control: Control, account: Account) -> None:
    if control.lanes is not None:
        control.lanes.wake(account.id)
