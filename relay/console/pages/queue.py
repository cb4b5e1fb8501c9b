"""The queue: search, one message with its whole journey, what an operator does to many at once."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.pages.callers import Administrator, Sent, Text
from relay.console.pages.render import page
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

STATES = ("queued", "active", "deferred", "in_doubt", "held", "relayed", "returned", "bounced", "expired")
_ROWS = 100
_ACTIONS = frozenset({"retry", "hold", "release", "remove"})

Asked = Annotated[str, Query(max_length=320)]


@router.get("/queue")
async def queue(
    request: Request, caller: Administrator, account: Asked = "", state: Asked = "", find: Asked = ""
) -> Response:
    """What waits, or what became of mail; an id or a Message-ID leads to its message."""
    refusal = None
    rows: list[dict[str, Any]] = []
    try:
        if find.strip():
            found = await caller.call("trace", {"id": find.strip()})
            return RedirectResponse(f"/queue/{found[0]['id']}", 303)
        asked = {"account": account, "state": state}
        rows = await caller.call(
            "queue.list", {"limit": _ROWS, **{name: value for name, value in asked.items() if value}}
        )
    except ControlError as error:
        refusal = error
    return page(
        request,
        "queue.html",
        caller=caller,
        rows=rows,
        most=_ROWS,
        refusal=refusal,
        states=STATES,
        account=account,
        state=state,
        find=find,
        accounts=await caller.call("account.list"),
        summary=await caller.call("queue.summary"),
    )


@router.post("/queue")
async def act(request: Request, caller: Sent, action: Text) -> Response:
    """Do it to every message that is ticked."""
    if action not in _ACTIONS:
        raise ControlError("there is no such action", "use the buttons below the list", "invalid")
    ids = sorted({str(one) for one in (await request.form()).getlist("id")})
    if not ids:
        raise ControlError("no message is ticked", "tick those that are meant", "invalid")
    await caller.call(f"queue.{action}", {"ids": ids})
    return RedirectResponse(f"/queue/{ids[0]}" if len(ids) == 1 else "/queue", 303)


@router.get("/queue/{message_id}")
async def message(request: Request, caller: Administrator, message_id: str) -> Response:
    """One message, from the application to the provider's reply."""
    stories = await caller.call("trace", {"id": message_id})
    shown = await caller.call("queue.show", {"id": stories[0]["id"]})
    return page(request, "message.html", caller=caller, story=stories[0], deliveries=shown["deliveries"])
