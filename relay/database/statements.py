"""Hot statements: written in SQLAlchemy Core for a number of rows, compiled once for each, run by the driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.elements import ClauseElement

MOST_ROWS = 32  # in one statement; each number up to this is compiled when it first comes

Rows = list[dict[str, BindParameter[Any]]]


class Prepared:
    """`build` makes the statement for so many rows of bind parameters, each a dict by the names in `columns`.

    Two savings.  Core is not executed but compiled once (it costs a fifth of the accepting path).  And the rows of a
    batch go into one statement: the driver lets go of the interpreter's lock at each one, and taking it back from a
    busy event loop costs more than the statement.
    """

    def __init__(
        self, columns: Sequence[str], build: Callable[[Rows], ClauseElement], *, most_rows: int = MOST_ROWS
    ) -> None:
        """`most_rows` 1: the statement cannot take several; the driver then runs it again for each."""
        self._columns = tuple(columns)
        self._build = build
        self._most_rows = most_rows

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Execute for every row (values in the order of `columns`); the number of rows changed in all.

        Values must fit the driver's own types.
        """
        changed = 0
        if rows:
            cursor = connection.connection.cursor()
            try:
                if self._most_rows == 1:
                    sql, order = _compiled(self, 1, connection.dialect)
                    cursor.executemany(
                        sql, rows if order is None else [[row[place] for place in order] for row in rows]
                    )
                    return int(cursor.rowcount)
                for start in range(0, len(rows), self._most_rows):
                    part = rows[start : start + self._most_rows]
                    sql, order = _compiled(self, len(part), connection.dialect)
                    values = tuple(chain.from_iterable(part))
                    cursor.execute(sql, values if order is None else [values[place] for place in order])
                    changed += cursor.rowcount
            finally:
                cursor.close()
        return changed

    def _statement(self, count: int) -> ClauseElement:
        return self._build([{name: bindparam(f"{name}_{row}") for name in self._columns} for row in range(count)])

    def _place(self, parameter: str) -> int:
        name, _, row = parameter.rpartition("_")
        return int(row) * len(self._columns) + self._columns.index(name)


@lru_cache(maxsize=512)
def _compiled(prepared: Prepared, count: int, dialect: Dialect) -> tuple[str, list[int] | None]:
    """The SQL for `count` rows, and the places of its parameters among the flattened rows (None: as they come)."""
    compiled = prepared._statement(count).compile(dialect=dialect)
    order = [prepared._place(name) for name in compiled.positiontup or ()]  # type: ignore[attr-defined]
    return str(compiled), None if order == list(range(len(order))) else order
