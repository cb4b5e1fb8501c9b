"""Signing in to the console: by password and second factor, by passkey, by invitation; signing out."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from sqlalchemy import Connection

from relay.accounts.passwords import DUMMY_HASH, verify_password
from relay.control.access import passkeys, rows
from relay.control.access.factors import accepts, proved_passkey, second_factors
from relay.control.access.model import Role
from relay.control.context import Control, ControlError, now_ms
from relay.mail.counted import counted
from relay.telemetry import get_logger

log = get_logger()

_WRONG = ControlError("the name or the password is wrong", "try again, or ask an administrator for an invitation")


async def console_login(
    control: Control, *, username: str, password: str, address: str, code: str = ""
) -> dict[str, Any]:
    """A session for whoever knows the password (and, with a second factor, the code of this half minute).

    {"session": token} or {"needs": "code" or, with passkeys alone, "passkey"}; a recovery code is a code, too.

    Refused alike for an unknown name and a wrong password, after the same work; after ten bad ones in ten minutes
    for one name or from one address: throttled.
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
        factors = await control.database.read(lambda connection: second_factors(connection, row))
        if factors and not code:
            return {"needs": "code" if "totp" in factors else "passkey"}
        if factors and not await accepts(control, row, code):
            return _refuse(control, name, address, *keys)
    # Not what came from the address: or whoever has a login of their own could guess at all others between two of it.
    control.desk.attempts.good(keys[0])
    return await open_session(control, row.id, row.name, address, "password", proved_at=now_ms())


async def console_passkey_begin(control: Control, *, origin: str, address: str) -> dict[str, Any]:
    """What to ask an authenticator for whoever will sign in: {"ceremony", "options"}. `origin`: where they are."""
    check_wait(control, f"address {address}")
    id_, ceremony = control.desk.ceremonies.begin(control.settings.console, "login", origin, None)
    return {"ceremony": id_, "options": await passkeys.request_options(ceremony, [])}


async def console_passkey_login(control: Control, *, ceremony: str, answer: str, address: str) -> dict[str, Any]:
    """A session for whoever's authenticator answered; a password is not asked for. Each `ceremony` counts once."""
    key = f"address {address}"
    check_wait(control, key)
    try:
        begun = control.desk.ceremonies.take("login", ceremony, None)
        row = await proved_passkey(control, begun, answer)
    except ControlError as error:
        control.desk.attempts.bad(key)
        raise ControlError(error.text, error.remedy, "unauthenticated") from None
    return await open_session(control, row.user_id, row.person, address, "passkey", proved_at=now_ms())


async def console_accept(control: Control, *, token: str, address: str) -> dict[str, Any]:
    """A session for whoever holds an invitation; it is used up then.

    It proves who they are like a password does, so a second factor is asked for before what needs a proof.
    """
    keys = (f"address {address}",)
    check_wait(control, *keys)
    row = await control.database.read(lambda connection: rows.invited(connection, token, now_ms()))
    if row is None or not await control.database.write(lambda connection: rows.use_invitation(connection, token)):
        control.desk.attempts.bad(*keys)
        raise ControlError(
            "this invitation was used already, or is too old", "ask an administrator for a new one", "unauthenticated"
        )
    factors = await control.database.read(lambda connection: second_factors(connection, row))
    proved_at = 0 if factors else now_ms()
    return await open_session(control, row.id, row.name, address, "invitation", proved_at=proved_at)


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
    """Can anybody sign in? {"administrators": how many, "passkeys": are there any, "provider": name or ""}."""
    return {
        "administrators": await control.database.read(rows.administrators),
        "passkeys": await control.database.read(passkeys.anybody),
        "provider": control.settings.console.oidc_name,
    }


async def open_session(
    control: Control, user_id: int, name: str, address: str, how: str, *, proved_at: int
) -> dict[str, Any]:
    """A session for a user whose identity was proved by `how`, audited; `proved_at`: ms, 0: not as proof asks."""
    lifetime_ms = int(control.settings.console.session_s * 1000)
    by = control.asked_by(f"console:{name}", control.progress)

    def work(connection: Connection) -> tuple[str, str]:
        user = rows.user_by_id(connection, user_id)
        if user is None or user.disabled:  # meanwhile
            raise ControlError(_WRONG.text, _WRONG.remedy, "unauthenticated")
        by.record(connection, "console.login", name, {"by": how, "address": address})
        return rows.open_session(connection, user_id, address, now_ms(), lifetime_ms, proved_at=proved_at), user.role

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
