"""Signing in to the console: by password and second factor, by invitation; signing out."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from sqlalchemy import Connection

from relay.accounts.passwords import DUMMY_HASH, verify_password
from relay.control.access import rows
from relay.control.access.model import Role
from relay.control.access.second_factor import accepted_step
from relay.control.context import Control, ControlError, now_ms
from relay.mail.counted import counted
from relay.telemetry import get_logger

log = get_logger()

_WRONG = ControlError("the name or the password is wrong", "try again, or ask an administrator for an invitation")


async def console_login(
    control: Control, *, username: str, password: str, address: str, code: str = ""
) -> dict[str, Any]:
    """A session for whoever knows the password (and, with a second factor, the code of this half minute).

    {"session": token} or {"needs": "code"}.  Refused alike for an unknown name and a wrong password, after the same
    work; after ten bad ones in ten minutes for one name or from one address: throttled.
    """
    name = username.strip().lower()
    keys = (f"name {name}", f"address {address}")
    async with control.desk.turn:  # guesses that come together are counted one by one
        check_wait(control, *keys)
        row = await control.database.read(lambda connection: rows.find_user(connection, name=name))
        stored = row.password_hash if row is not None and row.password_hash is not None else DUMMY_HASH
        right = await asyncio.to_thread(verify_password, stored, password)
        if not right or row is None or row.disabled or row.password_hash is None:
            return _refuse(control, name, address, *keys)
        if row.totp_sealed is not None:
            if not code:
                return {"needs": "code"}
            step = accepted_step(control.vault, row, code)
            if step is None or not await _use_step(control, row.id, step):
                return _refuse(control, name, address, *keys)
    # Not what came from the address: or whoever has a login of their own could guess at all others between two of it.
    control.desk.attempts.good(keys[0])
    return await open_session(control, row.id, row.name, address, "password")


async def console_accept(control: Control, *, token: str, address: str) -> dict[str, Any]:
    """A session for whoever holds an invitation; it is used up then. A second factor is not asked for: it is one."""
    keys = (f"address {address}",)
    check_wait(control, *keys)
    row = await control.database.read(lambda connection: rows.invited(connection, token, now_ms()))
    if row is None or not await control.database.write(lambda connection: rows.use_invitation(connection, token)):
        control.desk.attempts.bad(*keys)
        raise ControlError(
            "this invitation was used already, or is too old", "ask an administrator for a new one", "unauthenticated"
        )
    return await open_session(control, row.id, row.name, address, "invitation")


async def console_invitation(control: Control, *, token: str, address: str) -> dict[str, Any]:
    """Whose invitation it is, without using it: link previews and scanners of mail open links, too."""
    check_wait(control, f"address {address}")
    row = await control.database.read(lambda connection: rows.invited(connection, token, now_ms()))
    if row is None:
        control.desk.attempts.bad(f"address {address}")
        raise ControlError(
            "this invitation was used already, or is too old", "ask an administrator for a new one", "unauthenticated"
        )
    return {"name": row.name}


async def console_logout(control: Control, *, session: str) -> dict[str, Any]:
    """End the session."""
    await control.database.write(lambda connection: rows.end_session(connection, session))
    return {}


async def console_ready(control: Control) -> dict[str, Any]:
    """Can anybody sign in? {"administrators": how many, "provider": where else people can, by name, "": nowhere}."""
    settings = control.settings.console
    return {"administrators": await control.database.read(rows.administrators), "provider": settings.oidc_name}


async def open_session(control: Control, user_id: int, name: str, address: str, how: str) -> dict[str, Any]:
    """A session for a user whose identity was proved by `how`, audited."""
    lifetime_ms = int(control.settings.console.session_s * 1000)
    by = control.asked_by(f"console:{name}", control.progress)

    def work(connection: Connection) -> tuple[str, str]:
        user = rows.user_by_id(connection, user_id)
        if user is None or user.disabled:  # meanwhile
            raise ControlError(_WRONG.text, _WRONG.remedy, "unauthenticated")
        by.record(connection, "console.login", name, {"by": how, "address": address})
        return rows.open_session(connection, user_id, address, now_ms(), lifetime_ms), user.role

    token, role = await control.database.write(work)
    log.info("console.login", operator=name, client=address, detail=how)
    return {"session": token, "name": name, "owner": role == Role.OWNER.value, "lifetime_s": lifetime_ms // 1000}


def check_wait(control: Control, *keys: str) -> None:
    """Raises ControlError (throttled) while one of these keys must wait."""
    wait_s = control.desk.attempts.wait_s(*keys)
    if wait_s > 0:
        raise ControlError(
            "too many bad logins",
            f"wait {counted(math.ceil(wait_s), 'second')}, then try again",
            "throttled",
            math.ceil(wait_s),
        )


def _refuse(control: Control, name: str, address: str, *keys: str) -> dict[str, Any]:
    control.desk.attempts.bad(*keys)
    log.warning("console.refused", operator=name[:64], client=address, reason="login")
    raise ControlError(_WRONG.text, _WRONG.remedy, "unauthenticated")


async def _use_step(control: Control, user_id: int, step: int) -> bool:
    """Each code counts once, also when two logins come at the same moment (RFC 6238 5.2)."""

    def use(connection: Connection) -> bool:
        row = rows.user_by_id(connection, user_id)
        if row is None or (row.totp_step is not None and row.totp_step >= step):
            return False
        rows.set_user(connection, user_id, totp_step=step)
        return True

    return await control.database.write(use)
