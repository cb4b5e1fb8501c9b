"""What a reply of an upstream means, who must act, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relay.accounts.model import Account
from relay.control.advice import steps_for
from relay.diagnosis import explain as diagnosis_of
from relay.diagnosis.model import Diagnosis

if TYPE_CHECKING:
    from relay.control.context import Control

_WHO = {
    "permanent-auth": "the mailbox owner",
    "tenant-config": "the administrator of the mail organisation",
    "throttled": "nobody: the relay waits and tries again",
    "sender-not-allowed": "the administrator of the mail organisation",
    "recipient": "the author of the message",
    "content-size": "the author of the message",
    "tls-network": "the administrator of this machine's network and settings",
    "quota": "the mailbox owner",
    "transient": "nobody: the relay tries again",
    "protocol": "the administrator of this relay",
}


async def explain(control: Control, *, reply: str) -> dict[str, Any]:
    """The meaning of a reply as it was seen in a log or a bounce."""
    return explained(reply)


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
        "who": _WHO.get(diagnosis.cls, "the administrator of this relay"),
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
