"""The one way in which an account's state changes: the row, its audit, its condition, then the event.

    ok -> suspended (a cause, and who must act) -> ok

Each function works in the caller's transaction and gives back what changed, for `tell` once that is durable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from relay.accounts import conditions, store
from relay.accounts.advice import first_step
from relay.accounts.conditions import ConditionKind
from relay.accounts.model import Account, AccountState
from relay.database import trail
from relay.diagnosis import Diagnosis, Who
from relay.diagnosis.conditions import entry_of
from relay.telemetry import get_logger
from relay.telemetry.cleaning import clean_text

log = get_logger()

OPERATOR = "operator"  # the cause of a suspension that only a person ends
AWAITS_OWNER = "awaits-owner"  # the cause of a suspension that ends with the first credential
_LONGEST_REPLY = 1024  # octets


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an account stops: the catalogue's `cause` and its `words`, who must act, and what the other side said."""

    cause: str
    words: str
    who: Who
    reply: str

    @classmethod
    def of(cls, diagnosis: Diagnosis, reply: str) -> Trouble:
        """What a diagnosis says."""
        return cls(diagnosis.id, diagnosis.cause, diagnosis.who, reply)


@dataclass(frozen=True, slots=True)
class Change:
    """One account's way from one state to another. `account` is as it was before."""

    account: Account
    state: AccountState
    actor: str
    trouble: Trouble | None = None  # None when it goes on, or when a person stopped it
    detail: str = ""


def stopped_by_relay(account: Account) -> bool:
    """Is it suspended, and not by a person?"""
    return account.state is AccountState.SUSPENDED and account.state_cause != OPERATOR


def suspend(
    connection: Connection,
    account_id: int,
    trouble: Trouble,
    *,
    now_ms: int,
    group_key: str = "",
    detail: str = "",
    revision: int | None = None,
) -> list[Change]:
    """The relay stops an account. Nothing changes when it is stopped already: the first cause stands.

    `group_key`: see `conditions.Condition`.  `detail`: why it is stopped although itself met nothing.  `revision`: of
    the settings and credential that failed; nothing changes when somebody has given it others since.
    Raises AccountNotFound.
    """
    account = store.get_account(connection, account_id)
    if account.state is AccountState.SUSPENDED or revision not in (None, account.revision):
        return []
    reply = clean_text(trouble.reply, _LONGEST_REPLY)
    store.set_state(connection, account_id, AccountState.SUSPENDED, trouble.cause, reply, now_ms)
    conditions.close_conditions(
        connection, account_id=account_id, kind=ConditionKind.RESTING, now_ms=now_ms, silently=True
    )
    conditions.open_condition(
        connection,
        account_id=account_id,
        kind=ConditionKind.SUSPENDED,
        cause=trouble.cause,
        who=trouble.who,
        detail=reply,
        group_key=group_key,
        now_ms=now_ms,
    )
    facts = {"cause": trouble.cause, "who": trouble.who.value, "reply": reply}
    _audit(connection, "account.suspend", account, {**facts, **({"detail": detail} if detail else {})}, now_ms)
    return [Change(account, AccountState.SUSPENDED, trail.RELAY, trouble, detail)]


def suspend_by_hand(connection: Connection, account_id: int, *, actor: str, now_ms: int) -> list[Change]:
    """A person stops an account: nobody needs to be told, and nothing but a person ends it. Audited by who asks.

    Raises AccountNotFound.
    """
    account = store.get_account(connection, account_id)
    store.set_state(connection, account_id, AccountState.SUSPENDED, OPERATOR, at_ms=now_ms)
    for kind in (ConditionKind.SUSPENDED, ConditionKind.RESTING):
        conditions.close_conditions(connection, account_id=account_id, kind=kind, now_ms=now_ms, silently=True)
    return [Change(account, AccountState.SUSPENDED, actor)]


def await_owner(connection: Connection, account_id: int, *, now_ms: int) -> None:
    """A new account has no credential yet: what a suspension is, without trouble that anybody must be told of.

    It ends when its owner stores a password or signs in.
    """
    store.set_state(connection, account_id, AccountState.SUSPENDED, AWAITS_OWNER, at_ms=now_ms)


def resume(
    connection: Connection, account_id: int, *, now_ms: int, actor: str = trail.RELAY, detail: str = ""
) -> list[Change]:
    """An account goes on, and with it all that its cause had stopped together with it.

    What a person stopped goes on by a person's word alone.  With the relay as `actor` each is audited here; a person's
    action audits itself.  Raises AccountNotFound.
    """
    account = store.get_account(connection, account_id)
    if account.state is AccountState.OK or (actor == trail.RELAY and account.state_cause == OPERATOR):
        return []
    changes = [_go_on(connection, account, actor, detail, now_ms)]
    if actor == trail.RELAY:
        _audit(connection, "account.resume", account, _said(detail), now_ms)
    closed = conditions.close_conditions(connection, account_id=account_id, kind=ConditionKind.SUSPENDED, now_ms=now_ms)
    for condition in closed:
        if condition.group_key:
            changes += release(
                connection,
                condition.group_key,
                cause=condition.cause,
                detail=f"like {account.address}",
                now_ms=now_ms,
            )
    return changes


def release(
    connection: Connection, group_key: str, *, detail: str, now_ms: int, cause: str | None = None
) -> list[Change]:
    """All that one cause (None: any) had stopped together goes on."""
    changes: list[Change] = []
    for condition in conditions.open_in_group(connection, group_key, cause):
        assert condition.account_id is not None
        account = store.get_account(connection, condition.account_id)
        conditions.close_conditions(
            connection,
            account_id=account.id,
            kind=ConditionKind.SUSPENDED,
            cause=condition.cause,
            now_ms=now_ms,
        )
        if account.state is AccountState.SUSPENDED and account.state_cause == condition.cause:
            changes.append(_go_on(connection, account, trail.RELAY, detail, now_ms))
            _audit(connection, "account.resume", account, _said(detail), now_ms)
    return changes


def tell(changes: Iterable[Change]) -> None:
    """Log what is durable now."""
    for change in changes:
        address, trouble = change.account.address, change.trouble
        more = {"detail": change.detail} if change.detail else {}
        if change.state is AccountState.OK:
            by = {} if change.actor == trail.RELAY else {"cause": f"by {change.actor}"}
            log.info("account.resumed", account=address, **by, **more)
        elif trouble is None:
            resume_it = f"relay account resume {address}"
            log.info("account.suspended", account=address, cause=f"suspended by {change.actor}", to_do=resume_it)
        else:
            log.error(
                "account.suspended",
                account=address,
                cause=trouble.words,
                remedy=trouble.cause,
                who=trouble.who.value,
                reply=trouble.reply,
                **_to_do(change.account, trouble),
                **more,
            )


def _to_do(account: Account, trouble: Trouble) -> dict[str, str]:
    entry = entry_of(trouble.cause)
    return first_step(entry.cls, entry.remedy, account.address, account.auth)


def _go_on(connection: Connection, account: Account, actor: str, detail: str, now_ms: int) -> Change:
    store.set_state(connection, account.id, AccountState.OK, at_ms=now_ms)
    return Change(account, AccountState.OK, actor, detail=detail)


def _said(detail: str) -> dict[str, str]:
    return {"detail": detail} if detail else {}


def _audit(connection: Connection, action: str, account: Account, detail: dict[str, str], now_ms: int) -> None:
    trail.record(connection, at_ms=now_ms, actor=trail.RELAY, action=action, target=account.address, detail=detail)
