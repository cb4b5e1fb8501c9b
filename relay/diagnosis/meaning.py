"""From an outcome to its diagnosis. Deterministic, without any state but the catalogue."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from relay.diagnosis.catalogue import match
from relay.diagnosis.conditions import CONDITIONS, condition
from relay.diagnosis.model import Diagnosis
from relay.diagnosis.placement import fits, placed, placed_condition
from relay.mail.outcome import InDoubt, Refused, Stage, Unreachable
from relay.mail.reply import Reply

_FAMILIES = {  # preset ids, by their beginning: the catalogue's providers that may speak for them
    "m365": ("microsoft365", "microsoft365-hve", "outlook-consumer"),
    "outlook": ("microsoft365", "outlook-consumer"),
    "gmail": ("gmail", "gmail-relay"),
    "aol": ("yahoo",),
    "yahoo": ("yahoo",),
    "icloud": ("icloud",),
    "zoho": ("zoho",),
    "fastmail": ("fastmail",),
    "ses": ("ses",),
    "sendgrid": ("sendgrid",),
    "mailgun": ("mailgun",),
}
_ANYBODY = ("generic", "relay")
_REFUSALS = {Stage.CONNECT: "greeting-refused", Stage.TLS: "starttls-refused", Stage.AUTH: "auth-refused"}


def diagnose(outcome: Refused | Unreachable | InDoubt, *, provider: str = "") -> Diagnosis:
    """What `outcome` means. `provider`: the account's preset id; it changes words for people, nothing else.

    A refusal before MAIL never returns a message; a refused sign-in always concerns the account alone.
    """
    match outcome:
        case Refused(reply=reply, stage=stage, retry_after_s=wait_s):
            return _asked_to_wait(_with_speaker(refusal(reply, stage), provider), wait_s)
        case Unreachable(stage=stage, reason=reason, retry_after_s=wait_s):
            return _asked_to_wait(placed_condition(condition(reason), stage), wait_s)
        case InDoubt(reason=reason):
            return _in_doubt(reason)
        case _:
            assert_never(outcome)


def _asked_to_wait(diagnosis: Diagnosis, wait_s: int | None) -> Diagnosis:
    """The other side's own time in place of the usual one."""
    return diagnosis if wait_s is None or not diagnosis.retry else replace(diagnosis, pause_for_s=wait_s)


def refusal(reply: Reply, stage: Stage) -> Diagnosis:
    """What a 4yz or 5yz reply at `stage` means."""
    entry = match(str(reply), lambda entry: fits(entry, stage))
    if entry is None:
        return placed_condition(CONDITIONS[_REFUSALS.get(stage, "protocol-error")], stage)
    return placed(entry, stage, reply.code)


def _in_doubt(reason: str) -> Diagnosis:
    diagnosis = placed_condition(CONDITIONS["reply-lost"], Stage.DONE)
    how = {
        "stage-timeout": "The wait for it ran out.",
        "connection-lost": "The connection broke before it.",
        "protocol-error": "What came instead was no reply.",
    }.get(reason)
    return replace(diagnosis, cause=f"{diagnosis.cause} {how}") if how else diagnosis


def _with_speaker(diagnosis: Diagnosis, provider: str) -> Diagnosis:
    """Say so when the words are another provider's than the account's: a gateway in front of it may have spoken."""
    family = _FAMILIES.get(provider.partition("-")[0])
    if family is None or diagnosis.provider in _ANYBODY or diagnosis.provider in family:
        return diagnosis
    note = f"(These are words of {diagnosis.provider}: something between here and {provider} may have spoken.)"
    return replace(diagnosis, cause=f"{diagnosis.cause} {note}")
