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

Row = dict[str, BindParameter[Any]]
Rows = list[Row]


class Prepared:
    """`build` makes the statement for so many rows of bind parameters, each a dict by the names in `columns`.

    Two savings.  Core is not executed but compiled once (it costs a fifth of the accepting path).  And the rows of a
    batch go into one statement: the driver lets go of the interpreter's lock at each one, and taking it back from a
    busy event loop costs more than the statement (measured: half of a batch's time).
    """

    def __init__(
        self,
        columns: Sequence[str],
        build: Callable[[Rows, Row], ClauseElement],
        *,
        shared: Sequence[str] = (),
        most_rows: int = MOST_ROWS,
    ) -> None:
        """`shared` names parameters that all rows of a statement have in common; `build` gets them as its second.

        `most_rows` 1: the statement cannot take several; the driver then runs it again for each.
        """
        self._columns = tuple(columns)
        self._shared = tuple(shared)
        self._build = build
        self._most_rows = most_rows

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]], shared: Sequence[Any] = ()) -> int:
        """Execute for every row (values in the order of `columns`); the number of rows changed in all.

        Values must fit the driver's own types.
        """
        if not rows:
            return 0
        changed = 0
        cursor = connection.connection.cursor()
        try:
            if self._most_rows == 1:
                sql, order = _compiled(self, 1, connection.dialect)
                cursor.executemany(sql, rows if order is None else [[row[place] for place in order] for row in rows])
                return int(cursor.rowcount)
            for start in range(0, len(rows), self._most_rows):
                part = rows[start : start + self._most_rows]
                sql, order = _compiled(self, len(part), connection.dialect)
                values = (*shared, *chain.from_iterable(part))
                cursor.execute(sql, values if order is None else [values[place] for place in order])
                changed += cursor.rowcount
        finally:
            cursor.close()
        return changed

    def first(self, connection: Connection, row: Sequence[Any]) -> Any:
        """The first row of a query made for one row of parameters, or None."""
        sql, order = _compiled(self, 1, connection.dialect)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(sql, row if order is None else [row[place] for place in order])
            return cursor.fetchone()
        finally:
            cursor.close()

    def _statement(self, count: int) -> ClauseElement:
        rows: Rows = [{name: bindparam(f"{name}_{row}") for name in self._columns} for row in range(count)]
        return self._build(rows, {name: bindparam(f"{name}_shared") for name in self._shared})

    def _place(self, parameter: str) -> int:
        name, _, row = parameter.rpartition("_")
        if row == "shared":
            return self._shared.index(name)
        return len(self._shared) + int(row) * len(self._columns) + self._columns.index(name)


@lru_cache(maxsize=512)
def _compiled(prepared: Prepared, count: int, dialect: Dialect) -> tuple[str, list[int] | None]:
    """The SQL for `count` rows, and the places of its parameters among the flattened rows (None: as they come)."""
    compiled = prepared._statement(count).compile(dialect=dialect)
    order = [prepared._place(name) for name in compiled.positiontup or ()]  # type: ignore[attr-defined]
    return str(compiled), None if order == list(range(len(order))) else order
