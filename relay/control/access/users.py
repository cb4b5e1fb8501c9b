"""Console users: add, change, invite, remove; what each may touch; what people do about themselves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from relay.accounts.passwords import hash_password
from relay.control.access import passkeys, recovery, rows
from relay.control.access.factors import person_of, second_factors
from relay.control.access.model import Role
from relay.control.access.proof import demand_person
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.queue import account_named
from relay.control.reasons import refusals, shown
from relay.queue.waiting import waiting

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
        return [_facts(connection, row) for row in rows.all_users(connection)]

    return await control.database.read(read)


async def user_add(
    control: Control, *, name: str, role: str = "owner", accounts: list[str] | None = None, password: str | None = None
) -> dict[str, Any]:
    """A person who may sign in: `accounts` are the mailboxes an owner may touch. Without a password: invite them."""
    checked, wanted = _checked_name(name), _role(role)
    if wanted is Role.ADMINISTRATOR:
        demand_person(control)
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

    def work(connection: Connection) -> dict[str, Any]:
        row = _known(connection, checked)
        if Role.ADMINISTRATOR.value in (row.role, role):
            demand_person(control)
        if reset_second_factor:
            rows.end_second_factors(connection, row.id)
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
    """Remove a user with their tokens; the last administrator stays."""
    checked = _checked_name(name)

    def work(connection: Connection) -> None:
        row = _known(connection, checked)
        if row.role == Role.ADMINISTRATOR.value:
            demand_person(control)
        rows.remove_user(connection, row.id)
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
        if row is not None and row.role == Role.ADMINISTRATOR.value:
            demand_person(control)
        user_id = row.id if row is not None else rows.add_user(connection, checked, Role.OWNER, now_ms())
        if ids is not None:
            rows.grant(connection, user_id, ids)
        return rows.invite(connection, user_id, now_ms(), hours * 3_600_000)

    token = await control.change("user.invite", checked, {"accounts": accounts, "hours": hours}, work)
    return {"name": checked, "path": f"/invite/{token}", "until": iso(now_ms() + hours * 3_600_000)}


# -- what everybody may do about themselves ------------------------------------------------------------------------


async def me(control: Control) -> dict[str, Any]:
    """Who is signed in, what they may touch and how it is, and by what they can show that it is them."""
    user_id = person_of(control)

    def read(connection: Connection) -> dict[str, Any]:
        row = rows.user_by_id(connection, user_id)
        assert row is not None
        at_provider = row.subject is not None and bool(control.settings.console.oidc_issuer)
        return _of(connection, user_id) | {
            "mailboxes": _mailboxes(control, connection, user_id),
            "passkeys": passkeys.facts(connection, user_id),
            "recovery_codes": recovery.left(connection, user_id),
            "provider": control.settings.console.oidc_name if at_provider else "",
        }

    return await control.database.read(read)


def _mailboxes(control: Control, connection: Connection, user_id: int) -> list[dict[str, Any]]:
    """What they may touch, and whether it works."""
    granted = rows.granted(connection, user_id)
    owed = waiting(connection, granted) if granted else {}
    known = [(account, address) for id, address in granted.items() if (account := control.directory.account(id))]
    return [
        {"address": address, "state": account.state.value, "waiting": owed.get(account.id, 0)}
        for account, address in known
    ]


async def me_password(control: Control, *, password: str) -> dict[str, Any]:
    """Set one's own password; every session ends, this one too."""
    user_id = person_of(control)
    password_hash = await _hashed(password)

    def work(connection: Connection) -> None:
        rows.set_user(connection, user_id, password_hash=password_hash)
        rows.end_sessions(connection, user_id)
        rows.end_invitations(connection, user_id)

    await control.change("me.password", control.actor, {}, work)
    return {}


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
    return _facts(connection, row)


def _facts(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    user = rows.user_of(row)
    factors = second_factors(connection, row)
    return {
        "name": user.name,
        "role": user.role.value,
        "has_password": user.has_password,
        "second_factor": bool(factors),
        "second_factors": factors,
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
