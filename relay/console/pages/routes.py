"""Every page by its address, and what a refusal looks like to a person."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.identity import Caller, forget_session, signed_in
from relay.console.pages import accounts, entrance, mine, overview, people, profile, proof, queue, register, system
from relay.console.pages.render import page, wants_fragment
from relay.console.problems import STATUS, with_retry_after
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)
for part in (entrance, proof, mine, overview, accounts, register, queue, people, profile, system):
    router.include_router(part.router)


async def refused(request: Request, error: ControlError, *, status: int | None = None) -> Response:
    """Why not, and what to do; whose session has ended signs in again."""
    code = status or STATUS[error.kind]
    if error.kind == "unauthenticated" and not request.url.path.startswith("/invite/"):
        answer: Response = Response(status_code=401, headers={"hx-redirect": "/login"})
        if not wants_fragment(request):
            answer = RedirectResponse("/login", 303)
        forget_session(request, answer)
        return answer
    if error.kind == "proof" and request.method == "POST" and not wants_fragment(request):
        return with_retry_after(await proof.asked(request, error), error)
    shown = page(request, "refused.html", caller=await _known(request), status=code, error=error, code=code)
    return with_retry_after(shown, error)


async def _known(request: Request) -> Caller | None:
    """Who is signed in, if anybody is and the daemon answers."""
    try:
        return await signed_in(request)
    except ControlError:
        return None
