"""Remembers replies that the catalogue has no entry for, so that it can get one: how often, where, in which words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from relay.database.engine import Database
from relay.database.schema import unknown_replies
from relay.database.writer import Call
from relay.diagnosis import Diagnosis
from relay.diagnosis.catalogue import FALLBACKS
from relay.mail.outcome import Outcome, Refused
from relay.telemetry import get_logger
from relay.telemetry.cleaning import clean_text

log = get_logger()

# What an entry is called when only code or stage were known.
UNKNOWN = FALLBACKS | {"auth-refused", "greeting-refused", "starttls-refused", "protocol-error", "token-refused"}
MOST_KEPT = 500
_LONGEST = 300  # octets
_ADDRESS = re.compile(r"<?[^\s<>@,;:()]+@[^\s<>,;:()]+>?")
_NUMBERED = re.compile(r"(?<![\w.])(?=[\w.:/+=-]*\d)[\w.:/+=-]{6,}")  # ids, times, addresses of machines
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


@dataclass(frozen=True, slots=True)
class UnknownReply:
    """`sample`: the latest such reply without addresses and ids. Times are ms since 1970."""

    provider: str
    stage: str
    sample: str
    count: int
    first_seen: int
    last_seen: int


class UnknownReplies:
    """`note` never waits: rows are written with what else is."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database, self._clock = database, clock

    def heard(self, provider: str, outcome: Outcome, diagnosis: Diagnosis) -> None:
        """Note what was said, if it was said by the upstream and the catalogue knows no better."""
        if isinstance(outcome, Refused) and diagnosis.id in UNKNOWN:
            self.note(provider, outcome.stage.value, str(outcome.reply))

    def note(self, provider: str, stage: str, reply: str) -> None:
        """An upstream said this."""
        now = self._clock()
        written = self._database.submit_patiently(
            Call(lambda connection: remember(connection, provider, stage, reply, now))
        )
        written.add_done_callback(_done)


def remember(connection: Connection, provider: str, stage: str, reply: str, now_ms: int) -> None:
    """Count one; of MOST_KEPT kinds the one seen longest ago makes room for a new one."""
    sample = without_particulars(reply)
    shape = sample.lower()
    table = unknown_replies
    here = (table.c.provider == provider, table.c.stage == stage, table.c.shape == shape)
    counted = update(table).where(*here).values(count=table.c.count + 1, last_seen=now_ms, sample=sample)
    if connection.execute(counted).rowcount:
        return
    if (connection.scalar(select(func.count()).select_from(table)) or 0) >= MOST_KEPT:
        oldest = connection.execute(select(table).order_by(table.c.last_seen).limit(1)).one()
        gone = (table.c.provider == oldest.provider, table.c.stage == oldest.stage, table.c.shape == oldest.shape)
        connection.execute(delete(table).where(*gone))
    values = {"provider": provider, "stage": stage, "shape": shape, "sample": sample, "count": 1}
    connection.execute(insert(table).values(**values, first_seen=now_ms, last_seen=now_ms))


def all_unknown(connection: Connection) -> list[UnknownReply]:
    """Those seen most often first."""
    table = unknown_replies
    columns = (table.c.provider, table.c.stage, table.c.sample, table.c.count, table.c.first_seen, table.c.last_seen)
    rows = connection.execute(select(*columns).order_by(table.c.count.desc(), table.c.last_seen.desc()))
    return [UnknownReply(**row._mapping) for row in rows]


def without_particulars(reply: str) -> str:
    """A reply as it can be shown to anybody: no address, no id, no time, no secret; bounded."""
    text = _ADDRESS.sub("<address>", clean_text(reply, 2 * _LONGEST))
    text = _NUMBERED.sub(lambda hit: hit[0] if _STATUS.fullmatch(hit[0]) else "#", text)
    return clean_text(text, _LONGEST)


def _done(written: asyncio.Future[None]) -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        log.warning("storage.failed", where="unknown replies", detail=str(error))
