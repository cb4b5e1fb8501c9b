"""Asks before something cannot be undone: a page with the question, which works without scripts, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import Request
from fastapi.responses import Response

from relay.console.identity import Caller
from relay.console.pages.render import page


def asking(
    request: Request, caller: Caller, question: str, fields: Mapping[str, str | Sequence[str]], *, yes: str, back: str
) -> Response:
    """The same form again, with `sure`. `yes` is on the button; `back` is where a no leads."""
    sent = [(name, one) for name, value in fields.items() for one in ([value] if isinstance(value, str) else value)]
    return page(request, "asking.html", caller=caller, question=question, sent=sent, yes=yes, back=back)
