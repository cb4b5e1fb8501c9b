"""Clients: which application may send as whom and to whom, and how it is treated."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict, Unpack, cast

from relay.accounts import store
from relay.accounts.client_settings import ClientSettings
from relay.accounts.errors import BadSetting
from relay.accounts.model import Client
from relay.accounts.passwords import hash_password
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.managed import by_hand
from relay.control.reasons import refusals, shown
from relay.mail.tolerance import tolerance

_CLOSED = (
    "From now on only defined clients may send: addresses in no client's networks are refused, "
    "127.0.0.1 included (relay client add local --network 127.0.0.0/8)"
)
_OPEN = "No client is defined any more: any allowed network may use any registered sender"


class ClientFields(TypedDict, total=False):
    """What may be said of a client; None, or left out: nothing is said of it."""

    networks: list[str] | None
    senders: list[str] | None
    answer: str | None
    tolerate: list[str] | None
    auth: str | None
    login: str | None
    password: str | None
    identity: str | None
    sender_map: list[str] | None
    messages_per_minute: int | None
    recipients_per_minute: int | None
    bytes_per_day: int | None
    recipients: list[str] | None
    denied: list[str] | None
    capture: str | None
    default_domain: str | None
    charset: str | None


async def client_add(
    control: Control,
    *,
    name: str,
    **fields: Unpack[ClientFields],
) -> dict[str, Any]:
    """Bind networks or a login to senders; no `senders`: every registered one. Open sessions keep what they had.

    `sender_map`: members like `root@localhost=app@example.com`.
    """
    first = not control.directory.clients()
    with refusals():
        settings = await _settings(fields)
        client = await control.change(
            "client.add",
            shown(name),
            _detail(settings),
            lambda connection: store.add_client(connection, name, now_ms=now_ms(), **settings),
        )
    return {**_facts(control, client), "warning": "; ".join(_warnings(control, client, first=first))}


async def client_set(
    control: Control,
    *,
    name: str,
    **fields: Unpack[ClientFields],
) -> dict[str, Any]:
    """Change what is given; an empty value takes the default again. For whoever connects from now on.

    `tolerate` replaces the switches, or changes them where each has + or - in front.  `changed`: what is different now.
    """
    _by_hand(control, name)
    with refusals():
        settings = await _settings(fields)
        if not settings:
            raise ControlError("nothing to change was given", "see `relay client set --help`")
        before, client = await control.change(
            "client.set",
            shown(name),
            _detail(settings),
            lambda connection: (
                store.get_client(connection, name),
                store.change_client(connection, name, **settings),
            ),
        )
    facts, was = _facts(control, client), _facts(control, before)
    changed = {field: {"before": was[field], "after": facts[field]} for field in facts if was[field] != facts[field]}
    return {**facts, "changed": changed, "warning": "; ".join(_warnings(control, client, first=False))}


async def client_list(control: Control) -> list[dict[str, Any]]:
    """Every entry."""
    return [_facts(control, client) for client in control.directory.clients()]


async def client_show(control: Control, *, name: str) -> dict[str, Any]:
    """One entry. Never its password, only whether there is one."""
    client = control.directory.client_named(name)
    if client is None:
        raise ControlError(f"there is no client {shown(name)}", "`relay client list` shows them")
    return _facts(control, client)


async def client_remove(control: Control, *, name: str) -> dict[str, Any]:
    """Forget an entry; `left` says how many there are now. With none, any allowed network may use any sender."""
    _by_hand(control, name)
    with refusals():
        await control.change("client.remove", shown(name), {}, lambda connection: store.remove_client(connection, name))
    return {
        "name": name,
        "left": len(control.directory.clients()),
        "warning": "" if control.directory.clients() else _OPEN,
    }


def _by_hand(control: Control, name: str) -> None:
    client = control.directory.client_named(name)
    if client is not None:
        by_hand(client.managed_by, f"client {shown(name)}")


async def _settings(fields: ClientFields) -> ClientSettings:
    """What is not None; the password as its hash. Raises BadSetting."""
    settings: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if "sender_map" in settings:
        settings["sender_map"] = [_pair(text) for text in settings["sender_map"]]
    if "password" in settings:
        settings["password_hash"] = await asyncio.to_thread(hash_password, settings.pop("password"))
    return cast("ClientSettings", settings)  # `checked_client` looks at each


def _pair(text: str) -> tuple[str, str]:
    """Cut at the last "=": a sender may hold one (`bounce=ann@example.com`), an address of a mailbox hardly ever."""
    pattern, equals, address = text.rpartition("=")
    if not equals:
        raise BadSetting("map", text or "an empty text", "write FROM=TO, such as root@localhost=app@example.com")
    return pattern, address


def _detail(settings: ClientSettings) -> dict[str, Any]:
    """For the audit trail: of a password only that one was set."""
    detail = {name: value for name, value in settings.items() if name != "password_hash"}
    return {**detail, "password": "set"} if "password_hash" in settings else detail


def _warnings(control: Control, client: Client, *, first: bool) -> list[str]:
    patterns = {sender.pattern for sender in control.directory.senders()}
    found = [_CLOSED] if first else []
    allowed = [network for door in control.settings.doors for network in door.allowed_networks]
    for network in client.networks:
        if not any(network.version == other.version and network.overlaps(other) for other in allowed):
            found.append(
                f"{network} may not connect yet: add it to RELAY_LISTENER__ALLOWED_NETWORKS, then `relay reload`"
            )
    for sender in dict.fromkeys((*client.senders, *(target for _, target in client.sender_map))):
        routed = sender in patterns or ("@" in sender[1:] and control.directory.route(sender) is not None)
        if not routed and not (sender.startswith("@") and "*" in patterns):
            found.append(f"{sender} goes through no account yet: relay sender add {sender!r} ACCOUNT")
    for _, target in client.sender_map:
        if not control.directory.may_use(client, target):
            found.append(f"{target} is none of its senders: relay client set {client.name} --sender …")
    if client.default_domain and "bare-recipients" not in control.directory.tolerance_of(client):
        found.append("The default domain is used with --tolerate bare-recipients only")
    if client.capture:
        found.append(f"All its mail goes to {client.capture} and to nobody else")
    return found


def _facts(control: Control, client: Client) -> dict[str, Any]:
    return {
        "name": client.name,
        "networks": [str(network) for network in client.networks],
        "auth": client.auth,
        "login": client.login,
        "password_set": bool(client.password_hash),
        "senders": list(client.senders),
        "identity": client.identity,
        "sender_map": [f"{pattern}={address}" for pattern, address in client.sender_map],
        "recipients": list(client.recipients),
        "denied": list(client.denied),
        "capture": client.capture,
        "messages_per_minute": client.messages_per_minute,
        "recipients_per_minute": client.recipients_per_minute,
        "bytes_per_day": client.bytes_per_day,
        "answer": client.answer,
        "tolerate": list(client.tolerate),
        "tolerated": sorted(tolerance(client.tolerate)),  # with what is on for everybody
        "default_domain": client.default_domain,
        "charset": client.charset,
        "managed_by": client.managed_by,
        "created_at": iso(client.created_at),
    }
