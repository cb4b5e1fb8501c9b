"""Console users and whoever asks through them: values, and what each role and scope may do."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    proved_at: int = 0  # ms since 1970: when a person last showed that it is them; 0: a program, or never
    session: bytes = field(default=b"", repr=False)  # hash of the session's token

    @property
    def person(self) -> bool:
        """Signed in, not a program with a token."""
        return self.user_id is not None

    def facts(self) -> dict[str, Any]:
        """What the web process may know of it."""
        return {"name": self.name, "scopes": sorted(self.scopes), "owner": self.accounts is not None}


# What a token may be given; an administrator has all of them.
SCOPES: Final = ("read", "queue", "accounts", "admin")

_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": (
        *("account.list", "account.show", "account.logins", "sender.list", "sender.which", "client.list"),
        *("client.show", "client.try", "queue.list", "queue.show", "queue.count", "queue.summary", "trace", "explain"),
        *("node.list", "overview", "settings.show", "notice.list", "explain.unknown", "rejected.list"),
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
    {"me", "me.password", "me.totp_begin", "me.totp_finish", "me.totp_remove", "me.recovery_codes"}
    | {"me.passkey_begin", "me.passkey_finish", "me.passkey_rename", "me.passkey_remove"}
    | {"me.proof_begin", "me.prove", "me.oidc_begin"}
    | {"account.which_sign_in"}  # of those that they began themselves
)

# For a person alone: a token that could make tokens would have no end.
NOT_BY_TOKEN: Final = frozenset({"token.add", "token.remove"})

# Not with a session alone, which may be stolen: whoever is signed in shows again that it is them (access.proof).
_PROVED: Final = frozenset(
    {"me.password", "me.totp_begin", "me.totp_finish", "me.totp_remove", "me.recovery_codes"}
    | {"me.passkey_begin", "me.passkey_finish", "me.passkey_remove"}
    | {"user.add", "user.set", "user.remove", "user.invite", "token.add", "key.add", "key.rotate", "key.drop"}
    # Where mail goes, and who may send as whom: an account of its own takes over the sender of its address.
    | {"account.add", "account.remove", "sender.add", "sender.remove", "client.add", "client.set", "client.remove"}
    | {"queue.remove"}  # what it gives up is gone; held or suspended mail is not
)
# What of an account may be changed with a session alone: nothing of where its mail and its secrets go.
_HARMLESS: Final = frozenset(
    {"max_connections", "per_minute", "per_day", "in_doubt", "owner", "null_sender", "bounces", "sent_copy"}
)


def needs_proof(action: str, arguments: Mapping[str, Any]) -> bool:
    """Must a person have shown lately that it is them?"""
    if action == "account.set":
        back = arguments.get("defaults") or []
        given = {name for name, value in arguments.items() if value is not None} - {"account", "defaults"}
        return not (given | {str(name) for name in back} <= _HARMLESS)
    return action in _PROVED


# What an owner may do to an account of theirs, and which arguments they may give: a test mail goes to themselves only.
OWNED: Final[Mapping[str, frozenset[str]]] = {
    "account.show": frozenset({"account"}),
    "account.test": frozenset({"account", "password"}),
    "account.set_password": frozenset({"account", "password"}),
    "account.begin_sign_in": frozenset({"account", "redirect"}),
    "account.finish_sign_in": frozenset({"account", "answer"}),
}
