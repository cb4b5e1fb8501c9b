"""Copies every table of a store into an empty one, of either engine, in bounded memory, and proves the copy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Integer, Table, Text, func, insert, select, text

from relay.database.schema import chunks, metadata, writers
from relay.mail.errors import RelayError

_ROWS = 100  # at a time: of `contents` some mebibytes
_OF_ENGINE = (chunks, writers)  # large contents are copied by the queue, which knows their spool
TABLES: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if table not in _OF_ENGINE)


class NotEmpty(RelayError):
    """The store that something was to be copied into holds something."""


class CopyDiffers(RelayError):
    """What was written is not what was read."""


def require_empty(target: Connection) -> None:
    """Raises NotEmpty, which names a table that is not."""
    for table in (*TABLES, chunks):
        if target.execute(select(*table.primary_key.columns).limit(1)).first() is not None:
            raise NotEmpty(f"the store to copy into is not empty: it has {table.name}")


def copy_tables(source: Connection, target: Connection) -> dict[str, int]:
    """Copy all rows; how many there are, by table. Raises CopyDiffers.

    Both connections are in a transaction: of one instant here, all or nothing there.
    """
    counts: dict[str, int] = {}
    for table in TABLES:
        digest, count = 0, 0
        for rows in _batches(source, table):
            target.execute(insert(table), rows)
            digest += sum(_digest(row.values()) for row in rows)
            count += len(rows)
        found = sum(_digest(row.values()) for rows in _batches(target, table) for row in rows)
        there = target.scalar(select(func.count()).select_from(table))
        if found != digest or there != count:
            raise CopyDiffers(f"{table.name}: {count} rows were read, {there} are there, or differ")
        counts[table.name] = count
        _carry_on(source, target, table)
    return counts


def _batches(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    result = connection.execute(select(table), execution_options={"yield_per": _ROWS})
    names = [column.name for column in table.columns]
    texts = frozenset(column.name for column in table.columns if isinstance(column.type, Text))
    for rows in result.partitions():
        yield [_plain(dict(zip(names, row, strict=True)), texts) for row in rows]


def _plain(row: dict[str, Any], texts: frozenset[str]) -> dict[str, Any]:
    """PostgreSQL keeps no NUL in a text; what has one came from outside and is only shown."""
    for name in texts:
        value = row[name]
        if value is not None and "\0" in value:
            row[name] = value.replace("\0", "\ufffd")
    return row


def _digest(values: Any) -> int:
    """Of a row; those of a table are added up, for no two engines sort texts alike."""
    return int.from_bytes(hashlib.sha256(repr(tuple(values)).encode("utf-8", "surrogatepass")).digest()[:16])


def _carry_on(source: Connection, target: Connection, table: Table) -> None:
    """Ids go on where they were: that of a removed account is never given again."""
    column = table.autoincrement_column
    if column is None or not isinstance(column.type, Integer) or "id" not in table.columns:
        return
    highest = max(_highest(source, table), target.scalar(select(func.max(table.c.id))) or 0)
    if not highest:
        return
    if target.dialect.name == "postgresql":
        sequence = text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :highest)")
        target.execute(sequence, {"name": table.name, "highest": highest})
    elif table.dialect_options["sqlite"]["autoincrement"]:
        values: Mapping[str, Any] = {"name": table.name, "highest": highest}
        if not target.execute(text("UPDATE sqlite_sequence SET seq = :highest WHERE name = :name"), values).rowcount:
            target.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :highest)"), values)


def _highest(source: Connection, table: Table) -> int:
    """The largest id that was ever given, as far as the engine knows."""
    if source.dialect.name == "postgresql":
        name = source.scalar(text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": table.name})
        if name is None:
            return 0
        return int(source.scalar(text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {name}")) or 0)  # noqa: S608 - the server's own name
    if not table.dialect_options["sqlite"]["autoincrement"]:
        return 0
    chosen = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
    return int(source.scalar(chosen, {"name": table.name}) or 0)
