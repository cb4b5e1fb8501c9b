"""Accounts: add, change, suspend, resume, remove, and their passwords."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.model import Account, AccountState, Upstream
from relay.accounts.normalise import normalise
from relay.accounts.presets import preset_for
from relay.control.context import Control, ControlError, now_ms
from relay.control.listing import OPERATOR, entry, waiting
from relay.control.queue import account_named
from relay.control.reasons import refusals
from relay.telemetry import get_logger

log = get_logger()

_SETTABLE = frozenset({"host", "port", "tls", "trust", "login", "max_connections", "per_minute", "per_day"})


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
    sender: bool = True,
) -> dict[str, Any]:
    """Register an account with its sealed password and, unless `sender` is False, its address as a sender of it.

    None of it is kept when any part is refused.
    """
    _check_auth(auth)
    if auth == "password" and password is None:
        raise ControlError("no password was given", "use --password-file F, or - for standard input, or --auth none")
    if auth == "none" and password is not None:
        raise ControlError("an account with --auth none has no password", "leave the password out")
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
    )

    def add(connection: Connection) -> Account:
        account_id = store.add_account(connection, address, now_ms=now_ms(), **given)
        account = store.get_account(connection, account_id)
        _check_clear_text(control.directory.upstream(account))
        if password is not None:
            control.vault.seal_into(connection, account_id, "password", password)
        if sender:
            store.add_sender(connection, account.address, account_id, now_ms=now_ms())
        return account

    with refusals():
        added = await control.change("account.add", address, {**given, "sender": sender}, add)
    account = control.directory.account(added.id)
    assert account is not None
    guess = preset_for(account.address) if provider is None and host is None else None
    facts = await entry(control, account)
    upstream_is_other = guess is not None and guess.host != facts["host"]
    return {**facts, "hint": guess.id if guess is not None and upstream_is_other else None}


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
    defaults: list[str] | None = None,
) -> dict[str, Any]:
    """Change what is given; `defaults` names settings that go back to the preset's value. Effective for queued mail."""
    found = account_named(control, account)
    if auth is not None:
        _check_auth(auth)
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
    )
    back = set(defaults or [])
    if back - _SETTABLE:
        raise ControlError("--default does not know that setting", f"give one of {', '.join(sorted(_SETTABLE))}")
    if back & given.keys():
        raise ControlError(f"{min(back & given.keys())} is both given and set back", "give one of the two")
    changed = {**given, **dict.fromkeys(back)}
    if not changed:
        raise ControlError("nothing to change was given", "see `relay account set --help`")

    def change(connection: Connection) -> None:
        store.update_account(connection, found.id, **changed)
        _check_clear_text(control.directory.upstream(store.get_account(connection, found.id)))

    with refusals():
        await control.change("account.set", found.address, changed, change)
    return await entry(control, account_named(control, found.address))


async def account_set_password(control: Control, *, account: str, password: str) -> dict[str, Any]:
    """Seal a new password. An account that the relay had suspended goes on; one that an operator did does not."""
    found = account_named(control, account)
    if found.auth == "none":
        raise ControlError(
            f"{found.address} logs in without a password", "`relay account set ADDRESS --auth password` first"
        )
    resumes = found.state is AccountState.SUSPENDED and found.state_cause != OPERATOR

    def store_it(connection: Connection) -> None:
        control.vault.seal_into(connection, found.id, "password", password)
        if resumes:
            store.set_state(connection, found.id, AccountState.OK, at_ms=now_ms())

    with refusals():
        await control.change("account.set-password", found.address, {"resumed": resumes}, store_it)
    _wake(control, found, resumed=resumes)
    return {"account": found.address, "resumed": resumes}


async def account_suspend(control: Control, *, account: str) -> dict[str, Any]:
    """Stop sending; mail for it is still accepted and waits."""
    found = account_named(control, account)
    if found.state is AccountState.SUSPENDED and found.state_cause == OPERATOR:
        return {"account": found.address, "state": AccountState.SUSPENDED.value, "changed": False}
    await control.change(
        "account.suspend",
        found.address,
        {},
        lambda connection: store.set_state(connection, found.id, AccountState.SUSPENDED, OPERATOR, at_ms=now_ms()),
    )
    log.info("account.suspended", account=found.address, cause=f"suspended by {control.actor}", remedy=OPERATOR)
    return {"account": found.address, "state": AccountState.SUSPENDED.value, "changed": True}


async def account_resume(control: Control, *, account: str) -> dict[str, Any]:
    """Send again, at once; also ends a rest."""
    found = account_named(control, account)
    suspended = found.state is not AccountState.OK
    if suspended:
        await control.change(
            "account.resume",
            found.address,
            {},
            lambda connection: store.set_state(connection, found.id, AccountState.OK, at_ms=now_ms()),
        )
    _wake(control, found, resumed=found.state is AccountState.SUSPENDED)
    counts = await control.database.read(waiting)
    owed = counts.get(found.id, 0)
    return {"account": found.address, "state": AccountState.OK.value, "waiting": owed, "changed": suspended}


async def account_remove(control: Control, *, account: str, force: bool = False) -> dict[str, Any]:
    """Remove an account with its secrets and its own sender entry; `force`: with every sender that uses it.

    Refused while mail waits for it: nothing could send that any more.
    """
    found = account_named(control, account)
    own = normalise(found.address)
    patterns = [sender.pattern for sender in control.directory.senders() if sender.account_id == found.id]
    going = [pattern for pattern in patterns if force or pattern == own]

    def remove(connection: Connection) -> None:
        for pattern in going:
            store.remove_sender(connection, pattern)
        store.remove_account(connection, found.id)

    with refusals():
        await control.change("account.remove", found.address, {"senders": going}, remove)
    return {"account": found.address, "senders": going}


def _check_auth(auth: str) -> None:
    if auth.startswith("oauth") or auth == "service-account":
        raise ControlError(
            "OAuth sign-in is not in this release", "use --auth password with an app password of the mailbox"
        )


def _check_clear_text(upstream: Upstream) -> None:
    """A password never travels in clear, except to this very machine."""
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


def _wake(control: Control, account: Account, *, resumed: bool) -> None:
    if resumed:
        log.info("account.resumed", account=account.address, cause=f"by {control.actor}")
    if control.lanes is not None:
        control.lanes.wake(account.id)
