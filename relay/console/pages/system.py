"""The system: its log, settings and where they came from, keys, notices, audit trail, check."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.identity import Caller
from relay.console.pages.asking import asking
from relay.console.pages.callers import Administrator, Sent, Text
from relay.console.pages.jobs import Job, Jobs
from relay.console.pages.render import page, wants_fragment
from relay.console.pages.shared import sent, shared
from relay.diagnosis.catalogue import entry_by_id
from relay.diagnosis.conditions import CONDITIONS
from relay.mail.ids import parse_id

router = APIRouter(include_in_schema=False)

_SHOWN = 200
_AT_ONCE_S = 1.0
_CHECK_S = 0.05


@router.get("/log")
async def log(request: Request, caller: Administrator) -> Response:
    """The last lines, live."""
    kept = shared(request)
    lines = kept.fragment("log_lines.html", told=(await kept.now(caller, "log.tail")).answer)
    return sent(request, lines) if wants_fragment(request) else page(request, "log.html", caller=caller, lines=lines)


@router.get("/system")
async def system(request: Request, caller: Administrator) -> Response:
    """Settings, keys, nodes."""
    return await _system(request, caller)


@router.post("/system/rotate")
async def rotate(request: Request, caller: Sent, sure: Text = "") -> Response:
    """Seal every secret under the primary key, or a new one."""
    if not sure:
        question = "Seal every secret anew? Back up the keys folder afterwards."
        return asking(request, caller, question, {}, yes="Rotate", back="/system")
    jobs: Jobs = request.app.state.jobs
    job = jobs.start(caller, "key.rotate", {})
    if job.task is not None:
        await asyncio.wait((job.task,), timeout=_AT_ONCE_S)  # most are done by then
    if job.refusal is not None:
        raise job.refusal
    return RedirectResponse(f"/system/rotate/{job.id}", 303)


@router.get("/system/rotate/{job_id}")
async def rotating(request: Request, caller: Administrator, job_id: str) -> Response:
    """How far it has come; without scripts the page loads itself again."""
    jobs: Jobs = request.app.state.jobs
    job = jobs.of(caller, job_id)
    if wants_fragment(request) and job.done:
        return Response(headers={"hx-redirect": f"/system/rotate/{job.id}"})  # the counts of the keys, too
    if wants_fragment(request):
        return page(request, "rotation.html", caller=caller, job=job)
    return await _system(request, caller, job)


@router.post("/system/drop")
async def drop(request: Request, caller: Sent, key: Text, sure: Text = "") -> Response:
    """Forget a key that seals nothing any more."""
    if not sure:
        question = f"Drop the key {key}? An older backup cannot be opened without it."
        return asking(request, caller, question, {"key": key}, yes="Drop it", back="/system")
    await caller.call("key.drop", {"id": key})
    return RedirectResponse("/system", 303)


@router.get("/system/check")
async def check(request: Request, caller: Administrator, login: bool = False) -> Response:
    """Everything that can be looked at without sending mail; what takes longer than a page comes line by line."""
    jobs: Jobs = request.app.state.jobs
    job = jobs.joined(caller, "check", {"login": login})
    if job.task is not None:
        await asyncio.wait((job.task,), timeout=_CHECK_S)
    return await _checked(request, "check.html", caller, job, login=login)


@router.get("/system/check/{job_id}")
async def checking(request: Request, caller: Administrator, job_id: str, login: bool = False) -> Response:
    """How far it has come; without scripts the page loads itself again."""
    jobs: Jobs = request.app.state.jobs
    template = "check_lines.html" if wants_fragment(request) else "check.html"
    return await _checked(request, template, caller, jobs.of(caller, job_id), login=login)


async def _checked(request: Request, template: str, caller: Caller, job: Job, *, login: bool) -> Response:
    """Its lines up to now; once they are all here, with the accounts that they are about."""
    accounts = await caller.call("account.list") if job.done else []
    known = {account["address"] for account in accounts}
    lines = [{**line, "account": _account_in(line, known)} for line in job.steps]
    return page(request, template, caller=caller, job=job, lines=lines, login=login)


@router.get("/audit")
async def audit(request: Request, caller: Administrator, since: Annotated[str, Query(max_length=40)] = "") -> Response:
    """Who did what."""
    rows, refusal = await caller.listed("audit", {"limit": _SHOWN, **({"since": since} if since else {})})
    return page(
        request, "audit.html", caller=caller, rows=list(reversed(rows)), since=since, refusal=refusal, most=_SHOWN
    )


@router.get("/notices")
async def notices(
    request: Request, caller: Administrator, account: Annotated[str, Query(max_length=320)] = ""
) -> Response:
    """What was told to whom about trouble and returned mail."""
    wanted = {"limit": _SHOWN, **({"account": account} if account else {})}
    (rows, refusal), accounts = await asyncio.gather(caller.listed("notice.list", wanted), caller.call("account.list"))
    return page(
        request,
        "notices.html",
        caller=caller,
        rows=[{**row, **_subject(row["about"])} for row in rows],
        account=account,
        accounts=accounts,
        refusal=refusal,
    )


@router.get("/explain")
async def explain(
    request: Request, caller: Administrator, reply: Annotated[str, Query(max_length=4096)] = ""
) -> Response:
    """What a reply means, who must act, and how; and which replies nobody can explain yet."""
    found = await caller.call("explain", {"reply": reply}) if reply.strip() else None
    unknown, refusal = await caller.listed("explain.unknown")
    return page(
        request,
        "explain.html",
        caller=caller,
        reply=reply,
        found=found,
        unknown=unknown[:_SHOWN],
        refusal=refusal,
    )


def _account_in(line: Mapping[str, Any], known: set[str]) -> str:
    """The account that a line of the check is about, unless all is well with it."""
    words = line["text"].replace(":", " ").split() if line["status"] != "ok" and line["item"] == "account" else []
    return next((word for word in words if word in known), "")


def _subject(about: str) -> dict[str, str]:
    """What a notice is about, for people: a message (`of`), or a cause in words."""
    known = entry_by_id(about) or CONDITIONS.get(about)
    return {
        "of": about if parse_id(about) is not None and known is None else "",
        "cause": known.cause if known is not None else "",
    }


async def _system(request: Request, caller: Caller, job: Job | None = None) -> Response:
    settings, keys, nodes, health = await asyncio.gather(
        caller.call("settings.show"),
        caller.call("key.list"),
        caller.call("node.list"),
        shared(request).now(caller, "health"),
    )
    return page(
        request, "system.html", caller=caller, job=job, settings=settings, keys=keys, nodes=nodes, health=health.answer
    )
