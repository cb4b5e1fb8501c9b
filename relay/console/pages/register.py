"""Senders and clients: which sender's mail goes through which account, which application may send as whom."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.pages.asking import asking
from relay.console.pages.callers import Administrator, Sent, Text, lines
from relay.console.pages.render import page
from relay.control.refusal import ControlError
from relay.mail.tolerance import SWITCHES

router = APIRouter(include_in_schema=False)

Asked = Annotated[str, Query(max_length=320)]


@router.get("/senders")
async def senders(request: Request, caller: Administrator, which: Asked = "") -> Response:
    """The routes, and the answer to "which account would send for …?"."""
    found: dict[str, Any] = {"which": which, "route": None, "refusal": None}
    if which.strip():
        try:
            found["route"] = await caller.call("sender.which", {"address": which})
        except ControlError as refusal:
            found["refusal"] = refusal
    known, accounts = await asyncio.gather(caller.call("sender.list"), caller.call("account.list"))
    return page(request, "senders.html", caller=caller, senders=known, accounts=accounts, **found)


@router.post("/senders")
async def add_sender(caller: Sent, pattern: Text, account: Text, from_policy: Text = "keep") -> Response:
    """Route a pattern to an account."""
    await caller.call("sender.add", {"pattern": pattern, "account": account, "from_policy": from_policy})
    return RedirectResponse("/senders", 303)


@router.post("/senders/remove")
async def remove_sender(request: Request, caller: Sent, pattern: Text, sure: Text = "") -> Response:
    """Forget a pattern."""
    if not sure:
        fields = {"pattern": pattern}
        return asking(request, caller, f"Forget the sender {pattern}?", fields, yes="Forget it", back="/senders")
    await caller.call("sender.remove", {"pattern": pattern})
    return RedirectResponse("/senders", 303)


@router.get("/clients")
async def clients(
    request: Request, caller: Administrator, address: Asked = "", sender: Asked = "", recipient: Asked = ""
) -> Response:
    """The applications, and what would happen to a mail of one of them."""
    tried = refusal = None
    if address.strip():
        try:
            tried = await caller.call("client.try", {"address": address, "sender": sender, "recipient": recipient})
        except ControlError as error:
            refusal = error
    return page(
        request,
        "clients.html",
        caller=caller,
        clients=await caller.call("client.list"),
        switches=SWITCHES,
        asked={"address": address, "sender": sender, "recipient": recipient},
        tried=tried,
        refusal=refusal,
    )


@router.post("/clients")
async def add_client(
    request: Request, caller: Sent, name: Text, networks: Text, senders: Text = "", answer: Text = "queued"
) -> Response:
    """Bind networks to senders."""
    form = await request.form()
    given: dict[str, Any] = {
        "name": name.strip(),
        "networks": lines(networks),
        "senders": lines(senders),
        "answer": answer,
    }
    given["tolerate"] = [str(switch) for switch in form.getlist("tolerate")]
    await caller.call("client.add", {key: value for key, value in given.items() if value})
    return RedirectResponse("/clients", 303)


@router.post("/clients/remove")
async def remove_client(request: Request, caller: Sent, name: Text, sure: Text = "") -> Response:
    """Forget an application."""
    if not sure:
        fields = {"name": name}
        return asking(request, caller, f"Forget the application {name}?", fields, yes="Forget it", back="/clients")
    await caller.call("client.remove", {"name": name})
    return RedirectResponse("/clients", 303)
