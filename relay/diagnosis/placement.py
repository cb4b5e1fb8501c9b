"""How far an entry reaches at the stage where it was met: scope, retry, pause, waiting time. Pure."""

from __future__ import annotations

from relay.diagnosis.catalogue import FALLBACKS
from relay.diagnosis.conditions import condition_scope
from relay.diagnosis.model import Diagnosis, Entry, Scope
from relay.diagnosis.responsibility import who_must_act
from relay.mail.outcome import Stage

BEFORE_MAIL = frozenset({Stage.CONNECT, Stage.TLS, Stage.AUTH})  # nothing was said about any message yet

# Throttles that protect one recipient: others may be written to meanwhile.
_PER_RECIPIENT = frozenset(
    {"m365-recipient-thread-limit", "m365-recipient-hourly-limit", "gmail-recipient-rate", "generic-greylisted"}
)
# First waits that differ from their class's.
_WAITS_S = {
    "gmail-too-many-logins": 900,
    "gmail-relay-peak": 600,
    "generic-greylisted": 300,
    "m365-recipient-hourly-limit": 3600,
}
_THROTTLED_S = 60
_QUOTA_S = 3600
_AUTH_AGAIN_S = 1200  # three sign-ins an hour at most once one was refused: providers lock accounts


def fits(entry: Entry, stage: Stage) -> bool:
    """Can `entry` be what a reply at `stage` means? The search goes on with the next entry if not."""
    if stage not in BEFORE_MAIL:
        # One recipient's domain without mail is no fault of the account's host.
        return not (entry.id == "generic-host-no-mail" and stage is not Stage.MAIL)
    if stage is Stage.AUTH and entry.cls in ("sender-not-allowed", "content-size") and not entry.pause:
        return False
    return entry.cls != "recipient" and (entry.retry or entry.pause)


def placed(entry: Entry, stage: Stage, code: int) -> Diagnosis:
    """The diagnosis of a reply with this `code` at `stage`, for an entry that fits there."""
    retry, pause = entry.retry, entry.pause
    if code < 500 and entry.code.startswith("5"):
        retry = True  # RFC 5321 4.2.1: 4yz may pass, unless the catalogue knows this very 4yz for a lasting one
    wait_s = _wait_s(entry)
    scope = _scope(entry, stage, code)
    if stage in BEFORE_MAIL:
        pause = True
        if stage is Stage.AUTH and code >= 500 and retry:
            retry = entry.stage == "auth" or entry.cls in ("quota", "throttled")
            wait_s = max(wait_s or 0, _AUTH_AGAIN_S) if retry else None
    elif entry.cls == "throttled":
        pause = scope == "account"
    return _diagnosis(entry, scope, retry=retry, pause=pause, wait_s=wait_s if retry else None)


def placed_condition(entry: Entry, stage: Stage) -> Diagnosis:
    """The diagnosis of a condition met at `stage`."""
    scope = condition_scope(entry)
    pause = entry.pause
    if entry.retry and scope in ("upstream", "account"):
        # Before MAIL no message can be at fault; afterwards one may be what breaks the dialogue, so it waits alone.
        pause = stage in BEFORE_MAIL
    return _diagnosis(entry, scope, retry=entry.retry, pause=pause, wait_s=None)


def _scope(entry: Entry, stage: Stage, code: int) -> Scope:
    if stage in (Stage.CONNECT, Stage.TLS):
        return "upstream"
    if stage is Stage.AUTH:
        return "account"
    alone: Scope = "recipient" if stage is Stage.RCPT else "message"
    if entry.pause:
        return "upstream" if entry.cls == "tls-network" else "account"
    if entry.cls == "throttled":
        vague = entry.provider == "generic" and stage is Stage.RCPT  # "quota" there may be the recipient's
        return alone if vague or entry.id in _PER_RECIPIENT else "account"
    if code == 421 and entry.retry:  # RFC 5321 3.8: the server closes the connection, whatever it was asked
        return "upstream"
    if entry.cls == "transient" and alone == "message" and entry.id not in FALLBACKS:
        return "upstream"
    return alone


def _wait_s(entry: Entry) -> int | None:
    if entry.id in _WAITS_S:
        return _WAITS_S[entry.id]
    match entry.cls:
        case "quota":
            return _QUOTA_S
        case "throttled":
            return None if entry.id in _PER_RECIPIENT else _THROTTLED_S
        case _:
            return None


def _diagnosis(entry: Entry, scope: Scope, *, retry: bool, pause: bool, wait_s: int | None) -> Diagnosis:
    return Diagnosis(
        id=entry.id,
        provider=entry.provider,
        cls=entry.cls,
        scope=scope,
        retry=retry,
        pause=pause,
        pause_for_s=wait_s,
        cause=entry.cause,
        remedy=entry.remedy,
        who=who_must_act(entry),
    )
