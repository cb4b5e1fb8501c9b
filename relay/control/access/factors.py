"""What people set up to show that it is them, beside a password: authenticator codes, passkeys, recovery codes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from relay.control.access import passkeys, recovery, rows, second_factor
from relay.control.access.ceremonies import Ceremony
from relay.control.context import Control, ControlError, now_ms
from relay.telemetry import get_logger

log = get_logger()

_MOST_PENDING = 100


def person_of(control: Control) -> int:
    """The id of who is signed in. Raises ControlError (unauthenticated)."""
    if control.principal is None or control.principal.user_id is None:
        raise ControlError("nobody is signed in", "sign in to the console", "unauthenticated")
    return control.principal.user_id


def second_factors(connection: Connection, user: Row[Any]) -> list[str]:
    """What is asked for beside a password: totp, passkey, both or neither."""
    found = ["totp"] if user.totp_sealed is not None else []
    return found + (["passkey"] if passkeys.ids(connection, user.id) else [])


async def accepts(control: Control, user: Row[Any], code: str) -> bool:
    """Is it the authenticator's code of now, or a recovery code? Each counts once, also when two come at once."""

    def work(connection: Connection) -> bool:
        row = rows.user_by_id(connection, user.id)
        if row is None:
            return False
        step = second_factor.accepted_step(control.vault, row, code) if row.totp_sealed is not None else None
        if step is not None:  # RFC 6238 5.2
            rows.set_user(connection, row.id, totp_step=step)
            return True
        if not recovery.use(connection, row.id, code):
            return False
        left = recovery.left(connection, row.id)
        by = control.asked_by(f"console:{row.name}", control.progress)
        by.record(connection, "console.recovery_code", row.name, {"left": left})
        return True

    return await control.database.write(work)


async def proved_passkey(control: Control, ceremony: Ceremony, answer: str) -> Row[Any]:
    """The passkey whose authenticator answered. Raises ControlError (unauthenticated)."""
    credential_id = passkeys.credential_id_of(answer)
    row = await control.database.read(lambda connection: passkeys.find(connection, credential_id))
    if row is None or ceremony.user_id not in (None, row.user_id):
        raise ControlError("this passkey is not registered here", "sign in another way", "unauthenticated")
    count = await passkeys.sign_count(ceremony, answer, row)
    if not await control.database.write(lambda connection: passkeys.used(connection, row, count, now_ms())):
        log.warning("console.refused", operator=row.person, reason="passkey copied")
        raise ControlError(
            "this passkey was used out of order: there may be a copy of it",
            "sign in another way, and remove it under your name",
            "unauthenticated",
        )
    return row


# -- authenticator codes -------------------------------------------------------------------------------------------


async def me_totp_begin(control: Control) -> dict[str, Any]:
    """A secret for an authenticator: not in force until a code of it came back (`me_totp_finish`)."""
    person_of(control)
    secret = second_factor.new_secret()
    control.desk.pending_secrets[control.actor] = secret
    while len(control.desk.pending_secrets) > _MOST_PENDING:
        control.desk.pending_secrets.popitem(last=False)
    return {"secret": secret, "uri": second_factor.enrolment(secret, control.actor.partition(":")[2])}


async def me_totp_finish(control: Control, *, code: str) -> dict[str, Any]:
    """From now on a code is asked for at login. {"recovery_codes": new ones, if there were none}."""
    user_id = person_of(control)
    secret = control.desk.pending_secrets.get(control.actor)
    step = second_factor.matching_step(secret, code) if secret is not None else None
    if secret is None or step is None:
        raise ControlError("this is not the code of now", "check the phone's clock, then give the next code", "invalid")
    del control.desk.pending_secrets[control.actor]

    def work(connection: Connection) -> list[str]:
        sealed = second_factor.seal(control.vault, user_id, secret)
        rows.set_user(connection, user_id, **sealed, totp_step=step)  # RFC 6238 5.2: this code was used
        return _first_codes(connection, user_id)

    codes = await control.change("me.second_factor", control.actor, {"on": True}, work)
    return {"recovery_codes": codes}


async def me_totp_remove(control: Control) -> dict[str, Any]:
    """No code is asked for any more."""
    user_id = person_of(control)

    def work(connection: Connection) -> None:
        rows.set_user(connection, user_id, totp_key=None, totp_sealed=None, totp_step=None)

    await control.change("me.second_factor", control.actor, {"on": False}, work)
    return {}


async def me_recovery_codes(control: Control) -> dict[str, Any]:
    """Ten new recovery codes in place of the former ones; shown now and never again."""
    user_id = person_of(control)
    codes = await control.change("me.recovery_codes", control.actor, {}, lambda c: recovery.renew(c, user_id))
    return {"recovery_codes": codes}


def _first_codes(connection: Connection, user_id: int) -> list[str]:
    return [] if recovery.left(connection, user_id) else recovery.renew(connection, user_id)


# -- passkeys ------------------------------------------------------------------------------------------------------


async def me_passkey_begin(control: Control, *, origin: str) -> dict[str, Any]:
    """What to ask an authenticator for a new passkey: {"ceremony", "options"}; `origin`: where the browser is."""
    user_id = person_of(control)
    id_, ceremony = control.desk.ceremonies.begin(control.settings.console, "register", origin, user_id)

    def work(connection: Connection) -> tuple[Row[Any], bytes, list[bytes]]:
        user = rows.user_by_id(connection, user_id)
        assert user is not None
        return user, passkeys.handle_of(connection, user), passkeys.ids(connection, user_id)

    user, handle, known = await control.database.write(work)
    return {"ceremony": id_, "options": await passkeys.creation_options(ceremony, user, handle, known)}


async def me_passkey_finish(control: Control, *, ceremony: str, answer: str, name: str) -> dict[str, Any]:
    """Register what the authenticator made. {"recovery_codes": new ones, if there were none}."""
    user_id, kept = person_of(control), passkeys.named(name)
    made = await passkeys.registered(control.desk.ceremonies.take("register", ceremony, user_id), answer)

    def work(connection: Connection) -> list[str]:
        passkeys.add(connection, user_id, kept, made, now_ms())
        return _first_codes(connection, user_id)

    codes = await control.change("me.passkey", control.actor, {"added": kept, "site": made["site"]}, work)
    return {"recovery_codes": codes}


async def me_passkey_rename(control: Control, *, id: str, name: str) -> dict[str, Any]:
    """Call a passkey something else."""
    user_id, kept = person_of(control), passkeys.named(name)
    detail = {"id": id[:16], "name": kept}
    await control.change("me.passkey", control.actor, detail, lambda c: passkeys.rename(c, user_id, id, kept))
    return {}


async def me_passkey_remove(control: Control, *, id: str) -> dict[str, Any]:
    """Nobody gets in with it any more."""
    user_id = person_of(control)
    await control.change("me.passkey", control.actor, {"removed": id[:16]}, lambda c: passkeys.remove(c, user_id, id))
    return {}
