"""What a reply of an upstream means, who must act, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relay.accounts.advice import steps_for
from relay.accounts.model import Account
from relay.control.refusal import ControlError
from relay.diagnosis import Who
from relay.diagnosis import explain as diagnosis_of
from relay.diagnosis.model import Diagnosis

if TYPE_CHECKING:
    from relay.control.context import Control

WHO = {
    Who.OWNER: "the mailbox owner",
    Who.ADMINISTRATOR: "the administrator",
    Who.PROVIDER: "nobody: the relay waits and tries again",
    Who.AUTHOR: "the author of the message",
}
# An administrator of what?
_OF = {
    "tenant-config": "the administrator of the mail organisation",
    "sender-not-allowed": "the administrator of the mail organisation",
    "tls-network": "the administrator of this machine's network and settings",
    "protocol": "the administrator of this relay",
}


async def explain(control: Control, *, reply: str) -> dict[str, Any]:
    """The meaning of a reply as it was seen in a log or a bounce."""
    if not reply.strip():
        raise ControlError("reply is empty", "give it as a log or a bounce shows it, like 550 5.1.1 …", "invalid")
    return explained(reply)


def in_words(who: Who, cls: str) -> str:
    """Who must act on a cause of class `cls`, for people."""
    return _OF.get(cls, WHO[who]) if who is Who.ADMINISTRATOR else WHO[who]


def explained(reply: str) -> dict[str, Any]:
    """The same without a store: the catalogue is part of the program."""
    return facts_of(diagnosis_of(reply))


def facts_of(diagnosis: Diagnosis, account: Account | None = None) -> dict[str, Any]:
    """A diagnosis for people and programs; with `account`, the steps are those for it."""
    return {
        "id": diagnosis.id,
        "provider": diagnosis.provider,
        "class": diagnosis.cls,
        "scope": diagnosis.scope,
        "who": in_words(diagnosis.who, diagnosis.cls),
        "who_id": diagnosis.who.value,
        "what_happens": _consequence(diagnosis),
        "cause": diagnosis.cause,
        "remedy": steps_for(diagnosis.cls, diagnosis.remedy, account),
    }


def _consequence(diagnosis: Diagnosis) -> str:
    match diagnosis.retry, diagnosis.pause:
        case True, True:
            return "the account rests, then its mail is tried again"
        case True, False:
            return "the message is tried again"
        case False, True:
            return "the account is suspended until somebody acts; its mail waits"
        case _:
            return "the message is returned"
