"""What to do about a refusal, as steps for one account: its address and the commands filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from relay.accounts.model import Account, Auth

BY_ITSELF = "Automatic"  # begins a step that the relay takes, not a person
_OTHER_LOGINS = re.compile(r"\bOAuth|\bApp only\b|\bService account\b|\btoken scope\b|-RoleAssignment\b", re.IGNORECASE)
_RESUME = re.compile(r"\bpress Test and resume\b", re.IGNORECASE)


def steps_for(cls: str, remedy: Sequence[str], account: Account | None) -> list[str]:
    """The catalogue's `remedy` for `account`; None: as it is.

    A refused login of an account with a password is most often a wrong password: that comes first, and steps that
    concern other ways to log in are left out.
    """
    return list(remedy) if account is None else _steps(cls, remedy, account.address, account.auth)


def first_step(cls: str, remedy: Sequence[str], address: str, auth: Auth) -> dict[str, str]:
    """The key `to_do` of a log line: the first step a person has to take; empty when the relay does all by itself."""
    steps = (step for step in _steps(cls, remedy, address, auth) if not step.startswith(BY_ITSELF))
    return next(({"to_do": step} for step in steps), {})


def _steps(cls: str, remedy: Sequence[str], address: str, auth: Auth) -> list[str]:
    steps = list(remedy)
    if cls == "permanent-auth" and auth == "password":
        steps = [step for step in steps if not _OTHER_LOGINS.search(step)]
        steps.insert(0, f"Store the right password: relay account set-password {address}")
    return [_with_commands(step, address) for step in steps]


def _with_commands(step: str, address: str) -> str:
    step = step.replace("<account>", address).replace("<address>", address)
    if not _RESUME.search(step):
        return step
    return f"{step} (relay account test {address}, relay account resume {address})"
