"""The mailbox owner's page: store a login, press Test, watch each step; or sign in at the provider."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from relay.accounts.presets import PRESETS
from relay.console.identity import base_of
from relay.console.pages.callers import Sent, SignedIn
from relay.console.pages.jobs import Job, Jobs
from relay.console.pages.render import page, wants_fragment
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

Secret = Annotated[str, Form(max_length=65_536)]
_WITHOUT_SCRIPTS_S = 120.0  # a page without scripts waits for the whole test


@router.get("/me")
async def mine(request: Request, caller: SignedIn) -> Response:
    """Their mailboxes; with one, that one at once."""
    me = await caller.call("me")
    if len(me["accounts"]) == 1:
        return RedirectResponse(f"/mail/{me['accounts'][0]}", 303)
    return page(request, "mine.html", caller=caller, accounts=me["mailboxes"])


@router.get("/mail/{account}")
async def mail(request: Request, caller: SignedIn, account: str, did: Annotated[str, Query()] = "") -> Response:
    """One mailbox: how it signs in, and the button Test."""
    return await _mail(request, caller, account, did=did)


@router.post("/mail/{account}/save")
async def save(request: Request, caller: Sent, account: str, password: Secret = "") -> Response:
    """Store the password."""
    if not password:
        refusal = ControlError("no password was typed", "type the mailbox's password or app password", "invalid")
        return await _mail(request, caller, account, refusal=refusal)
    try:
        await caller.call("account.set_password", {"account": account, "password": password})
    except ControlError as error:
        return await _mail(request, caller, account, refusal=error)
    jobs: Jobs = request.app.state.jobs
    did = "working" if jobs.worked(caller, account, password) else "saved"
    return RedirectResponse(f"/mail/{account}?did={did}", 303)


@router.post("/mail/{account}/test")
async def try_it(request: Request, caller: Sent, account: str, password: Secret = "") -> Response:
    """Send a real mail; a blank password is the stored one. With scripts the steps appear one by one."""
    jobs: Jobs = request.app.state.jobs
    arguments = {"account": account, **({"password": password} if password else {})}
    job = jobs.start(caller, "account.test", arguments)
    if wants_fragment(request):
        return page(request, "test.html", caller=caller, job=job, account=account)
    if job.task is not None:
        await asyncio.wait((job.task,), timeout=_WITHOUT_SCRIPTS_S)
    return await _mail(request, caller, account, job=job)


@router.get("/mail/{account}/test/{job_id}")
async def watch(request: Request, caller: SignedIn, account: str, job_id: str) -> Response:
    """How far a test has come."""
    jobs: Jobs = request.app.state.jobs
    return page(request, "test.html", caller=caller, job=jobs.of(caller, job_id), account=account)


@router.post("/mail/{account}/sign-in")
async def sign_in(request: Request, caller: Sent, account: str) -> Response:
    """Off to the provider."""
    redirect = f"{base_of(request)}/oauth/callback"
    try:
        begun = await caller.call("account.begin_sign_in", {"account": account, "redirect": redirect})
    except ControlError as error:
        return await _mail(request, caller, account, refusal=error)
    return page(request, "off.html", caller=caller, url=begun["url"], account=account)


@router.get("/oauth/callback")
async def callback(request: Request) -> Response:
    """Back from the provider. The session cookie is for requests from our own pages alone: this page makes one."""
    target = f"/oauth/finish?{request.url.query[:8192]}"
    answer: HTMLResponse = page(request, "back.html", target=target)
    answer.headers["referrer-policy"] = "no-referrer"
    return answer


@router.get("/oauth/finish")
async def finish(request: Request, caller: SignedIn) -> Response:
    """Exchange what the provider gave; the account works, or the page says why not."""
    answer = f"{base_of(request)}/oauth/callback?{request.url.query}"
    account = await caller.call("account.which_sign_in", {"answer": answer})
    try:
        await caller.call("account.finish_sign_in", {"account": account["account"], "answer": answer})
    except ControlError as error:
        return await _mail(request, caller, account["account"], refusal=error)
    return RedirectResponse(f"/mail/{account['account']}?did=connected", 303)


async def _mail(
    request: Request,
    caller: Any,
    account: str,
    *,
    did: str = "",
    refusal: ControlError | None = None,
    job: Job | None = None,
) -> Response:
    facts = await caller.call("account.show", {"account": account})
    preset = PRESETS.get(facts["provider"], PRESETS["custom"])
    return page(
        request, "mail.html", caller=caller, account=facts, preset=preset, did=did, refusal=refusal, job=job, status=200
    )
