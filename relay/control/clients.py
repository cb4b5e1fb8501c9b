"""Clients: which application, by the network it connects from, may use which senders."""

from __future__ import annotations

from typing import Any, cast

from relay.accounts import store
from relay.accounts.model import Answer, Client
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.reasons import refusals, shown

_CLOSED = (
    "From now on only defined clients may send: addresses in no client's networks are refused, "
    "127.0.0.1 included (relay client add local --network 127.0.0.0/8)"
)
_OPEN = "No client is defined any more: any allowed network may use any registered sender"


async def client_add(
    control: Control,
    *,
    name: str,
    networks: list[str],
    senders: list[str] | None = None,
    answer: str = "queued",
    tolerate: list[str] | None = None,
) -> dict[str, Any]:
    """Bind networks to senders; no `senders`: every registered one. Sessions that are open keep what they had."""
    if answer == "direct":
        raise ControlError(
            "--answer direct is not in this release", "leave it out: the reply comes once the mail is queued"
        )
    if tolerate:
        raise ControlError("tolerance switches are not in this release", "leave out --tolerate")
    first = not control.directory.clients()
    detail = {"networks": networks, "senders": senders or [], "answer": answer, "tolerate": tolerate or []}
    with refusals():
        client = await control.change(
            "client.add",
            shown(name),
            detail,
            lambda connection: store.add_client(
                connection,
                name,
                networks=networks,
                senders=senders or (),
                answer=cast("Answer", answer),  # checked by the store
                tolerate=tolerate or (),
                now_ms=now_ms(),
            ),
        )
    return {**_facts(client), "warning": "; ".join(_warnings(control, client, first=first))}


async def client_list(control: Control) -> list[dict[str, Any]]:
    """Every entry."""
    return [_facts(client) for client in control.directory.clients()]


async def client_show(control: Control, *, name: str) -> dict[str, Any]:
    """One entry."""
    for client in control.directory.clients():
        if client.name == name:
            return _facts(client)
    raise ControlError(f"there is no client {shown(name)}", "`relay client list` shows them")


async def client_remove(control: Control, *, name: str) -> dict[str, Any]:
    """Forget an entry; `left` says how many there are now. With none, any allowed network may use any sender."""
    with refusals():
        await control.change("client.remove", shown(name), {}, lambda connection: store.remove_client(connection, name))
    return {
        "name": name,
        "left": len(control.directory.clients()),
        "warning": "" if control.directory.clients() else _OPEN,
    }


def _warnings(control: Control, client: Client, *, first: bool) -> list[str]:
    patterns = {sender.pattern for sender in control.directory.senders()}
    found = [_CLOSED] if first else []
    for sender in client.senders:
        routed = sender in patterns or ("@" in sender[1:] and control.directory.route(sender) is not None)
        if not routed and not (sender.startswith("@") and "*" in patterns):
            found.append(f"{sender} goes through no account yet: relay sender add {sender!r} ACCOUNT")
    return found


def _facts(client: Client) -> dict[str, Any]:
    return {
        "name": client.name,
        "networks": [str(network) for network in client.networks],
        "senders": list(client.senders),
        "answer": client.answer,
        "tolerate": list(client.tolerate),
        "created_at": iso(client.created_at),
    }
