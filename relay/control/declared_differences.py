"""What an accounts file changes, as people and programs read it: before and after of each row, never a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from relay.accounts.model import Account, Client, Sender
from relay.accounts.store import Snapshot

_HIDDEN = {
    "account": frozenset(
        {"id", "address", "oauth", "state", "state_cause", "state_reply", "state_since", "revision", "created_at"}
    ),
    "sender": frozenset({"pattern", "account_id", "created_at"}),
    "client": frozenset({"name", "password_hash", "created_at"}),
}
# What need not be said of something new: the settings that are as by default, and that the file declares it.
_USUAL: Mapping[str, Mapping[str, Any]] = {
    "account": {one.name: one.default for one in fields(Account)},
    "sender": {"from": "keep"},
    "client": {one.name: one.default for one in fields(Client)} | {"networks": ()},
}


@dataclass(frozen=True, slots=True)
class Change:
    """`verb`: add, change or remove. `fields`: what it was and will be, by name; a secret is `set`, `changed`, …"""

    verb: str
    kind: str
    name: str
    fields: Mapping[str, tuple[Any, Any]]

    def as_json(self) -> dict[str, Any]:
        """For programs and the audit trail."""
        shown = {name: {"before": before, "after": after} for name, (before, after) in self.fields.items()}
        return {"action": self.verb, "kind": self.kind, "name": self.name, "fields": shown}


def differences(before: Snapshot, after: Snapshot, secrets: Mapping[tuple[str, str], str]) -> list[Change]:
    """From `before` to `after`, accounts first; `secrets`: what became of them, by account and kind."""
    return [
        *_of_accounts(before, after, secrets),
        *_compared("sender", _senders(before), _senders(after)),
        *_compared("client", _clients(before), _clients(after)),
    ]


def _of_accounts(before: Snapshot, after: Snapshot, secrets: Mapping[tuple[str, str], str]) -> Iterator[Change]:
    said: dict[str, dict[str, tuple[Any, Any]]] = {}
    for (address, kind), verb in secrets.items():
        said.setdefault(address, {})[kind] = (None, verb)
    then = {account.address: _account(account) for account in before.accounts}
    now = {account.address: _account(account) for account in after.accounts}
    for change in _compared("account", then, now, always=said):
        yield Change(change.verb, change.kind, change.name, {**change.fields, **said.get(change.name, {})})


def _compared(
    kind: str,
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    always: Mapping[str, Any] | None = None,
) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        then, now = before.get(name), after.get(name)
        if now is None:
            yield Change("remove", kind, name, {})
        elif then is None:
            said = {key: (None, _plain(value)) for key, value in now.items() if _says(kind, key, value)}
            yield Change("add", kind, name, said)
        else:
            changed = {
                key: (_plain(then.get(key)), _plain(now.get(key)))
                for key in {**then, **now}
                if then.get(key) != now.get(key) and key != "password"
            }
            if then.get("password") != now.get("password"):
                changed["password"] = (None, _verb(then["password"], now["password"]))
            if changed or name in (always or {}):
                yield Change("change", kind, name, changed)


def _account(account: Account) -> dict[str, Any]:
    facts = {key: value for key, value in asdict(account).items() if key not in _HIDDEN["account"]}
    oauth = json.loads(account.oauth) if account.oauth else {}
    return facts | {f"oauth {key}": value for key, value in oauth.items() if key != "provider"}


def _senders(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    addresses = {account.id: account.address for account in snapshot.accounts}
    return {sender.pattern: _sender(sender, addresses.get(sender.account_id, "")) for sender in snapshot.senders}


def _sender(sender: Sender, account: str) -> dict[str, Any]:
    return {"account": account, "from": sender.from_policy, "managed_by": sender.managed_by}


def _clients(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    return {client.name: _client(client) for client in snapshot.clients}


def _client(client: Client) -> dict[str, Any]:
    facts = {key: value for key, value in asdict(client).items() if key not in _HIDDEN["client"]}
    facts["networks"] = tuple(map(str, client.networks))
    facts["sender_map"] = tuple(f"{pattern}={address}" for pattern, address in client.sender_map)
    return {**facts, "password": _Hidden(client.password_hash)}


class _Hidden:
    """A value that is compared and never shown."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden) and other._value == self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    __hash__ = None  # type: ignore[assignment]


def _verb(before: _Hidden, after: _Hidden) -> str:
    if before and after:
        return "changed"
    return "set" if after else "removed"


def _plain(value: object) -> object:
    """As JSON has it."""
    if isinstance(value, _Hidden):
        return "set"
    return list(value) if isinstance(value, tuple) else value


def _says(kind: str, key: str, value: object) -> bool:
    if isinstance(value, _Hidden):
        return bool(value)
    return key != "managed_by" and value != _USUAL[kind].get(key)
