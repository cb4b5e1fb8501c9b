"""The tables of users, sessions, invitations and tokens: rows in and out, inside the caller's transaction."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from relay.control.access.model import Principal, Role, User
from relay.database.schema import (
    accounts,
    api_answers,
    api_tokens,
    console_grants,
    console_invitations,
    console_passkeys,
    console_recovery_codes,
    console_sessions,
)
from relay.database.schema import console_users as users

_SEEN_EVERY_MS = 60_000  # a session in use is written once a minute, not at each page

SESSION_BYTES = 32
_OF_SESSION = ("csrf", "seen_at", "proved_at", "token_hash")


def new_token(prefix: str = "") -> str:
    """256 random bits, base64url. Only its hash is kept."""
    return prefix + secrets.token_urlsafe(SESSION_BYTES)


def hashed(token: str) -> bytes:
    """What is stored of a token: it has full entropy, so a plain SHA-256 is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


# -- users ---------------------------------------------------------------------------------------------------------


def find_user(connection: Connection, *, name: str | None = None, subject: str | None = None) -> Row[Any] | None:
    """The row of a user by name or OIDC subject."""
    condition = users.c.name == name if name is not None else users.c.subject == subject
    return connection.execute(select(users).where(condition)).one_or_none()


def user_by_id(connection: Connection, user_id: int) -> Row[Any] | None:
    """The row of a user."""
    return connection.execute(select(users).where(users.c.id == user_id)).one_or_none()


def user_of(row: Row[Any]) -> User:
    """What others may know of a user."""
    return User(
        row.id,
        row.name,
        Role(row.role),
        row.password_hash is not None,
        row.subject,
        row.totp_sealed is not None,
        bool(row.disabled),
        row.created_at,
    )


def all_users(connection: Connection) -> Sequence[Row[Any]]:
    """The rows of all users, by name."""
    return connection.execute(select(users).order_by(users.c.name)).all()


def administrators(connection: Connection) -> int:
    """How many administrators can sign in."""
    chosen = select(func.count()).where(users.c.role == Role.ADMINISTRATOR.value, users.c.disabled == 0)
    return connection.execute(chosen).scalar_one()


def add_user(connection: Connection, name: str, role: Role, now_ms: int, **more: Any) -> int:
    """A new user; their id."""
    made = connection.execute(insert(users).values(name=name, role=role.value, created_at=now_ms, **more))
    key = made.inserted_primary_key
    assert key is not None
    return int(key[0])


def set_user(connection: Connection, user_id: int, **values: Any) -> None:
    """Change columns of a user."""
    connection.execute(update(users).where(users.c.id == user_id).values(**values))


def remove_user(connection: Connection, user_id: int) -> None:
    """A user with everything that is theirs."""
    end_sessions(connection, user_id)
    end_invitations(connection, user_id)
    end_second_factors(connection, user_id)
    name = connection.scalar(select(users.c.name).where(users.c.id == user_id))
    tokens = connection.scalars(select(api_tokens.c.name).where(api_tokens.c.user_id == user_id)).all()
    forget_answers(connection, f"console:{name}", *(f"token:{token}" for token in tokens))
    connection.execute(delete(api_tokens).where(api_tokens.c.user_id == user_id))
    connection.execute(delete(console_grants).where(console_grants.c.user_id == user_id))
    connection.execute(delete(users).where(users.c.id == user_id))


def forget_answers(connection: Connection, *principals: str) -> None:
    """What was kept for their Idempotency-Keys: whoever has such a name next is somebody else."""
    connection.execute(delete(api_answers).where(api_answers.c.principal.in_(principals)))


def end_second_factors(connection: Connection, user_id: int) -> None:
    """No code, passkey or recovery code of theirs counts any more."""
    set_user(connection, user_id, totp_key=None, totp_sealed=None, totp_step=None)
    for table in (console_passkeys, console_recovery_codes):
        connection.execute(delete(table).where(table.c.user_id == user_id))


def granted(connection: Connection, user_id: int) -> dict[int, str]:
    """The accounts a user may touch: address by id."""
    chosen = (
        select(accounts.c.id, accounts.c.address)
        .join(console_grants, console_grants.c.account_id == accounts.c.id)
        .where(console_grants.c.user_id == user_id)
        .order_by(accounts.c.address)
    )
    return {int(row.id): str(row.address) for row in connection.execute(chosen)}


def grant(connection: Connection, user_id: int, account_ids: Iterable[int]) -> None:
    """From now on these accounts, and no others."""
    connection.execute(delete(console_grants).where(console_grants.c.user_id == user_id))
    for account_id in sorted(set(account_ids)):
        connection.execute(insert(console_grants).values(user_id=user_id, account_id=account_id))


# -- sessions ------------------------------------------------------------------------------------------------------


def open_session(
    connection: Connection, user_id: int, address: str, now_ms: int, lifetime_ms: int, *, proved_at: int
) -> str:
    """A session; its token. Old ones of anybody go on the way."""
    connection.execute(delete(console_sessions).where(console_sessions.c.expires_at <= now_ms))
    token = new_token()
    connection.execute(
        insert(console_sessions).values(
            token_hash=hashed(token),
            user_id=user_id,
            csrf=new_token(),
            address=address,
            created_at=now_ms,
            seen_at=now_ms,
            expires_at=now_ms + lifetime_ms,
            proved_at=proved_at,
        )
    )
    return token


def renew_session(connection: Connection, session: bytes, now_ms: int) -> str | None:
    """Its person showed that it is them: the session under a new token, proved. None: it has ended.

    A copy of the former token that somebody else may have ends here, instead of being proved along.
    """
    token = new_token()
    values = {"token_hash": hashed(token), "csrf": new_token(), "proved_at": now_ms, "seen_at": now_ms}
    here = console_sessions.c.token_hash == session
    return token if connection.execute(update(console_sessions).where(here).values(values)).rowcount else None


def session(connection: Connection, token: str, now_ms: int, idle_ms: int) -> tuple[Principal, bool] | None:
    """Who signed in with it, and whether it is time to note that it is in use; None: nobody, it ended, or they left."""
    chosen = (
        select(users.c.id, users.c.name, users.c.role, *(console_sessions.c[name] for name in _OF_SESSION))
        .join(console_sessions, console_sessions.c.user_id == users.c.id)
        .where(
            console_sessions.c.token_hash == hashed(token),
            console_sessions.c.expires_at > now_ms,
            console_sessions.c.seen_at > now_ms - idle_ms,
            users.c.disabled == 0,
        )
    )
    row = connection.execute(chosen).one_or_none()
    if row is None:
        return None
    owner = Role(row.role) is Role.OWNER
    principal = Principal(
        name=f"console:{row.name}",
        scopes=frozenset() if owner else frozenset(("read", "queue", "accounts", "admin")),
        accounts=frozenset(granted(connection, row.id)) if owner else None,
        user_id=row.id,
        csrf=row.csrf,
        proved_at=row.proved_at,
        session=row.token_hash,
    )
    return principal, row.seen_at < now_ms - _SEEN_EVERY_MS


def user_of_session(connection: Connection, session: bytes) -> int | None:
    """Whose it is, by the hash of its token; None: it has ended."""
    chosen = select(console_sessions.c.user_id).where(console_sessions.c.token_hash == session)
    return connection.execute(chosen).scalar_one_or_none()


def touch(connection: Connection, token: str, now_ms: int) -> None:
    """The session is in use."""
    connection.execute(
        update(console_sessions).where(console_sessions.c.token_hash == hashed(token)).values(seen_at=now_ms)
    )


def end_session(connection: Connection, token: str) -> None:
    """Sign out."""
    connection.execute(delete(console_sessions).where(console_sessions.c.token_hash == hashed(token)))


def end_sessions(connection: Connection, user_id: int) -> None:
    """Sign a user out everywhere."""
    connection.execute(delete(console_sessions).where(console_sessions.c.user_id == user_id))


# -- invitations ---------------------------------------------------------------------------------------------------


def invite(connection: Connection, user_id: int, now_ms: int, lifetime_ms: int) -> str:
    """A link's token that signs this user in once; older ones of theirs end."""
    end_invitations(connection, user_id)
    connection.execute(delete(console_invitations).where(console_invitations.c.expires_at <= now_ms))
    token = new_token()
    connection.execute(
        insert(console_invitations).values(
            token_hash=hashed(token), user_id=user_id, created_at=now_ms, expires_at=now_ms + lifetime_ms
        )
    )
    return token


def end_invitations(connection: Connection, user_id: int) -> None:
    """What was sent to a user opens nothing any more."""
    connection.execute(delete(console_invitations).where(console_invitations.c.user_id == user_id))


def invited(connection: Connection, token: str, now_ms: int) -> Row[Any] | None:
    """The user whose unused invitation it is."""
    chosen = (
        select(users)
        .join(console_invitations, console_invitations.c.user_id == users.c.id)
        .where(
            console_invitations.c.token_hash == hashed(token),
            console_invitations.c.expires_at > now_ms,
            users.c.disabled == 0,
        )
    )
    return connection.execute(chosen).one_or_none()


def use_invitation(connection: Connection, token: str) -> bool:
    """False: somebody used it first."""
    used = delete(console_invitations).where(console_invitations.c.token_hash == hashed(token))
    return connection.execute(used).rowcount == 1


# -- tokens of programs --------------------------------------------------------------------------------------------


def api_token(connection: Connection, token: str, now_ms: int) -> tuple[Principal, bool] | None:
    """Whose token it is, and whether it is time to note that it was used; None: nobody's, or it ended."""
    chosen = select(api_tokens).where(api_tokens.c.token_hash == hashed(token), api_tokens.c.expires_at > now_ms)
    row = connection.execute(chosen).one_or_none()
    if row is None or token_rests(connection, row):
        return None
    principal = Principal(name=f"token:{row.name}", scopes=frozenset(json.loads(row.scopes)))
    return principal, row.used_at is None or row.used_at < now_ms - _SEEN_EVERY_MS


def token_rests(connection: Connection, row: Row[Any]) -> str:
    """Why a token does not count although its time is not over; "": it counts.

    It reaches no further than whoever made it: not when they are no administrator any more, or locked out.
    """
    if row.user_id is None:
        return "its maker was removed" if row.created_by.startswith("console:") else ""
    maker = user_by_id(connection, row.user_id)
    if maker is None:
        return "its maker was removed"
    if maker.disabled:
        return "its maker is locked out"
    return "" if maker.role == Role.ADMINISTRATOR.value else "its maker is no administrator any more"


def token_used(connection: Connection, token: str, now_ms: int) -> None:
    """Note when."""
    connection.execute(update(api_tokens).where(api_tokens.c.token_hash == hashed(token)).values(used_at=now_ms))
