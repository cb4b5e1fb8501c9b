"""What to do about a refusal, as steps for one account: its address and the commands filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from relay.accounts.model import Account

_OTHER_LOGINS = re.compile(r"\bOAuth|\bApp only\b|\bService account\b|\btoken scope\b|-RoleAssignment\b", re.IGNORECASE)
_RESUME = re.compile(r"\bpress Test and resume\b", re.IGNORECASE)


def steps_for(cls: str, remedy: Sequence[str], account: Account | None) -> list[str]:
    """The catalogue's `remedy` for `account`; None: as it is.

    A refused login of an account with a password is most often a wrong password: that comes first, and steps that
    concern other ways to log in are left out.
    """
    if account is None:
        return list(remedy)
    steps = list(remedy)
    if cls == "permanent-auth" and account.auth == "password":
        steps = [step for step in steps if not _OTHER_LOGINS.search(step)]
        steps.insert(0, f"Store the right password: relay account set-password {account.address}")
    return [_with_commands(step, account.address) for step in steps]


def _with_commands(step: str, address: str) -> str:
    step = step.replace("<account>", address).replace("<address>", address)
    if not _RESUME.search(step):
        return step
    return f"{step} (relay account test {address}, relay account resume {address})"
