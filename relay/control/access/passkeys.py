"""Passkeys (WebAuthn Level 3): register, list, rename, remove; whose an answer of an authenticator is.

A passkey is possession and, as user verification is required, a PIN or fingerprint: two factors in one.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, delete, insert, select, update

from relay.control.access import rows
from relay.control.access.ceremonies import Ceremony
from relay.control.context import ControlError, iso
from relay.control.reasons import shown
from relay.database.schema import console_passkeys as passkeys
from relay.database.schema import console_users as users
from relay.telemetry import get_logger

log = get_logger()

T = TypeVar("T")
MOST = 20  # of one person
LONGEST_ANSWER = 16_384  # characters; without attestation a few hundred
_LONGEST_NAME = 64
_HANDLE_BYTES = 32
_TIMEOUT_MS = 120_000


# -- what the browser is asked -------------------------------------------------------------------------------------


async def creation_options(ceremony: Ceremony, user: Row[Any], handle: bytes, known: list[bytes]) -> dict[str, Any]:
    """PublicKeyCredentialCreationOptions in JSON (WebAuthn 5.4)."""

    def make() -> dict[str, Any]:
        import webauthn
        from webauthn.helpers import structs

        options = webauthn.generate_registration_options(
            rp_id=ceremony.site,
            rp_name="relay",
            user_id=handle,
            user_name=user.name,
            challenge=ceremony.challenge,
            timeout=_TIMEOUT_MS,
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.REQUIRED,
                user_verification=structs.UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[structs.PublicKeyCredentialDescriptor(id=one) for one in known],
        )
        return _json(webauthn.options_to_json(options))

    return await asyncio.to_thread(make)


async def request_options(ceremony: Ceremony, allowed: list[bytes]) -> dict[str, Any]:
    """PublicKeyCredentialRequestOptions in JSON (WebAuthn 5.5); none `allowed`: the person picks one."""

    def make() -> dict[str, Any]:
        import webauthn
        from webauthn.helpers import structs

        options = webauthn.generate_authentication_options(
            rp_id=ceremony.site,
            challenge=ceremony.challenge,
            timeout=_TIMEOUT_MS,
            allow_credentials=[structs.PublicKeyCredentialDescriptor(id=one) for one in allowed],
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        )
        return _json(webauthn.options_to_json(options))

    return await asyncio.to_thread(make)


# -- what came back ------------------------------------------------------------------------------------------------


async def registered(ceremony: Ceremony, answer: str) -> dict[str, Any]:
    """The columns of a new passkey. Raises ControlError (invalid)."""

    def verify() -> dict[str, Any]:
        import webauthn

        made = webauthn.verify_registration_response(
            credential=_object(answer),
            expected_challenge=ceremony.challenge,
            expected_rp_id=ceremony.site,
            expected_origin=ceremony.origin,
            require_user_verification=True,
        )
        return {
            "credential_id": made.credential_id,
            "public_key": made.credential_public_key,
            "sign_count": made.sign_count,
            "site": ceremony.site,
        }

    return await asyncio.to_thread(_checked, verify, "invalid")


def credential_id_of(answer: str) -> bytes:
    """Which passkey somebody claims to have used. Raises ControlError (unauthenticated)."""

    def read() -> bytes:
        import webauthn

        return webauthn.base64url_to_bytes(str(_object(answer)["id"]))

    return _checked(read, "unauthenticated")


async def sign_count(ceremony: Ceremony, answer: str, row: Row[Any]) -> int:
    """The authenticator's count, its signature by the passkey of `row` verified. Raises ControlError (unauthenticated).

    `row` has the columns of the passkey, and its person's `handle`, which must be in the answer unless it was known
    who it is.
    """

    def verify() -> int:
        import webauthn

        given = _object(answer)
        handle = given["response"].get("userHandle")
        if handle is None and ceremony.user_id is None:
            raise ValueError("nobody's passkey")
        if handle is not None and not secrets.compare_digest(webauthn.base64url_to_bytes(handle), row.handle):
            raise ValueError("the passkey of somebody else")  # WebAuthn 7.2 step 6
        if row.site != ceremony.site:
            raise ValueError("the passkey of another site")
        return webauthn.verify_authentication_response(
            credential=given,
            expected_challenge=ceremony.challenge,
            expected_rp_id=ceremony.site,
            expected_origin=ceremony.origin,
            credential_public_key=row.public_key,
            credential_current_sign_count=0,  # compared where the row is written
            require_user_verification=True,
        ).new_sign_count

    return await asyncio.to_thread(_checked, verify, "unauthenticated")


def _checked(verify: Callable[[], T], kind: Any) -> T:
    """What the library makes of it; whatever it finds wrong in what a stranger sent is a refusal, not a fault."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        return verify()
    except (WebAuthnException, UnsupportedAlgorithm, ValueError, TypeError, KeyError, IndexError, AttributeError) as no:
        log.warning("console.refused", reason="passkey", detail=f"{type(no).__name__}: {no}"[:200])
        raise ControlError(
            "the passkey was not accepted",
            "try again, at the console's own address and with a PIN or fingerprint",
            kind,
        ) from None


def _object(answer: str) -> dict[str, Any]:
    if len(answer) > LONGEST_ANSWER:
        raise ValueError("too long")
    try:
        found = json.loads(answer)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(found, dict) or not isinstance(found.get("response"), dict):
        raise ValueError("no credential")
    return found


def _json(text: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(text)
    return made


# -- rows, inside the caller's transaction -------------------------------------------------------------------------


def handle_of(connection: Connection, user: Row[Any]) -> bytes:
    """What passkeys know this person by; made at the first one."""
    if user.handle is not None:
        return bytes(user.handle)
    made = secrets.token_bytes(_HANDLE_BYTES)
    rows.set_user(connection, user.id, handle=made)
    return made


def ids(connection: Connection, user_id: int, site: str | None = None) -> list[bytes]:
    """Credential ids of a person; `site`: those that work there."""
    chosen = select(passkeys.c.credential_id).where(passkeys.c.user_id == user_id)
    if site is not None:
        chosen = chosen.where(passkeys.c.site == site)
    return [bytes(one) for one in connection.execute(chosen).scalars()]


def facts(connection: Connection, user_id: int) -> list[dict[str, Any]]:
    """What a person may see of theirs, oldest first."""
    chosen = select(passkeys).where(passkeys.c.user_id == user_id).order_by(passkeys.c.created_at)
    return [
        {
            "id": row.credential_id.hex(),
            "name": row.name,
            "site": row.site,
            "created_at": iso(row.created_at),
            "used_at": iso(row.used_at),
        }
        for row in connection.execute(chosen)
    ]


def anybody(connection: Connection) -> bool:
    """Has anybody one?"""
    return connection.execute(select(passkeys.c.user_id).limit(1)).first() is not None


def add(connection: Connection, user_id: int, name: str, made: dict[str, Any], now_ms: int) -> None:
    """Raises ControlError: it is registered already, or there are too many."""
    known = select(passkeys.c.user_id).where(passkeys.c.credential_id == made["credential_id"])
    if connection.execute(known).first() is not None:
        raise ControlError("this passkey is registered already", "use another device, or remove it first", "conflict")
    if len(ids(connection, user_id)) >= MOST:
        raise ControlError(f"{MOST} passkeys are enough", "remove one first", "conflict")
    connection.execute(insert(passkeys).values(user_id=user_id, name=name, created_at=now_ms, **made))


def named(name: str) -> str:
    """A name as it is kept. Raises ControlError (invalid)."""
    kept = " ".join(name.split())
    if not kept or len(kept) > _LONGEST_NAME or not kept.isprintable():
        raise ControlError("this cannot be a passkey's name", f"give 1 to {_LONGEST_NAME} characters", "invalid")
    return kept


def rename(connection: Connection, user_id: int, id_: str, name: str) -> None:
    """Raises ControlError (not-found), alike for an unknown one and for somebody else's."""
    _one(connection.execute(update(passkeys).where(*_is(user_id, id_)).values(name=name)).rowcount, id_)


def remove(connection: Connection, user_id: int, id_: str) -> None:
    """Raises ControlError (not-found), alike for an unknown one and for somebody else's."""
    _one(connection.execute(delete(passkeys).where(*_is(user_id, id_))).rowcount, id_)


def find(connection: Connection, credential_id: bytes) -> Row[Any] | None:
    """A passkey with its person's id, name and `handle`; None: unknown, or its person is locked out."""
    chosen = (
        select(passkeys, users.c.handle, users.c.name.label("person"))
        .join(users, users.c.id == passkeys.c.user_id)
        .where(passkeys.c.credential_id == credential_id, users.c.disabled == 0)
    )
    return connection.execute(chosen).one_or_none()


def used(connection: Connection, row: Row[Any], count: int, now_ms: int) -> bool:
    """Note its count. False: it did not grow, so there is a copy of the authenticator (WebAuthn 6.1.1)."""
    grows = passkeys.c.sign_count < count if count else passkeys.c.sign_count == 0
    here = update(passkeys).where(passkeys.c.credential_id == row.credential_id, grows)
    return connection.execute(here.values(sign_count=count, used_at=now_ms)).rowcount == 1


def _is(user_id: int, id_: str) -> tuple[Any, Any]:
    try:
        credential_id = bytes.fromhex(id_)
    except ValueError:
        credential_id = b""
    return passkeys.c.user_id == user_id, passkeys.c.credential_id == credential_id


def _one(count: int, id_: str) -> None:
    if not count:
        raise ControlError(f"there is no passkey {shown(id_[:16])} of yours", "load the page again", "not-found")
