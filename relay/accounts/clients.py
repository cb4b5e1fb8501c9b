"""Reads and writes client entries: one function an operation, over a connection inside a transaction."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from ipaddress import ip_network
from typing import Any, Unpack

from sqlalchemy import Connection, Row, delete, insert, select, update

from relay.accounts.client_settings import (
    ClientSettings,
    changed_tolerate,
    check_whole,
    checked_client,
    checked_client_name,
    known_switch,
)
from relay.accounts.errors import BadSetting, ClientExists, ClientNotFound, LoginTaken, NetworkTaken
from relay.accounts.model import Client
from relay.database.schema import clients

_COLUMNS = frozenset(
    {"name", "networks", "senders", "answer", "tolerate", "created_at", "login", "password_hash", "managed_by"}
)  # the rest is in `options`, where it differs from its default
_OPTIONS = {field.name: field.default for field in fields(Client) if field.name not in _COLUMNS}


def read_clients(connection: Connection) -> tuple[Client, ...]:
    """Every entry, by name."""
    return tuple(_client(row) for row in connection.execute(select(clients).order_by(clients.c.name)))


def get_client(connection: Connection, name: str) -> Client:
    """One entry. Raises ClientNotFound."""
    row = connection.execute(select(clients).where(clients.c.name == name)).first()
    if row is None:
        raise ClientNotFound(name)
    return _client(row)


def add_client(connection: Connection, name: str, *, now_ms: int, **settings: Unpack[ClientSettings]) -> Client:
    """Register an application by the networks it connects from, or by its login.

    `senders`: the patterns it may use; none: every registered sender.  `sender_map` without `identity` means
    identity "map".  Raises BadSetting, ClientExists, NetworkTaken, LoginTaken.
    """
    nothing = Client(checked_client_name(name), (), created_at=now_ms)
    others = read_clients(connection)
    if any(other.name == name for other in others):
        raise ClientExists(name)
    client = _changed(nothing, settings, others)
    connection.execute(insert(clients).values(_row(client)))
    return client


def made_client(name: str, *, now_ms: int, **settings: Unpack[ClientSettings]) -> Client:
    """What `add_client` would register if there were no other. Raises BadSetting, BadAddress."""
    return _changed(Client(checked_client_name(name), (), created_at=now_ms), settings, ())


def change_client(connection: Connection, name: str, **settings: Unpack[ClientSettings]) -> Client:
    """Change the settings that are given, an empty one back to its default; the entry as it is then.

    A client that need no longer log in loses login and password.  Raises BadSetting, ClientNotFound,
    NetworkTaken, LoginTaken; nothing is changed in that case.
    """
    before = get_client(connection, name)
    client = _changed(before, settings, read_clients(connection))
    connection.execute(update(clients).where(clients.c.name == name).values(_row(client)))
    return client


def remove_client(connection: Connection, name: str) -> None:
    """Forget a client entry. Raises ClientNotFound."""
    if not connection.execute(delete(clients).where(clients.c.name == name)).rowcount:
        raise ClientNotFound(name)


def _changed(before: Client, settings: ClientSettings, others: tuple[Client, ...]) -> Client:
    if "tolerate" in settings:
        settings = {**settings, "tolerate": changed_tolerate(before.tolerate, settings["tolerate"])}
    values = checked_client(settings)
    if values.get("sender_map") and not settings.get("identity") and before.identity == "envelope":
        values["identity"] = "map"
    if values.get("login") and not settings.get("auth"):
        values["auth"] = "login"
    auth = values.get("auth", before.auth)
    if auth != "login":
        if values.get("password_hash"):
            raise BadSetting("password", "given", f"with --auth {auth} nobody logs in; give --auth login --login USER")
        values = {"login": "", **values, "password_hash": ""}
    client = replace(before, **values)
    check_whole(client)
    for other in others:
        if other.name == client.name:
            continue
        if client.login and other.login == client.login:
            raise LoginTaken(client.login, other.name)
        for network in client.networks:
            if network in other.networks:
                raise NetworkTaken(str(network), other.name)
    return client


def _row(client: Client) -> dict[str, Any]:
    options = {name: getattr(client, name) for name in _OPTIONS}
    return {
        "name": client.name,
        "networks": json.dumps([str(network) for network in client.networks]),
        "senders": json.dumps(client.senders),
        "answer": client.answer,
        "tolerate": json.dumps(client.tolerate),
        "created_at": client.created_at,
        "login": client.login or None,
        "password_hash": client.password_hash or None,
        "managed_by": client.managed_by,
        "options": json.dumps({name: value for name, value in options.items() if value != _OPTIONS[name]}),
    }


def _client(row: Row[Any]) -> Client:
    options = json.loads(row.options)
    return Client(
        name=row.name,
        networks=tuple(ip_network(network) for network in json.loads(row.networks)),
        senders=tuple(json.loads(row.senders)),
        answer=row.answer,
        tolerate=tuple(name for name in json.loads(row.tolerate) if known_switch(name)),  # an old store took any word
        created_at=row.created_at,
        login=row.login or "",
        password_hash=row.password_hash or "",
        managed_by=row.managed_by,
        **{name: _tuples(options[name]) for name in _OPTIONS if name in options},
    )


def _tuples(value: Any) -> Any:
    """JSON has lists alone."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
