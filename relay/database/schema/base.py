"""What all tables share: the names of constraints, and the types of ids and times."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, MetaData

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

# Ids and times (milliseconds since 1970, UTC) need 63 bits; SQLite's row id is an INTEGER of that size.
Id = BigInteger().with_variant(Integer(), "sqlite")
Milliseconds = BigInteger

FAR_FUTURE_MS = 1 << 52  # due never: held
