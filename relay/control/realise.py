"""Makes the store what an accounts file declares, inside one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sqlalchemy import Connection, select

from relay.accounts import conditions, store
from relay.accounts.conditions import ConditionKind
from relay.accounts.errors import AccountInUse
from relay.accounts.managing import managed_secrets, set_manager, set_secret_manager, set_web_hosts
from relay.accounts.model import Account, Sender
from relay.accounts.normalise import normalise
from relay.accounts.transitions import Change as Going
from relay.accounts.transitions import resume, stopped_by_relay
from relay.control.context import Control, now_ms
from relay.control.declaration import Declaration, DeclaredAccount
from relay.control.declared_tables import ACCOUNT, key_of, with_keys
from relay.control.egress import store_proxy_password
from relay.control.oauth_settings import (
    KEYS,
    ON_ITS_OWN,
    WITH_A_PERSON,
    forget_unfit,
    given_oauth,
    oauth_of,
    store_keys,
)
from relay.control.reasons import refusals
from relay.control.refusal import ControlError
from relay.control.upstreams import checked_upstream
from relay.credentials.errors import SecretMissing, SecretUnreadable
from relay.credentials.secret import Secret
from relay.credentials.ways import PROXY_PASSWORD
from relay.database.schema import secrets as secrets_table

# What an account has when the file says nothing of it.
_DEFAULTS: Mapping[str, Any] = {
    **{one.name: one.default for one in fields(Account) if one.name in ACCOUNT},
    "provider": "default",
    "auth": "password",
}


@dataclass(frozen=True, slots=True)
class Read:
    """What the references of a file led to: secrets by account and kind, and hashes by client."""

    secrets: Mapping[tuple[str, str], Secret]
    hashes: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Done:
    """What the rows alone do not tell: `secrets` by account and kind: set, changed, removed."""

    secrets: dict[tuple[str, str], str] = field(default_factory=dict)
    resumed: list[Going] = field(default_factory=list)
    acted: list[int] = field(default_factory=list)  # accounts whose sign-in is new
    waiting: dict[str, int] = field(default_factory=dict)  # accounts that go when their mail has gone


def realise(connection: Connection, control: Control, declaration: Declaration, read: Read) -> Done:
    """Add, change and remove until all that the file owns is as it says. Idempotent.

    What people made and the file declares too becomes the file's.  Raises ControlError, which names the table.
    """
    done, mark = Done(), str(declaration.path)
    before = store.load(connection)
    _clients(connection, declaration, read, before.clients, mark)
    wanted = _wanted_senders(declaration)
    for sender in before.senders:
        if sender.managed_by is not None and sender.pattern not in wanted:
            store.remove_sender(connection, sender.pattern)
    known = {normalise(account.address): account for account in before.accounts}
    for declared in declaration.accounts:
        with _in_table("accounts", declared.address):
            _account(connection, control, declared, known.pop(normalise(declared.address), None), read, mark, done)
    _senders(connection, wanted, {sender.pattern: sender for sender in before.senders}, mark)
    for account in known.values():
        if account.managed_by is not None:
            _go(connection, account, mark, done)
    return done


@contextmanager
def _in_table(table: str, key: str) -> Iterator[None]:
    """Refusals within name the table, and the keys of the file in place of options."""
    try:
        with refusals():
            yield
    except ControlError as refused:
        raise ControlError(f"{table}.{key_of(key)}: {with_keys(refused.text)}", with_keys(refused.remedy)) from None


# -- accounts -------------------------------------------------------------------------------------------------------


def _account(
    connection: Connection,
    control: Control,
    declared: DeclaredAccount,
    existing: Account | None,
    read: Read,
    mark: str,
    done: Done,
) -> None:
    settings: dict[str, Any] = {**_DEFAULTS, **declared.settings}
    if "provider" not in declared.settings and settings["host"]:
        settings["provider"] = "custom"
    given = {kind: read.secrets[declared.address, kind] for kind in declared.secrets}
    if "password" in given and settings["auth"] != "password":
        raise ControlError(f"an account with auth {settings['auth']} has no password", "leave the password out")
    if existing is None:
        account_id = store.add_account(connection, declared.address, now_ms=now_ms(), **settings)
        existing = store.get_account(connection, account_id)
    if _was_moved(connection, existing, settings):
        settings["transport"] = existing.transport
    oauth = _oauth(connection, control, declared, existing, settings, given)
    changed = {name: value for name, value in settings.items() if getattr(existing, name) != value}
    if existing.oauth != oauth:
        changed["oauth"] = oauth or None
    if changed:
        store.update_account(connection, existing.id, **changed)
    if existing.web_hosts:
        set_web_hosts(connection, existing.id, None)
    if existing.managed_by != mark:
        set_manager(connection, "account", existing.id, mark)
    now = store.get_account(connection, existing.id)
    if changed.keys() & {"auth", "provider", "oauth"}:
        forget_unfit(connection, control.vault, existing, now, oauth)
    fresh = _secrets(connection, control, now, given, mark, done)
    if fresh or (changed and now.auth in WITH_A_PERSON + ON_ITS_OWN):
        done.acted.append(now.id)
        if stopped_by_relay(now) and now.auth not in WITH_A_PERSON:
            done.resumed += resume(connection, now.id, now_ms=now_ms(), actor=control.actor)


def _was_moved(connection: Connection, existing: Account, settings: Mapping[str, Any]) -> bool:
    """Did it leave the transport that the file says, as the file lets it? Going back would stop its mail again."""
    if (existing.transport, settings["transport"], settings["fallback"]) != ("graph", "smtp", "graph"):
        return False
    return conditions.lasts(connection, existing.id, ConditionKind.MOVED)


def _oauth(
    connection: Connection,
    control: Control,
    declared: DeclaredAccount,
    existing: Account,
    settings: Mapping[str, Any],
    given: Mapping[str, Secret],
) -> str:
    """The account's OAuth settings, from the file alone; what a key stored by hand said of itself stays."""
    keys = {kind: secret.reveal() for kind, secret in given.items() if kind in KEYS}
    oauth = given_oauth(declared.oauth, keys, declared.secret_expires)
    account = replace(existing, **settings, oauth="")
    upstream = checked_upstream(control, account)
    stored = connection.execute(select(secrets_table.c.kind).where(secrets_table.c.account_id == existing.id))
    complete = not set(stored.scalars()) & set(KEYS)
    if not keys and not complete and existing.auth == account.auth:
        account = replace(account, oauth=existing.oauth)
    return oauth_of(account, upstream, oauth, control.settings.oauth, complete=complete)


def _secrets(
    connection: Connection, control: Control, account: Account, given: Mapping[str, Secret], mark: str, done: Done
) -> bool:
    """Seal what differs, forget what the file declared before; True: something was sealed."""
    fresh = False
    for kind, secret in given.items():
        try:
            stored: Secret | None = Secret(control.vault.open_from(connection, account.id, kind))
            verb = "changed"
        except (SecretMissing, SecretUnreadable) as error:
            stored, verb = None, "set" if isinstance(error, SecretMissing) else "changed"
        if stored is None or stored != secret:
            if kind in KEYS:
                store_keys(connection, control.vault, account.id, {kind: secret.reveal()})
            elif kind == PROXY_PASSWORD:
                store_proxy_password(connection, control, None, account, secret.reveal())
            else:
                control.vault.seal_into(connection, account.id, kind, secret)
            done.secrets[account.address, kind] = verb
            fresh = True
        set_secret_manager(connection, account.id, kind, mark)
    for kind in managed_secrets(connection, account.id):
        if kind not in given:
            control.vault.forget_in(connection, account.id, kind)
            done.secrets[account.address, kind] = "removed"
    return fresh


def _go(connection: Connection, account: Account, mark: str, done: Done) -> None:
    """An account that the file declares no more; while mail waits it stays, without senders, so that none is lost."""
    try:
        store.remove_account(connection, account.id)
    except AccountInUse as used:
        if used.senders:
            raise ControlError(
                f"{key_of(account.address)} is declared no more, but {', '.join(used.senders[:5])} made by hand use it",
                f"relay sender remove {used.senders[0]!r}, or declare the account again",
            ) from None
        done.waiting[account.address] = used.waiting
        set_manager(connection, "account", account.id, mark)


# -- senders and clients --------------------------------------------------------------------------------------------


def _wanted_senders(declaration: Declaration) -> dict[str, tuple[str, str]]:
    """Account and From policy by pattern: each account's own address, unless something else is said of it."""
    own = {normalise(one.address): (one.address, "keep") for one in declaration.accounts if one.sender}
    return own | {one.pattern: (one.account, one.from_policy) for one in declaration.senders}


def _senders(
    connection: Connection, wanted: Mapping[str, tuple[str, str]], before: Mapping[str, Sender], mark: str
) -> None:
    ids: dict[str, int] = {}
    for pattern, (address, policy) in wanted.items():
        with _in_table("senders", pattern):
            if address not in ids:
                ids[address] = store.find_account(connection, address).id
            account_id, existing = ids[address], before.get(pattern)
            if existing is not None and existing.account_id != account_id:
                store.remove_sender(connection, pattern)
                existing = None
            if existing is None or existing.from_policy != policy:
                store.add_sender(connection, pattern, account_id, now_ms=now_ms(), from_policy=policy)  # type: ignore[arg-type]
            if existing is None or existing.managed_by != mark:
                set_manager(connection, "sender", pattern, mark)


def _clients(connection: Connection, declaration: Declaration, read: Read, before: Any, mark: str) -> None:
    """Those that differ are made anew: two may have exchanged their networks."""
    known = {client.name: client for client in before}
    anew = []
    for declared in declaration.clients:
        name = declared.client.name
        existing = known.pop(name, None)
        hash_ = read.hashes.get(name, "")
        if existing is not None:
            wanted = replace(
                declared.client, password_hash=hash_, created_at=existing.created_at, managed_by=existing.managed_by
            )
            if wanted == existing:
                if existing.managed_by != mark:
                    set_manager(connection, "client", name, mark)
                continue
            store.remove_client(connection, name)
        anew.append((declared, existing.created_at if existing is not None else now_ms(), hash_))
    for client in known.values():
        if client.managed_by is not None:
            store.remove_client(connection, client.name)
    for declared, created_at, hash_ in anew:
        more: dict[str, Any] = {"password_hash": hash_} if hash_ else {}
        with _in_table("clients", declared.client.name):
            store.add_client(connection, declared.client.name, now_ms=created_at, **declared.settings, **more)
        set_manager(connection, "client", declared.client.name, mark)
