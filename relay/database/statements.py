"""One statement for a whole group commit: rows of several kinds, and a trigger for each kind that stores it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

MOST_ROWS = 64  # in one statement
_STEP = 4  # statements have a multiple of so many rows, the last ones empty: few of them to keep compiled
Statement = tuple[str, Sequence[Any]]  # with its parameters, as psycopg takes both
Plan = Callable[[Sequence[tuple[Any, ...]]], list[Statement]]
_PARAMETER = re.compile(r":(\w+)")


class Batch:
    """A temporary view of the write connection; inserting into it does what the `kinds` of its rows say.

    Why one statement: the driver lets go of the interpreter's lock several times in each, and the event loop takes it
    every time.  With a statement for each table and a BEGIN and COMMIT around them, two thirds of what storing cost
    was that (docs/decisions/0004).  A single statement is its own transaction, so BEGIN and COMMIT go as well.
    """

    def __init__(
        self, name: str, kinds: Sequence[tuple[Sequence[str], str]], postgresql: Callable[[], Plan] | None = None
    ) -> None:
        """Each kind: the names of its values, and SQL statements that refer to them as `:name`.

        A row is the number of its kind, from 1, and its values in that order.  `postgresql` gives the form for that
        engine, loaded when it is asked for.
        """
        self._name = name
        self._postgresql = postgresql
        self._width = 1 + max(len(names) for names, _ in kinds)
        self._definition = _definition(name, kinds, self._width)
        self._row = f"({','.join('?' * self._width)})"

    def commit(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Store all rows durably, or none of them. No transaction may be open; values must fit the driver's types."""
        driver = self._prepared(connection)
        if len(rows) <= MOST_ROWS:
            self._execute(driver, rows)
            return
        driver.execute("BEGIN IMMEDIATE")
        try:
            for start in range(0, len(rows), MOST_ROWS):
                self._execute(driver, rows[start : start + MOST_ROWS])
            driver.execute("COMMIT")
        except BaseException:
            if driver.in_transaction:  # after some errors SQLite has rolled back already
                driver.execute("ROLLBACK")
            raise

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Store all rows within the transaction that is open."""
        driver = self._prepared(connection)
        for start in range(0, len(rows), MOST_ROWS):
            self._execute(driver, rows[start : start + MOST_ROWS])

    def statements(self, rows: Sequence[tuple[Any, ...]]) -> list[Statement]:
        """What PostgreSQL has to be told for these rows: some statements of one transaction."""
        assert self._postgresql is not None
        return self._postgresql()(rows)

    def _execute(self, driver: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        width = self._width
        values: list[Any] = []
        for row in rows:
            values += row
            values += (None,) * (width - len(row))
        count = -(-len(rows) // _STEP) * _STEP
        values += (None,) * (width * (count - len(rows)))
        rows_sql = ",".join([self._row] * count)
        driver.execute(f"INSERT INTO {self._name} VALUES {rows_sql}", values).close()  # noqa: S608 - our own name

    def _prepared(self, connection: Connection) -> sqlite3.Connection:
        """The driver's connection, which has the view and its triggers since its first use."""
        driver: Any = connection.connection.driver_connection
        if self._name not in connection.info:
            for statement in self._definition:
                driver.execute(statement)
            connection.info[self._name] = True
        return driver  # type: ignore[no-any-return]


def _definition(name: str, kinds: Sequence[tuple[Sequence[str], str]], width: int) -> list[str]:
    columns = ", ".join(f"0 AS v{place}" for place in range(1, width))
    statements = [f"CREATE TEMP VIEW {name} AS SELECT 0 AS kind, {columns}"]
    for number, (names, sql) in enumerate(kinds, 1):
        places = {value: f"NEW.v{place}" for place, value in enumerate(names, 1)}
        body = _PARAMETER.sub(lambda match, places=places: places[match[1]], sql)  # type: ignore[misc]
        statements.append(
            f"CREATE TEMP TRIGGER {name}_{number} INSTEAD OF INSERT ON {name} WHEN NEW.kind = {number} BEGIN {body} END"
        )
    return statements
