"""Who may see which page, and that a form was made for the session it comes with."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Form

from relay.console.identity import Caller, require_csrf, signed_in
from relay.control.refusal import ControlError

SignedIn = Annotated[Caller, Depends(signed_in)]
Text = Annotated[str, Form(max_length=16_384)]


async def _administrator(caller: SignedIn) -> Caller:
    if caller.owner:
        raise ControlError("this page is for administrators", "your own mailboxes are under My mail login", "forbidden")
    return caller


async def _sent(caller: SignedIn, csrf: Text) -> Caller:
    require_csrf(caller, csrf)
    return caller


Administrator = Annotated[Caller, Depends(_administrator)]
Sent = Annotated[Caller, Depends(_sent)]  # of a form; what they may do is for the daemon to say


def lines(text: str) -> list[str]:
    """The entries of a field that takes several, by line, comma or space."""
    return text.replace(",", " ").split()
