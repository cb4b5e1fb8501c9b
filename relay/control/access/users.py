"""Console users: add, change, invite, remove; what each may touch; what people do about themselves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from relay.accounts.passwords import hash_password
from relay.control.access import rows, second_factor
from relay.control.access.model import Principal, Role, User
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.queue import account_named
from relay.control.reasons import refusals, shown

_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,253}")
_SHORTEST = 12  # characters of a password (NIST SP 800-63B 5.1.1.2 asks for at least 8)
ADMINISTRATOR = "admin"


async def console_password(control: Control, *, password: str, name: str = ADMINISTRATOR) -> dict[str, Any]:
    """Set an administrator's password; the user is made if there is none. Their sessions end."""
    checked = _checked_name(name)
    password_hash = await _hashed(password)

    def work(connection: Connection) -> bool:
        row = rows.find_user(connection, name=checked)
        if row is None:
            rows.add_user(connection, checked, Role.ADMINISTRATOR, now_ms(), password_hash=password_hash)
            return True
        if row.role != Role.ADMINISTRATOR.value:
            raise ControlError(
                f"{checked} is no administrator", "invite them instead: relay console invite", "conflict"
            )
        rows.set_user(connection, row.id, password_hash=password_hash, disabled=0)
        rows.end_sessions(connection, row.id)
        rows.end_invitations(connection, row.id)
        return False

    made = await control.change("console.password", checked, {}, work)
    return {"name": checked, "made": made}


async def user_list(control: Control) -> list[dict[str, Any]]:
    """Every user with what they may touch."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        return [_facts(connection, user) for user in rows.all_users(connection)]

    return await control.database.read(read)


async def user_add(
    control: Control, *, name: str, role: str = "owner", accounts: list[str] | None = None, password: str | None = None
) -> dict[str, Any]:
    """A person who may sign in: `accounts` are the mailboxes an owner may touch. Without a password: invite them."""
    checked, wanted = _checked_name(name), _role(role)
    ids = _account_ids(control, accounts or [])
    password_hash = await _hashed(password) if password is not None else None

    def work(connection: Connection) -> dict[str, Any]:
        if rows.find_user(connection, name=checked) is not None:
            raise ControlError(
                f"there is a user {checked} already", "change that one, or give another name", "conflict"
            )
        user_id = rows.add_user(connection, checked, wanted, now_ms(), password_hash=password_hash)
        rows.grant(connection, user_id, ids)
        return _of(connection, user_id)

    return await control.change("user.add", checked, {"role": wanted.value, "accounts": accounts or []}, work)


async def user_set(
    control: Control,
    *,
    name: str,
    role: str | None = None,
    accounts: list[str] | None = None,
    disabled: bool | None = None,
    reset_second_factor: bool = False,
) -> dict[str, Any]:
    """Change what a user is or may touch (None: as before); they are signed out everywhere, their invitations end."""
    checked = _checked_name(name)
    ids = _account_ids(control, accounts) if accounts is not None else None
    values: dict[str, Any] = {}
    if disabled is not None:
        values["disabled"] = int(disabled)
    if role is not None:
        values["role"] = _role(role).value
    if reset_second_factor:
        values |= {"totp_key": None, "totp_sealed": None, "totp_step": None}

    def work(connection: Connection) -> dict[str, Any]:
        row = _known(connection, checked)
        if values:
            rows.set_user(connection, row.id, **values)
        if ids is not None:
            rows.grant(connection, row.id, ids)
        rows.end_sessions(connection, row.id)
        rows.end_invitations(connection, row.id)
        _keep_an_administrator(connection)
        return _of(connection, row.id)

    detail = {"role": role, "accounts": accounts, "disabled": disabled, "second_factor_reset": reset_second_factor}
    return await control.change("user.set", checked, detail, work)


async def user_remove(control: Control, *, name: str) -> dict[str, Any]:
    """Remove a user; the last administrator stays."""
    checked = _checked_name(name)

    def work(connection: Connection) -> None:
        rows.remove_user(connection, _known(connection, checked).id)
        _keep_an_administrator(connection)

    await control.change("user.remove", checked, {}, work)
    return {"removed": checked}


async def user_invite(
    control: Control, *, name: str, accounts: list[str] | None = None, hours: int = 72
) -> dict[str, Any]:
    """A link that signs this person in once: `path` is what follows the console's address. An owner is made if new."""
    checked = _checked_name(name)
    if not 1 <= hours <= 720:
        raise ControlError(f"an invitation cannot last {hours} hours", "give 1 to 720", "invalid")
    ids = _account_ids(control, accounts) if accounts is not None else None

    def work(connection: Connection) -> str:
        row = rows.find_user(connection, name=checked)
        user_id = row.id if row is not None else rows.add_user(connection, checked, Role.OWNER, now_ms())
        if ids is not None:
            rows.grant(connection, user_id, ids)
        return rows.invite(connection, user_id, now_ms(), hours * 3_600_000)

    token = await control.change("user.invite", checked, {"accounts": accounts, "hours": hours}, work)
    return {"name": checked, "path": f"/invite/{token}", "until": iso(now_ms() + hours * 3_600_000)}


# -- what everybody may do about themselves ------------------------------------------------------------------------


async def me(control: Control) -> dict[str, Any]:
    """Who is signed in, and what they may touch."""
    principal = _principal(control)

    def read(connection: Connection) -> dict[str, Any]:
        assert principal.user_id is not None
        return _of(connection, principal.user_id)

    return await control.database.read(read)


async def me_password(control: Control, *, password: str) -> dict[str, Any]:
    """Set one's own password; every session ends, this one too."""
    principal = _principal(control)
    password_hash = await _hashed(password)

    def work(connection: Connection) -> None:
        assert principal.user_id is not None
        rows.set_user(connection, principal.user_id, password_hash=password_hash)
        rows.end_sessions(connection, principal.user_id)
        rows.end_invitations(connection, principal.user_id)

    await control.change("me.password", principal.name, {}, work)
    return {}


async def me_totp_begin(control: Control) -> dict[str, Any]:
    """A secret for an authenticator: not in force until a code of it came back (`me_totp_finish`)."""
    principal = _principal(control)
    secret = second_factor.new_secret()
    control.desk.pending_secrets[principal.name] = secret
    while len(control.desk.pending_secrets) > 100:
        control.desk.pending_secrets.popitem(last=False)
    return {"secret": secret, "uri": second_factor.enrolment(secret, principal.name.partition(":")[2])}


async def me_totp_finish(control: Control, *, code: str) -> dict[str, Any]:
    """From now on a code is asked for at login."""
    principal = _principal(control)
    secret = control.desk.pending_secrets.get(principal.name)
    if secret is None or second_factor.matching_step(secret, code) is None:
        raise ControlError("this is not the code of now", "check the phone's clock, then give the next code", "invalid")
    del control.desk.pending_secrets[principal.name]

    def work(connection: Connection) -> None:
        assert principal.user_id is not None
        rows.set_user(connection, principal.user_id, **second_factor.seal(control.vault, principal.user_id, secret))

    await control.change("me.second_factor", principal.name, {"on": True}, work)
    return {}


async def me_totp_remove(control: Control) -> dict[str, Any]:
    """No code is asked for any more."""
    principal = _principal(control)

    def work(connection: Connection) -> None:
        assert principal.user_id is not None
        rows.set_user(connection, principal.user_id, totp_key=None, totp_sealed=None, totp_step=None)

    await control.change("me.second_factor", principal.name, {"on": False}, work)
    return {}


def _principal(control: Control) -> Principal:
    if control.principal is None or control.principal.user_id is None:
        raise ControlError("nobody is signed in", "sign in to the console", "unauthenticated")
    return control.principal


def _known(connection: Connection, name: str) -> Any:
    row = rows.find_user(connection, name=name)
    if row is None:
        raise ControlError(f"there is no user {shown(name)}", "`relay console users` shows them", "not-found")
    return row


def _keep_an_administrator(connection: Connection) -> None:
    if not rows.administrators(connection):
        raise ControlError("this is the last administrator", "make somebody else one first", "conflict")


def _of(connection: Connection, user_id: int) -> dict[str, Any]:
    row = rows.user_by_id(connection, user_id)
    assert row is not None
    return _facts(connection, rows.user_of(row))


def _facts(connection: Connection, user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role.value,
        "has_password": user.has_password,
        "second_factor": user.totp,
        "disabled": user.disabled,
        "accounts": list(rows.granted(connection, user.id).values()),
        "created_at": iso(user.created_at),
    }


def _checked_name(name: str) -> str:
    checked = name.strip().lower()
    if not _NAME.fullmatch(checked):
        raise ControlError(
            f"{shown(name) or 'an empty text'} cannot be a user's name",
            "give an e-mail address, or letters, digits, dots and hyphens",
            "invalid",
        )
    return checked


def _role(role: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise ControlError(f"role cannot be {shown(role)}", "give administrator or owner", "invalid") from None


def _account_ids(control: Control, names: Sequence[str]) -> list[int]:
    with refusals():
        return [account_named(control, name).id for name in names]


async def _hashed(password: str) -> str:
    if len(password) < _SHORTEST:
        raise ControlError(f"the password is shorter than {_SHORTEST} characters", "give a longer one", "invalid")
    with refusals():
        return await asyncio.to_thread(hash_password, password)
