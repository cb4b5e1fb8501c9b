"""An account's turns: a new password, suspended, resumed, removed."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.managing import managed_secrets
from relay.accounts.model import Account, AccountState
from relay.accounts.normalise import normalise
from relay.accounts.transitions import OPERATOR, Change, resume, stopped_by_relay, suspend_by_hand, tell
from relay.control.context import Control, ControlError, now_ms
from relay.control.managed import by_hand
from relay.control.queue import account_named
from relay.control.reasons import refusals
from relay.queue.waiting import waiting


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
    counts = await control.database.read(partial(waiting, accounts=[found.id]))
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


def _wake(control: Control, account: Account) -> None:
    if control.lanes is not None:
        control.lanes.wake(account.id)
