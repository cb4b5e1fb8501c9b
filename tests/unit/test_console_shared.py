"""Many open pages ask the daemon once, get nothing when nothing changed, and never what a change has made untrue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from fastapi import Request

from relay.console.identity import Caller
from relay.console.pages import shared as module
from relay.console.pages.shared import Shared, sent
from relay.control.client import ControlClient
from relay.control.refusal import ControlError
from relay.control.wire import SOCKET_NAME

SUMMARY = {"deliveries": 0, "oldest_s": 0, "states": {}, "accounts": []}


class Daemon:
    """A control socket that gives `answers` in turn, the last one again and again, each once it `may`."""

    def __init__(self, *answers: dict[str, object]) -> None:
        self.answers, self.asked = list(answers), list[str]()
        self.may, self.news = asyncio.Event(), asyncio.Event()
        self.may.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(json.loads(await reader.readline())["action"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.news.set()
        await self.may.wait()
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()


@asynccontextmanager
async def asking(daemon: Daemon, folder: Path) -> AsyncIterator[ControlClient]:
    server = await asyncio.start_unix_server(daemon.serve, folder / SOCKET_NAME)
    async with server:
        yield ControlClient(folder)


def caller(client: ControlClient, changes: int = 0) -> Caller:
    return Caller("admin", False, frozenset(), "csrf", 600, client, {"session": "s"}, changes)


def request(**headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": pairs})


async def test_many_ask_at_once_and_the_daemon_is_asked_once_in_a_while(tmp_path: Path) -> None:
    now = 100.0
    daemon = Daemon({"ok": {"n": 1}}, {"ok": {"n": 2}})
    async with asking(daemon, tmp_path) as client:
        shared, who = Shared(client, clock=lambda: now), caller(client)
        seen = await asyncio.gather(*(shared.now(who, "overview") for _ in range(10)))
        assert seen == [({"n": 1}, None)] * 10
        now += 1.9
        assert (await shared.now(who, "overview")).answer == {"n": 1}
        now += 0.2
        assert await shared.now(who, "overview") == ({"n": 2}, None)
    assert daemon.asked == ["overview"] * 2


async def test_a_refusal_is_not_kept(tmp_path: Path) -> None:
    daemon = Daemon({"error": {"text": "no", "remedy": "try again"}}, {"ok": {"n": 1}})
    async with asking(daemon, tmp_path) as client:
        shared = Shared(client, clock=lambda: 1.0)
        with pytest.raises(ControlError):
            await shared.now(caller(client), "overview")
        assert (await shared.now(caller(client), "overview")).answer == {"n": 1}


async def test_while_a_new_answer_is_slow_the_last_one_is_shown_with_its_age_but_not_for_long(tmp_path: Path) -> None:
    now = 100.0
    daemon = Daemon({"ok": {"n": 1}}, {"ok": {"n": 2}})
    async with asking(daemon, tmp_path) as client:
        shared, who = Shared(client, clock=lambda: now), caller(client)
        await shared.now(who, "overview")
        daemon.may.clear()
        now += 5
        answer, since_ms = await shared.now(who, "overview")
        assert answer == {"n": 1}
        assert since_ms is not None
        now += 25
        waiting = asyncio.create_task(shared.now(who, "overview"))
        await asyncio.wait((waiting,), timeout=0.15)  # longer than a page is patient
        assert not waiting.done()
        daemon.may.set()
        assert await waiting == ({"n": 2}, None)
    assert daemon.asked == ["overview"] * 2


async def test_nothing_from_before_a_change_is_shown_however_slow_the_new_answer_is(tmp_path: Path) -> None:
    daemon = Daemon({"ok": {"n": 1}, "changes": 7}, {"ok": {"n": 2}, "changes": 7}, {"ok": {"n": 3}, "changes": 8})
    now = 100.0
    async with asking(daemon, tmp_path) as client:
        shared = Shared(client, clock=lambda: now)
        assert (await shared.now(caller(client, 7), "overview")).answer == {"n": 1}
        daemon.may.clear()
        now += 5
        assert (await shared.now(caller(client, 7), "overview")).answer == {"n": 1}  # and asks for another
        after = asyncio.create_task(shared.now(caller(client, 8), "overview"))
        await asyncio.wait((after,), timeout=0.15)
        assert not after.done()
        daemon.may.set()
        assert await after == ({"n": 3}, None)  # what was asked for before the change did not do


async def test_figures_are_kept_warm_while_somebody_may_be_signed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REST_S", 0.0)
    now = 100.0
    daemon = Daemon({"ok": {"n": 1}})
    async with asking(daemon, tmp_path) as client:
        shared = Shared(client, idle_s=60, clock=lambda: now)
        keeping = asyncio.create_task(shared.keep(0.0))
        await until_asked(daemon, 3)
        now += 61
        while await until_asked(daemon, len(daemon.asked) + 1):
            pass  # the last ones
        shared.used()
        assert await until_asked(daemon, len(daemon.asked) + 1)
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


async def until_asked(daemon: Daemon, times: int) -> bool:
    """False: it is not asked so often within a tenth of a second each."""
    while len(daemon.asked) < times:
        daemon.news.clear()
        try:
            await asyncio.wait_for(daemon.news.wait(), 0.1)
        except TimeoutError:
            return False
    return True


def test_whoever_shows_it_already_gets_nothing() -> None:
    shared = Shared(ControlClient(Path("nowhere")))
    seen = {"waits": SUMMARY}
    first = shared.fragment("queue_waits.html", seen=seen, since=None)
    assert shared.fragment("queue_waits.html", seen=seen, since=None) is first
    assert sent(request(), first).body == first.text.encode()
    again = shared.fragment("queue_waits.html", seen=dict(seen), since=None)
    assert sent(request(if_none_match=first.tag), again).status_code == 304
    other = shared.fragment("queue_waits.html", seen={"waits": SUMMARY | {"deliveries": 7}}, since=None)
    assert sent(request(if_none_match=first.tag), other).status_code == 200
    assert b"7 deliveries" in sent(request(), other).body
    old = shared.fragment("queue_waits.html", seen=seen, since=1_764_000_000_000)
    assert old.old
    assert "2025-11-24 16:00 UTC" in old.text


def test_what_comes_from_outside_stays_text() -> None:
    line = json.dumps({"event": "<b>x</b>", "level": "info", "detail": "<script>"})
    fragment = Shared(ControlClient(Path("nowhere"))).fragment("log_lines.html", told=[{"line": line}])
    assert "<script>" not in fragment.text
    assert "&lt;script&gt;" in fragment.text
