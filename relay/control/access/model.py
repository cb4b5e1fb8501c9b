"""Console users and whoever asks through them: values, and what each role and scope may do."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


class Role(enum.StrEnum):
    """An administrator sees and changes everything; an owner sees the mailboxes granted to them, nothing else."""

    ADMINISTRATOR = "administrator"
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class User:
    """One person who may sign in. `totp`: a second factor is asked for."""

    id: int
    name: str
    role: Role
    has_password: bool
    subject: str | None
    totp: bool
    disabled: bool
    created_at: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a signed-in person, or a program with a token. `accounts`: what an owner may touch, None: all."""

    name: str
    scopes: frozenset[str]
    accounts: frozenset[int] | None = None
    user_id: int | None = None
    csrf: str = ""

    def facts(self) -> dict[str, Any]:
        """What the web process may know of it."""
        return {"name": self.name, "scopes": sorted(self.scopes), "owner": self.accounts is not None}


# What a token may be given; an administrator has all of them.
SCOPES: Final = ("read", "queue", "accounts", "admin")

_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": (
        *("account.list", "account.show", "account.logins", "sender.list", "sender.which", "client.list"),
        *("client.show", "client.try", "queue.list", "queue.show", "queue.count", "queue.summary", "trace", "explain"),
        *("node.list", "overview", "settings.show", "notice.list", "explain.unknown"),
    ),
    "queue": ("queue.hold", "queue.release", "queue.retry", "queue.remove"),
    "accounts": (
        *("account.add", "account.set", "account.set_password", "account.suspend", "account.resume"),
        *("account.remove", "account.test", "account.begin_sign_in", "account.finish_sign_in"),
        *("sender.add", "sender.remove", "client.add", "client.set", "client.remove"),
    ),
    "admin": (
        *("audit", "check", "key.list", "key.add", "key.rotate", "key.drop", "log.tail"),
        *("user.list", "user.add", "user.set", "user.remove", "user.invite", "token.list", "token.add", "token.remove"),
    ),
}
SCOPE_OF: Final[Mapping[str, str]] = {action: scope for scope, actions in _NEEDS.items() for action in actions}

# What every signed-in person may do about themselves.
PERSONAL: Final = frozenset(
    {"me", "me.password", "me.totp_begin", "me.totp_finish", "me.totp_remove"}
    | {"account.which_sign_in"}  # of those that they began themselves
)

# What an owner may do to an account of theirs, and which arguments they may give: a test mail goes to themselves only.
OWNED: Final[Mapping[str, frozenset[str]]] = {
    "account.show": frozenset({"account"}),
    "account.test": frozenset({"account", "password"}),
    "account.set_password": frozenset({"account", "password"}),
    "account.begin_sign_in": frozenset({"account", "redirect"}),
    "account.finish_sign_in": frozenset({"account", "answer"}),
}
