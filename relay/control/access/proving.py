"""Whoever is signed in shows once more that it is them: by password and second factor, passkey, or at the provider."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Connection, Row

from relay.accounts.passwords import DUMMY_HASH, verify_password
from relay.control.access import passkeys, rows
from relay.control.access.factors import accepts, person_of, proved_passkey, second_factors
from relay.control.access.login import check_wait
from relay.control.context import Control, ControlError, now_ms
from relay.telemetry import get_logger

log = get_logger()


async def me_proof_begin(control: Control, *, origin: str) -> dict[str, Any]:
    """What to ask an authenticator for one of the person's passkeys: {"ceremony", "options"}."""
    user_id = person_of(control)
    id_, ceremony = control.desk.ceremonies.begin(control.settings.console, "prove", origin, user_id)
    allowed = await control.database.read(lambda connection: passkeys.ids(connection, user_id, ceremony.site))
    return {"ceremony": id_, "options": await passkeys.request_options(ceremony, allowed)}


async def me_prove(
    control: Control, *, password: str = "", code: str = "", ceremony: str = "", answer: str = ""
) -> dict[str, Any]:
    """The session goes on under a new token, and for ten minutes may do what needs a proof: {"session", "lifetime_s"}.

    Either a passkey's `answer` to `ceremony`, or the password, with a `code` if there is a second factor.  After ten
    bad tries in ten minutes: throttled; logins of the same person are not, or a thief could lock them out.
    """
    user_id = person_of(control)
    key = f"proof {user_id}"
    async with control.desk.turn:  # guesses that come together are counted one by one
        check_wait(control, key)
        try:
            if answer:
                await proved_passkey(control, control.desk.ceremonies.take("prove", ceremony, user_id), answer)
            else:
                await _by_password(control, user_id, password, code)
        except ControlError as error:
            control.desk.attempts.bad(key)
            log.warning("console.refused", operator=control.actor.partition(":")[2], reason="proof")
            raise ControlError(error.text, error.remedy, "proof") from None
    control.desk.attempts.good(key)
    return await _renewed(control, "passkey" if answer else "password")


async def _by_password(control: Control, user_id: int, password: str, code: str) -> None:
    def read(connection: Connection) -> tuple[Row[Any] | None, list[str]]:
        row = rows.user_by_id(connection, user_id)
        return row, second_factors(connection, row) if row is not None else []

    row, factors = await control.database.read(read)
    stored = row.password_hash if row is not None and row.password_hash is not None else DUMMY_HASH
    right = await asyncio.to_thread(verify_password, stored, password)
    known = row is not None and row.password_hash is not None
    if not (right and known) or row is None or (factors and not await accepts(control, row, code)):
        raise ControlError("the password or the code is wrong", "try again, or use a passkey", "unauthenticated")


async def _renewed(control: Control, how: str) -> dict[str, Any]:
    principal = control.principal
    assert principal is not None

    def work(connection: Connection) -> str:
        token = rows.renew_session(connection, principal.session, now_ms())
        if token is None:
            raise ControlError("the session has ended", "sign in again", "unauthenticated")
        control.record(connection, "console.proof", principal.name.partition(":")[2], {"by": how})
        return token

    token = await control.database.write(work)
    return {"session": token, "lifetime_s": int(control.settings.console.session_s)}
