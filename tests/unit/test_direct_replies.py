"""What the application hears of a verdict: one true line, of the right class, short, printable, without secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.diagnosis import diagnose
from relay.listener.direct import MAX_TEXT, verdict_reply
from relay.mail.errors import StorageFailed
from relay.mail.outcome import Refused, Stage
from relay.mail.reply import Reply
from relay.queue.model import State
from relay.queue.verdicts import Verdicts
from relay.telemetry.redaction import mask
from tests.store import Store, open_store

SHOWN = "0abcdefghjkmn"
GONE = Reply(550, "5.1.1", "no such user")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as opened:
        opened.queue.verdicts.open()
        yield opened


async def _said(verdicts: Verdicts, *states: State, reply: Reply | None = GONE, advice: str = "Unknown.") -> Reply:
    expected = verdicts.expect(7, len(states), 1)
    for number, state in enumerate(states):
        expected.report(number, state, reply, advice)
        verdicts.recorded(7, [number])
    return await verdict_reply(expected, SHOWN, 0.01)


async def test_relayed_queued_and_both(store: Store) -> None:
    verdicts = store.queue.verdicts
    assert str(await _said(verdicts, State.RELAYED)) == f"250 2.0.0 Ok: relayed as {SHOWN}"
    assert str(await _said(verdicts, State.DEFERRED)) == f"250 2.0.0 Ok: queued as {SHOWN}"
    assert str(await _said(verdicts, State.BOUNCED, State.DEFERRED)) == f"250 2.0.0 Ok: queued as {SHOWN}"
    mixed = await _said(verdicts, State.RELAYED, State.BOUNCED, State.RELAYED)
    assert str(mixed) == f"250 2.0.0 Ok: 1 of 3 recipients were refused, see {SHOWN}"
    nothing = verdicts.expect(8, 1, 1)
    assert str(await verdict_reply(nothing, SHOWN, 0.01)) == f"250 2.0.0 Ok: queued as {SHOWN}"


async def test_a_refusal_names_cause_remedy_words_and_id(store: Store) -> None:
    diagnosis = diagnose(Refused(GONE, Stage.RCPT))
    advice = f"{diagnosis.cause} {diagnosis.remedy[0]}"
    said = await _said(store.queue.verdicts, State.BOUNCED, advice=advice)
    assert (said.code, said.status) == (550, "5.1.1")
    assert said.text == f"{advice} The provider said: no such user ({SHOWN})"
    ours = Reply(554, "5.6.3", "not offered: 8-bit text, and mx.example has no 8BITMIME")
    objection = await _said(store.queue.verdicts, State.BOUNCED, reply=ours, advice=advice)
    assert objection.text == f"{advice} What happened: {ours.text} ({SHOWN})"
    both = await _said(store.queue.verdicts, State.BOUNCED, State.BOUNCED, advice=advice)
    assert both.text.startswith(f"All 2 recipients were refused, the first: {diagnosis.cause}")


@pytest.mark.parametrize(
    ("reply", "code", "status"),
    [
        (Reply(550, "", "no"), 550, "5.0.0"),
        (Reply(552, "5.3.4", "big"), 552, "5.3.4"),
        (Reply(421, "4.7.0", "sandbox"), 554, "5.0.0"),  # the catalogue knows 4yz replies that last
        (Reply(450, "", "later"), 554, "5.0.0"),
        (None, 554, "5.0.0"),
    ],
)
async def test_the_class_is_always_5(store: Store, reply: Reply | None, code: int, status: str) -> None:
    said = await _said(store.queue.verdicts, State.BOUNCED, reply=reply)
    assert (said.code, said.status) == (code, status)


async def test_a_secret_the_provider_echoes_is_masked_even_across_the_cut(store: Store) -> None:
    secret = "p" + "4ssw0rd" * 400
    mask(secret)
    for before in ("", "x" * 300, "x" * 1000):
        said = await _said(store.queue.verdicts, State.BOUNCED, reply=Reply(554, "5.7.0", f"{before} {secret} wrong"))
        assert "4ssw0rd" not in said.text


async def test_nothing_is_noted_of_who_may_have_hung_up(store: Store) -> None:
    verdicts = store.queue.verdicts
    expected = verdicts.expect(7, 1, 1)
    expected.report(0, State.BOUNCED, GONE, "gone")
    verdicts.recorded(7, [0])
    noted: list[int] = []

    async def note(message_id: int) -> None:
        noted.append(message_id)

    verdicts.note_heard = note  # type: ignore[method-assign]
    assert (await verdict_reply(expected, SHOWN, 1, present=lambda: False)).code == 550
    assert noted == []


async def test_a_store_that_fails_to_note_it_changes_nothing_about_the_verdict(store: Store) -> None:
    async def fails(message_id: int) -> None:
        raise StorageFailed("no")

    store.queue.verdicts.note_heard = fails  # type: ignore[method-assign]
    assert (await _said(store.queue.verdicts, State.BOUNCED)).code == 550


@given(st.text(max_size=3000), st.text(max_size=3000), st.integers(1, 1000))
def test_whatever_a_provider_says_becomes_one_short_printable_line(advice: str, words: str, recipients: int) -> None:
    class _Noting(Verdicts):
        async def note_heard(self, message_id: int) -> None:
            pass

    async def run() -> Reply:
        verdicts = _Noting(None)  # type: ignore[arg-type]
        verdicts.open()
        return await _said(verdicts, *[State.BOUNCED] * recipients, reply=Reply(550, "5.1.1", words), advice=advice)

    said = asyncio.run(run())
    assert len(said.text) <= MAX_TEXT
    assert said.text.isascii()
    assert said.text.isprintable()
    assert said.text.endswith(f"({SHOWN})")
    wire = said.to_wire()
    assert wire.count(b"\r\n") == 1
    assert len(wire) <= 512
