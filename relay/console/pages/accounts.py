"""Accounts: the list, one account, adding one, and what an administrator does to it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from relay.accounts.model import InDoubtPolicy
from relay.accounts.presets import PRESETS
from relay.console.identity import base_of
from relay.console.pages import proof
from relay.console.pages.asking import asking
from relay.console.pages.callers import Administrator, Sent, Text
from relay.console.pages.render import page
from relay.console.problems import STATUS
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

Secret = Annotated[str, Form(max_length=65_536)]
_TO_FILL_IN_S = 300  # for a form, while the proof counts


@router.get("/accounts")
async def accounts(request: Request, caller: Administrator) -> Response:
    """Every account with its health, and who still uses a password."""
    found, logins = await asyncio.gather(caller.call("account.list"), caller.call("account.logins"))
    by_address = {login["address"]: login for login in logins}
    both = [account for account in found if account["address"] in by_address]  # but what came or went in between
    return page(request, "accounts.html", caller=caller, accounts=both, logins=by_address)


@router.get("/accounts/new")
async def new(request: Request, caller: Administrator, provider: str = "") -> Response:
    """First the provider, then what that one needs; whoever must prove who they are does it before they type."""
    if caller.proof_s < _TO_FILL_IN_S:
        return await proof.before(request, caller, "/accounts/new")
    return _form(request, caller, {"provider": provider if provider in PRESETS else ""}, None)


@router.post("/accounts/new")
async def add(
    request: Request,
    caller: Sent,
    provider: Text,
    address: Text,
    password: Secret = "",
    auth: Text = "password",
    login: Text = "",
    host: Text = "",
    port: Text = "",
) -> Response:
    """Register it; with a refusal the form comes back as it was, without the password."""
    invited = auth == "invite"
    given: dict[str, Any] = {"provider": provider, "address": address.strip(), "auth": "password" if invited else auth}
    given |= {name: value.strip() for name, value in (("login", login), ("host", host)) if value.strip()}
    secret: dict[str, Any] = {"password": password} if auth == "password" and password else {}
    if invited:
        secret = {"invite": True}
    try:
        if port.strip():
            given["port"] = _port(port)
        await caller.call("account.add", {**given, **secret})
    except ControlError as refusal:
        if refusal.kind == "proof":
            raise
        return _form(request, caller, given | {"port": port, "auth": auth}, refusal)
    if invited:
        return await invite(request, caller, given["address"], given["address"])
    return RedirectResponse(f"/accounts/{given['address']}", 303)


@router.get("/accounts/{account}")
async def show(request: Request, caller: Administrator, account: str, did: Annotated[str, Query()] = "") -> Response:
    """One account: where it submits, how it is, what waits, what to do."""
    facts, users = await asyncio.gather(caller.call("account.show", {"account": account}), caller.call("user.list"))
    people = [user for user in users if facts["address"] in user["accounts"]]
    return page(
        request,
        "account.html",
        caller=caller,
        account=facts,
        people=people,
        did=did,
        preset=_preset(facts),
        in_doubt=get_args(InDoubtPolicy),
    )


@router.post("/accounts/{account}/limits")
async def limits(
    request: Request,
    caller: Sent,
    account: str,
    max_connections: Text = "",
    per_minute: Text = "",
    per_day: Text = "",
) -> Response:
    """Change its limits; an empty field is the provider's default."""
    given = await _changed(request, {"max_connections": max_connections, "per_minute": per_minute, "per_day": per_day})
    arguments: dict[str, Any] = {name: _whole(name, text) for name, text in given.items() if text}
    back = [name for name, text in given.items() if not text]
    if given:
        await caller.call("account.set", {"account": account, **arguments, **({"defaults": back} if back else {})})
    return _back(account, "saved")


@router.post("/accounts/{account}/handling")
async def handling(
    request: Request,
    caller: Sent,
    account: str,
    owner: Text = "",
    bounces: Text = "",
    sent_copy: Text = "",
    null_sender: Text = "",
    in_doubt: Text = "",
    transport: Text = "",
    fallback: Text = "",
) -> Response:
    """Change what is done with its mail: a choice that is not in the form stays as it is, empty fields are nobody."""
    choices = {"sent_copy": sent_copy, "in_doubt": in_doubt, "transport": transport, "fallback": fallback}
    texts = {"owner": owner, "bounces": bounces}
    given = await _changed(
        request, texts | {name: value for name, value in (choices | {"null_sender": null_sender}).items() if value}
    )
    arguments: dict[str, Any] = {name: value for name, value in given.items() if name in choices}
    if "bounces" in given:
        arguments["bounces"] = given["bounces"] or "none"
    if "owner" in given:
        arguments |= {"owner": given["owner"]} if given["owner"] else {"defaults": ["owner"]}
    if "null_sender" in given:
        arguments["null_sender"] = given["null_sender"] == "yes"
    if arguments:
        await caller.call("account.set", {"account": account, **arguments})
    return _back(account, "saved")


@router.post("/accounts/{account}/password")
async def set_password(caller: Sent, account: str, password: Secret) -> Response:
    """Store another password."""
    await caller.call("account.set_password", {"account": account, "password": password})
    return _back(account, "saved")


@router.post("/accounts/{account}/suspend")
async def suspend(caller: Sent, account: str) -> Response:
    """Stop it; its mail waits."""
    await caller.call("account.suspend", {"account": account})
    return _back(account, "suspended")


@router.post("/accounts/{account}/resume")
async def resume(caller: Sent, account: str) -> Response:
    """Let its mail go on."""
    await caller.call("account.resume", {"account": account})
    return _back(account, "resumed")


@router.post("/accounts/{account}/remove")
async def remove(request: Request, caller: Sent, account: str, sure: Text = "") -> Response:
    """Remove it with its secrets."""
    if not sure:
        question = f"Remove {account}, its login and its senders?"
        return asking(request, caller, question, {}, yes="Remove it", back=f"/accounts/{account}")
    await caller.call("account.remove", {"account": account, "force": True})
    return RedirectResponse("/accounts", 303)


@router.post("/accounts/{account}/invite")
async def invite(request: Request, caller: Sent, account: str, name: Text) -> Response:
    """A link for its owner, shown once; what they may touch already stays."""
    known = {user["name"]: user["accounts"] for user in await caller.call("user.list")}
    mailboxes = sorted({account, *known.get(name.strip().lower(), [])})
    made = await caller.call("user.invite", {"name": name, "accounts": mailboxes})
    return page(request, "invited.html", caller=caller, made=made, url=f"{base_of(request)}{made['path']}")


def _form(request: Request, caller: Any, given: dict[str, Any], refusal: ControlError | None) -> Response:
    preset = PRESETS.get(given["provider"])
    return page(
        request,
        "account_new.html",
        caller=caller,
        status=STATUS[refusal.kind] if refusal is not None else 200,
        presets=sorted(
            (one for one in PRESETS.values() if one.id != "default"), key=lambda one: one.id == "custom"
        ),  # whoever finds their provider needs to know no host
        preset=preset,
        given={"address": "", "login": "", "host": "", "port": "", "auth": "password"} | given,
        error=refusal,
    )


async def _changed(request: Request, fields: dict[str, str]) -> dict[str, str]:
    """The fields that are not as the page showed them: what another administrator changed meanwhile stays."""
    form = await request.form()
    return {name: value.strip() for name, value in fields.items() if form.get(f"was_{name}") != value.strip()}


def _preset(facts: dict[str, Any]) -> Any:
    return PRESETS.get(facts["provider"], PRESETS["custom"])


def _port(text: str) -> int:
    number = _whole("port", text)
    if not 1 <= number <= 65_535:
        raise ControlError(f"port cannot be {number}", "give 1 to 65535, or leave it empty", "invalid")
    return number


def _whole(name: str, text: str) -> int:
    if not text.strip().isdecimal() or len(text.strip()) > 9:
        raise ControlError(f"{name.replace('_', ' ')} is no number", "give a whole number; 0: no limit", "invalid")
    return int(text)


def _back(account: str, did: str) -> Response:
    return RedirectResponse(f"/accounts/{account}?did={did}", 303)
