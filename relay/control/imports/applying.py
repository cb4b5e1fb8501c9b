"""Carries out the plan of an import: all of it in one transaction, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.errors import AccountNotFound
from relay.accounts.normalise import normalise_pattern
from relay.control.context import Control, ControlError, now_ms
from relay.control.differences import difference, registered
from relay.control.oauth_settings import KEYS, given_oauth, oauth_of, store_keys
from relay.control.reasons import refusals, shown
from relay.control.upstreams import checked_upstream

T = TypeVar("T")

_OAUTH = ("tenant", "client_id", "token_url", "authorize_url", "scope")
_TEXTS = ("provider", "host", "tls", "trust", "login", "auth")


async def import_apply(
    control: Control, *, source: str, accounts: list[dict[str, str]], senders: list[dict[str, str]]
) -> dict[str, Any]:
    """Add what is not there yet; `added`, and `there` for what was. Nothing that is there is changed.

    `accounts`: arguments of account.add, of them `address` at least; one may lack its password.  `senders`: `pattern`
    and `account`.
    Refused when any part is; nothing is kept then.
    """
    added: dict[str, list[str]] = {"accounts": [], "senders": []}
    there: dict[str, list[str]] = {"accounts": [], "senders": []}

    def apply(connection: Connection) -> None:
        for given in accounts:
            address = given.get("address", "")
            try:
                store.find_account(connection, address)
                there["accounts"].append(address)
            except AccountNotFound:
                _named(address, partial(_add, control, connection, given))
                added["accounts"].append(address)
                _record(control, connection, "account.add", address, source)
        known = {sender.pattern for sender in store.load(connection).senders}
        for given in senders:
            pattern, account = given.get("pattern", ""), given.get("account", "")
            if _named(pattern, partial(normalise_pattern, pattern)) in known:
                there["senders"].append(pattern)
                continue
            account_id = store.find_account(connection, account).id
            store.add_sender(connection, pattern, account_id, now_ms=now_ms())
            added["senders"].append(pattern)
            _record(control, connection, "sender.add", pattern, source)

    with refusals():
        await control.database.write(apply)
    await control.directory.reload()
    if control.lanes is not None:
        control.lanes.refresh()
    return {"added": added, "there": there}


def _named(what: str, function: Callable[[], T]) -> T:
    """Refusals say of which entry they are."""
    try:
        with refusals():
            return function()
    except ControlError as error:
        raise ControlError(f"{shown(what)}: {error.text}", error.remedy) from None


def _add(control: Control, connection: Connection, given: dict[str, str]) -> None:
    if given.keys() - {"address", "port", "password", *_TEXTS, *_OAUTH, *KEYS}:
        raise ControlError(
            "an account has settings that are not known here", "use the command line of the same version"
        )
    settings: dict[str, Any] = {name: given[name] for name in _TEXTS if name in given}
    if "port" in given:
        settings["port"] = int(given["port"]) if given["port"].isdigit() and given["port"].isascii() else 0
    settings.setdefault("provider", "custom" if "host" in given else "default")
    account_id = store.add_account(connection, given["address"], now_ms=now_ms(), **settings)
    account = store.get_account(connection, account_id)
    upstream = checked_upstream(control, account)
    oauth = given_oauth({name: given.get(name) for name in _OAUTH}, {kind: given.get(kind) for kind in KEYS}, None)
    if fields := oauth_of(account, upstream, oauth, control.settings.oauth):
        store.update_account(connection, account_id, oauth=fields)
        store_keys(connection, control.vault, account_id, oauth.keys)
    if given.get("password"):
        control.vault.seal_into(connection, account_id, "password", given["password"])


def _record(control: Control, connection: Connection, action: str, target: str, source: str) -> None:
    after = difference({}, registered(connection, action, target))
    control.record(connection, action, shown(target), {"import": shown(source), **after})
