"""Recovery codes: ten that count once each, for whoever lost the second factor; shown once, kept as hashes."""

from __future__ import annotations

import base64
import hashlib
import secrets

from sqlalchemy import Connection, delete, func, insert, select

from relay.database.schema import console_recovery_codes as codes

COUNT = 10
_BYTES = 10  # 80 random bits: a plain hash is enough
_LENGTH = 16  # of base 32


def renew(connection: Connection, user_id: int) -> list[str]:
    """Ten new ones in place of whatever there was."""
    connection.execute(delete(codes).where(codes.c.user_id == user_id))
    made = [base64.b32encode(secrets.token_bytes(_BYTES)).decode().lower() for _ in range(COUNT)]
    for code in made:
        connection.execute(insert(codes).values(code_hash=_hashed(user_id, code), user_id=user_id))
    return ["-".join(code[at : at + 4] for at in range(0, _LENGTH, 4)) for code in made]


def use(connection: Connection, user_id: int, code: str) -> bool:
    """Was it one of theirs? It counts no more then."""
    typed = "".join(code.replace("-", " ").split()).lower()
    if len(typed) != _LENGTH or not typed.isascii():
        return False
    here = delete(codes).where(codes.c.code_hash == _hashed(user_id, typed), codes.c.user_id == user_id)
    return connection.execute(here).rowcount == 1


def left(connection: Connection, user_id: int) -> int:
    """How many they have."""
    return connection.execute(select(func.count()).where(codes.c.user_id == user_id)).scalar_one()


def _hashed(user_id: int, code: str) -> bytes:
    return hashlib.sha256(f"{user_id} {code}".encode()).digest()
