"""What commands print: tables and lines for people, JSON for programs, one line for a refusal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_WIDE = 4000  # columns when nobody looks: a line is never broken for a program


def complain(text: str) -> None:
    """The one line on standard error that says why not, and what to do."""
    sys.stderr.write(f"relay: {printable(text)}\n")
    sys.stderr.flush()


def note(text: str) -> None:
    """A remark beside the result: on standard error, so that it never gets into JSON."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def say(text: str = "") -> None:
    """One line of result."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def print_json(result: Any) -> None:
    """Indented for the eye of who writes the program; no character can act on a terminal."""
    sys.stdout.write(json.dumps(result, ensure_ascii=True, indent=2) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str) -> None:
    """Rows under their headings; `nothing` is said when there are none. None is shown as "-"."""
    cells = [["-" if cell is None or cell == "" else printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        say(nothing)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else _WIDE, highlight=False).print(drawn)
    sys.stdout.flush()


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Name and value, a line each; those without a value are left out."""
    shown = [(name, str(value)) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{name.ljust(width)}  {value}")


def steps(remedy: Sequence[str]) -> None:
    """What to do, numbered."""
    for number, step in enumerate(remedy, 1):
        say(f"  {number}. {step}")


def printable(text: str) -> str:
    """Control characters escaped: what an upstream or an application wrote never acts on the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def moment(at: str | None) -> str | None:
    """A time of JSON for people: seconds are enough."""
    return None if at is None else f"{at[:19].replace('T', ' ')}Z"


def local_moment(at: str | None, now: datetime) -> str | None:
    """A time of JSON in the zone of `now`: `17:40` today, `Thu 17:40` within a week, else with its date."""
    if at is None:
        return None
    local = datetime.fromisoformat(at).astimezone(now.tzinfo)
    days = (local.date() - now.date()).days
    if days == 0:
        return f"{local:%H:%M}"
    return f"{local:%a %H:%M}" if 0 < days < 7 else f"{local:%Y-%m-%d %H:%M}"


def age(seconds: int) -> str:
    """`3d 4h`, `5m`, `12s`."""
    for unit, size, lesser, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            return f"{whole}{unit} {rest // part}{lesser}" if rest // part else f"{whole}{unit}"
    return f"{seconds}s"
