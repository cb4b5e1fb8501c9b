"""What people are told about trouble with accounts: the owner in plain words, the administrator all of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.accounts.advice import steps_for
from relay.accounts.conditions import Condition, ConditionKind
from relay.accounts.model import Account
from relay.aftercare.wording import indented, line, moment, numbered, rendered, span
from relay.diagnosis.catalogue import entry_by_id
from relay.diagnosis.conditions import CONDITIONS
from relay.diagnosis.model import Entry, Who
from relay.mail.counted import counted

MOST_LISTED = 20  # accounts in one notice; the others are counted
_AADSTS = re.compile(r"\bAADSTS\d{3,9}\b")
_STATE = {
    ConditionKind.SUSPENDED: "Suspended",
    ConditionKind.RESTING: "Held up",
    ConditionKind.EXPIRING: "Ends soon",
    ConditionKind.MOVED: "Moved",
    ConditionKind.MAILBOX: "Mailbox closed",
}
_ACTORS = {
    Who.OWNER: "the owner of the mailbox",
    Who.ADMINISTRATOR: "the administrator of the mail organisation or of this relay",
    Who.PROVIDER: "nobody: the relay tries again by itself",
    Who.AUTHOR: "the author of the messages",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What one notice is about: conditions of one kind, cause and group, and the accounts that have them.

    `accounts` by id; a condition of none concerns the relay as a whole.  `waiting`: owed deliveries by account id.
    """

    kind: ConditionKind
    cause: str
    who: Who
    conditions: tuple[Condition, ...]
    accounts: Mapping[int, Account]
    waiting: Mapping[int, int]
    repeated: bool = False

    def of(self, account_ids: Sequence[int]) -> Trouble:
        """The part of it that concerns these accounts."""
        part = tuple(one for one in self.conditions if one.account_id in account_ids)
        return Trouble(self.kind, self.cause, self.who, part, self.accounts, self.waiting, self.repeated)

    @property
    def concerned(self) -> list[Account]:
        """Its accounts, in the order in which they met it."""
        found = (self.accounts.get(one.account_id) for one in self.conditions if one.account_id is not None)
        return [account for account in found if account is not None]

    @property
    def since(self) -> int:
        """When it began, ms since 1970."""
        return min(condition.opened_at for condition in self.conditions)

    @property
    def owed(self) -> int:
        """Deliveries that wait for its accounts."""
        return sum(self.waiting.get(account.id, 0) for account in self.concerned)


def to_owner(trouble: Trouble, *, relay: str, repeat_s: float, administrators: Sequence[str]) -> tuple[str, str]:
    """Subject and text for the owner of all its accounts."""
    entry = _entry(trouble)
    return rendered(
        f"owner-{trouble.kind.value}",
        relay=relay,
        account=_names(trouble),
        since=moment(trouble.since),
        waiting=_waits(trouble.owed),
        cause=line(entry.cause),
        detail=line(trouble.conditions[0].detail),
        steps=numbered(_steps(trouble, entry)),
        who=_turn(trouble.who, administrators),
        repeat=_often(repeat_s),
    )


def to_administrator(trouble: Trouble, *, relay: str, repeat_s: float) -> tuple[str, str]:
    """Subject and text with everything that is known."""
    entry = _entry(trouble)
    return rendered(
        "administrator",
        headline=headline(trouble),
        relay=relay,
        cause_id=_cause_id(trouble),
        actor=_ACTORS[trouble.who],
        since=moment(trouble.since),
        count=f"{len(trouble.concerned)}, {counted(trouble.owed, 'delivery')} {_wait(trouble.owed)}",
        accounts=indented(_account_lines(trouble)),
        cause=line(entry.cause),
        reply=indented(_replies(trouble)),
        steps=numbered(_steps(trouble, entry)),
        commands=indented(_commands(trouble)),
        repeat=_again(trouble.kind, repeat_s),
    )


def to_chat(trouble: Trouble) -> tuple[str, str]:
    """Title and text for a chat or a pager."""
    entry = _entry(trouble)
    accounts = "\n".join(each.strip() for each in _account_lines(trouble))
    return rendered(
        "chat",
        headline=headline(trouble),
        accounts=accounts,
        cause=line(entry.cause),
        reply="\n".join(_replies(trouble)[:1]),
        steps=numbered(_steps(trouble, entry)),
    )


def over(trouble: Trouble, *, relay: str) -> tuple[str, str]:
    """Subject and text for everybody who heard of the trouble: it is over."""
    name = "Renewed" if trouble.kind is ConditionKind.EXPIRING else "Works again"
    closed = max(condition.closed_at or 0 for condition in trouble.conditions)
    goes = f"{_wait(trouble.owed)} and {'goes' if trouble.owed == 1 else 'go'}"
    left = f"{counted(trouble.owed, 'delivery')} still {goes} out now." if trouble.owed else "Nothing waits any more."
    if trouble.kind is ConditionKind.MAILBOX:
        left = "Mail went out all the while."
    return rendered(
        "over",
        headline=f"{name}: {_names(trouble) or 'the relay'}",
        relay=relay,
        cause_id=_cause_id(trouble),
        since=moment(trouble.since),
        until=moment(closed),
        accounts=indented(account.address for account in trouble.concerned[:MOST_LISTED]),
        waiting=left,
    )


def headline(trouble: Trouble) -> str:
    """One line that says what happened to whom."""
    still = "Still " if trouble.repeated else ""
    state = _STATE[trouble.kind]
    names = _names(trouble) or "the relay as a whole"
    return f"{still}{state.lower() if still else state}: {names} ({trouble.cause})"


def _entry(trouble: Trouble) -> Entry:
    return entry_by_id(trouble.cause) or CONDITIONS.get(trouble.cause) or CONDITIONS["not-recognised"]


def _steps(trouble: Trouble, entry: Entry) -> list[str]:
    return steps_for(entry.cls, entry.remedy, trouble.concerned[0] if trouble.concerned else None)


def _names(trouble: Trouble) -> str:
    names = [line(account.address) for account in trouble.concerned]
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} other accounts"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def _account_lines(trouble: Trouble) -> list[str]:
    lines = [
        f"{account.address}, {trouble.waiting.get(account.id, 0)} waiting, logs in by {account.auth}"
        for account in trouble.concerned[:MOST_LISTED]
    ]
    more = len(trouble.concerned) - len(lines)
    return [*lines, f"and {more} more: relay account list"] if more > 0 else lines


def _replies(trouble: Trouble) -> list[str]:
    """What was said, each once, at most three."""
    return list(dict.fromkeys(line(condition.detail) for condition in trouble.conditions if condition.detail))[:3]


def _cause_id(trouble: Trouble) -> str:
    numbers = {number for condition in trouble.conditions for number in _AADSTS.findall(condition.detail)}
    return f"{trouble.cause} ({', '.join(sorted(numbers)[:3])})" if numbers else trouble.cause


def _commands(trouble: Trouble) -> list[str]:
    commands: list[str] = []
    for account in trouble.concerned[:MOST_LISTED]:
        if account.auth == "password":
            commands.append(f"relay account set-password {account.address}")
        elif account.auth in ("oauth-code", "oauth-device"):
            commands.append(f"relay account connect {account.address}")
        what = " --imap" if trouble.kind is ConditionKind.MAILBOX else ""
        commands.append(f"relay account test {account.address}{what}")
    first = trouble.concerned[0].address if trouble.concerned else ""
    commands += [f"relay account show {first}", f"relay queue list --account {first}"] if first else []
    return [*commands, f"relay explain {trouble.cause}"]


def _waits(owed: int) -> str:
    if not owed:
        return "No mail waits at the moment."
    return "One mail waits." if owed == 1 else f"{owed} mails wait."


def _turn(who: Who, administrators: Sequence[str]) -> str:
    told = f" They were told as well ({', '.join(administrators[:3])})." if administrators else ""
    match who:
        case Who.OWNER:
            return (
                "If you do not run the relay yourself, pass this on to whoever does: commands above are for them."
                + told
            )
        case Who.ADMINISTRATOR:
            return "This is for the administrator of your mail organisation or of the relay to do." + told
        case _:
            return "Most often nobody has to do anything."


def _again(kind: ConditionKind, repeat_s: float) -> str:
    match kind:
        case ConditionKind.MOVED:
            return "This notice comes once."
        case ConditionKind.EXPIRING:
            return "This notice comes 30, 7 and 1 days before, with one more when it was renewed."
        case _:
            return f"This notice comes {_often(repeat_s)} while it lasts, with one more when it is over."


def _often(repeat_s: float) -> str:
    return "once a day" if repeat_s == 86_400 else f"every {span(repeat_s)}"


def _wait(count: int) -> str:
    return "waits" if count == 1 else "wait"
