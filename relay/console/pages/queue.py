"""The queue: search, one message with its whole journey, what an operator does to many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.identity import Caller
from relay.console.pages.asking import asking
from relay.console.pages.callers import Administrator, Sent, Text
from relay.console.pages.render import page
from relay.console.pages.shared import Fragment, sent, shared
from relay.control.refusal import ControlError
from relay.diagnosis.conditions import entry_of
from relay.mail.counted import counted
from relay.mail.ids import parse_id

router = APIRouter(include_in_schema=False)

OWED = ("queued", "active", "deferred", "in_doubt", "held")
SETTLED = ("relayed", "returned", "bounced", "expired")
FILTERS = ("account", "state", "sender", "recipient", "client", "older_than")
_ROWS = 100
_FOUND = 50
_FEW = 10
_VERBS = {"retry": "Try", "hold": "Hold", "release": "Release", "remove": "Give up"}

Asked = Annotated[str, Query(max_length=320)]
Place = Annotated[str, Query(max_length=40)]


@router.get("/queue")
async def queue(
    request: Request,
    caller: Administrator,
    account: Asked = "",
    state: Asked = "",
    sender: Asked = "",
    recipient: Asked = "",
    client: Asked = "",
    older_than: Asked = "",
    after: Place = "",
    did: Annotated[str, Query(max_length=10)] = "",
    count: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """What waits, or what became of mail, page by page."""
    asked = (account, state, sender, recipient, client, older_than)
    given = {name: value.strip() for name, value in zip(FILTERS, asked, strict=True) if value.strip()}
    wanted = {"limit": _ROWS + 1, **given, **({"after": after} if after else {})}
    (rows, refusal), accounts, waits = await asyncio.gather(
        caller.listed("queue.list", wanted), caller.call("account.list"), _waits(request, caller)
    )
    more = len(rows) > _ROWS
    rows = [{**row, "why": _cause(row["cause"])} for row in rows[:_ROWS]]
    return page(
        request,
        "queue.html",
        caller=caller,
        rows=rows,
        next=urlencode(given | {"after": rows[-1]["place"]}) if more else "",
        first=urlencode(given) if after else None,
        refusal=refusal,
        owed=OWED,
        settled=SETTLED,
        given={name: given.get(name, "") for name in FILTERS},
        filtered=bool(given),
        accounts=accounts,
        waits=waits,
        did=_VERBS.get(did, ""),
        count=count,
    )


@router.get("/queue/waits")
async def waits(request: Request, caller: Administrator) -> Response:
    """What waits for each account: the part that is asked for again every few seconds."""
    return sent(request, await _waits(request, caller))


@router.get("/find")
async def find(request: Request, caller: Administrator, q: Asked = "") -> Response:
    """Messages by id, Message-ID, recipient or sender, whatever became of them; one alone is shown at once."""
    wanted = q.strip()
    if not wanted:
        return RedirectResponse("/queue", 303)
    found, rejected = await asyncio.gather(
        _found(caller, wanted), caller.call("rejected.list", {"address": wanted, "limit": _FEW})
    )
    if len(found) == 1 and not rejected:
        return RedirectResponse(f"/queue/{found[0]['id']}", 303)
    others = [] if found or rejected else await caller.call("rejected.list", {"limit": _FEW})
    return page(
        request,
        "found.html",
        caller=caller,
        q=wanted,
        found=[{**story, "ends": _ends(story)} for story in reversed(found)],
        rejected=rejected,
        others=others,
        most=_FOUND,
        status=200 if found or rejected else 404,
    )


@router.get("/rejected")
async def rejected(request: Request, caller: Administrator, address: Asked = "") -> Response:
    """What the front door refused lately: mail that is nowhere else."""
    wanted = {"limit": _ROWS, **({"address": address.strip()} if address.strip() else {})}
    told, nodes = await asyncio.gather(caller.call("rejected.list", wanted), caller.call("node.list"))
    return page(
        request, "rejected.html", caller=caller, rejected=told, address=address.strip(), most=_ROWS, nodes=len(nodes)
    )


@router.post("/queue")
async def act(
    request: Request, caller: Sent, action: Text, everything: Text = "", filters: Text = "", sure: Text = ""
) -> Response:
    """Do it to the messages that are ticked, or to everything that fits the search; many are asked for first."""
    if action not in _VERBS:
        raise ControlError("there is no such action", "use the buttons below the list", "invalid")
    form = await request.form()
    given = {name: str(form.get(name, "")).strip() for name in FILTERS}
    chosen = {name: value for name, value in given.items() if value}
    if everything:
        if not chosen:
            raise ControlError("nothing was searched for", "search first, then act on all that fits", "invalid")
        meant: dict[str, Any] = {"filters": chosen}
    else:
        ids = sorted({str(one) for one in form.getlist("id")})
        if not ids:
            raise ControlError("no message is ticked", "tick those that are meant", "invalid")
        meant = {"ids": ids}
    if not sure and (everything or len(meant["ids"]) > 1 or action == "remove"):
        fields = {**given, "action": action, "everything": everything, "id": meant.get("ids", [])}
        question = await _question(caller, action, meant)
        return asking(
            request, caller, question, fields, yes=f"Yes, {_VERBS[action].lower()}", back=f"/queue?{urlencode(chosen)}"
        )
    done = await caller.call(f"queue.{action}", meant)
    if len(meant.get("ids", ())) == 1:
        return RedirectResponse(f"/queue/{meant['ids'][0]}", 303)
    return RedirectResponse(f"/queue?{urlencode(chosen | {'did': action, 'count': done['changed']})}", 303)


@router.get("/queue/{message_id}")
async def message(request: Request, caller: Administrator, message_id: str) -> Response:
    """One message, from the application to the provider's reply."""
    stories = await caller.call("trace", {"id": message_id})
    shown = await caller.call("queue.show", {"id": stories[0]["id"]})
    tried = {event["recipient"]: event for event in stories[0]["events"] if event["event"].startswith("attempt.")}
    deliveries = [{**one, "last": tried.get(one["recipient"])} for one in shown["deliveries"]]
    return page(request, "message.html", caller=caller, story=stories[0], deliveries=deliveries)


async def _waits(request: Request, caller: Caller) -> Fragment:
    kept = shared(request)
    seen, since = await kept.now(caller, "overview")
    return kept.fragment("queue_waits.html", seen=seen, since=since)


async def _found(caller: Caller, wanted: str) -> list[dict[str, Any]]:
    """The stories, oldest first: of that id or Message-ID, or of that recipient or sender; the likelier first."""
    named = parse_id(wanted) is not None or wanted.startswith("<")
    if named and (by_id := await _stories(caller, id=wanted)):
        return by_id
    theirs = await asyncio.gather(_stories(caller, recipient=wanted), _stories(caller, sender=wanted))
    found = {story["id"]: story for stories in theirs for story in stories}
    if not found and not named:  # a Message-ID without its brackets looks like an address
        return await _stories(caller, id=wanted)
    return sorted(found.values(), key=lambda story: str(story["accepted_at"]))[-_FOUND:]


async def _stories(caller: Caller, **wanted: str) -> list[dict[str, Any]]:
    try:
        stories: list[dict[str, Any]] = await caller.call("trace", {**wanted, "limit": _FOUND})
    except ControlError as refusal:
        if refusal.kind in ("unauthenticated", "unavailable", "forbidden"):
            raise
        return []
    return stories


async def _question(caller: Caller, action: str, meant: Mapping[str, Any]) -> str:
    if "ids" in meant:
        what = counted(len(meant["ids"]), "message")
    else:
        seen = await caller.call("queue.count", {"action": action, **meant})
        if not seen["deliveries"]:
            raise ControlError("nothing fits any more", "search again", "conflict")
        what = f"{counted(seen['deliveries'], 'delivery')} of {counted(seen['messages'], 'message')}"
    warning = " They are not sent, and nobody is told." if action == "remove" else ""
    return f"{_VERBS[action]} {what}{' now' if action == 'retry' else ''}?{warning}"


def _ends(story: Mapping[str, Any]) -> dict[str, Any]:
    """What became of it: the states of its recipients, and why if it is not relayed."""
    states: dict[str, str] = {}
    cause = ""
    for event in story["events"]:
        name = event["event"]
        if name in SETTLED or name == "waiting":
            states[event["recipient"]] = event["state"] if name == "waiting" else name
        elif name.startswith("attempt.") and event["cause"]:
            cause = event["cause"]
    kinds = sorted(set(states.values()))
    return {"states": kinds, "cause": "" if kinds == ["relayed"] else cause}


def _cause(cause: str) -> str:
    return entry_of(cause).cause if cause else ""
