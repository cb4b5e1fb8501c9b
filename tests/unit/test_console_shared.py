"""Many open pages ask the daemon once, and get nothing when nothing changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import Request

from relay.console.identity import Caller
from relay.console.pages.shared import Shared, sent
from relay.control.client import ControlClient
from relay.control.refusal import ControlError
from relay.control.wire import SOCKET_NAME

SUMMARY = {"deliveries": 0, "oldest_s": 0, "states": {}, "accounts": []}


class Daemon:
    """A control socket that gives `answers` in turn, the last one again and again; `asked` are the actions."""

    def __init__(self, *answers: dict[str, object]) -> None:
        self.answers, self.asked = list(answers), list[str]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(json.loads(await reader.readline())["action"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()


@asynccontextmanager
async def asking(daemon: Daemon, folder: Path) -> AsyncIterator[Caller]:
    server = await asyncio.start_unix_server(daemon.serve, folder / SOCKET_NAME)
    async with server:
        yield Caller("admin", False, frozenset(), "csrf", 600, ControlClient(folder), {"session": "s"})


def request(**headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": pairs})


async def test_many_ask_at_once_and_the_daemon_is_asked_once_in_a_while(tmp_path: Path) -> None:
    now = 100.0
    shared, daemon = Shared(lambda: now), Daemon({"ok": {"n": 1}}, {"ok": {"n": 2}})
    async with asking(daemon, tmp_path) as caller:
        seen = await asyncio.gather(*(shared.now(caller, "overview") for _ in range(10)))
        assert seen == [{"n": 1}] * 10
        now += 1.9
        assert await shared.now(caller, "overview") == {"n": 1}
        now += 0.2
        assert await shared.now(caller, "overview") == {"n": 2}
    assert daemon.asked == ["overview"] * 2


async def test_a_refusal_is_not_kept(tmp_path: Path) -> None:
    shared = Shared(lambda: 1.0)
    daemon = Daemon({"error": {"text": "no", "remedy": "try again"}}, {"ok": {"n": 1}})
    async with asking(daemon, tmp_path) as caller:
        with pytest.raises(ControlError):
            await shared.now(caller, "overview")
        assert await shared.now(caller, "overview") == {"n": 1}


def test_whoever_shows_it_already_gets_nothing() -> None:
    shared = Shared()
    first = shared.fragment("queue_waits.html", summary=SUMMARY)
    assert shared.fragment("queue_waits.html", summary=SUMMARY) is first
    assert sent(request(), first).body == first.text.encode()
    again = shared.fragment("queue_waits.html", summary=dict(SUMMARY))
    assert sent(request(if_none_match=first.tag), again).status_code == 304
    other = shared.fragment("queue_waits.html", summary=SUMMARY | {"deliveries": 7})
    assert sent(request(if_none_match=first.tag), other).status_code == 200
    assert b"7 deliveries" in sent(request(), other).body


def test_what_comes_from_outside_stays_text() -> None:
    line = json.dumps({"event": "<b>x</b>", "level": "info", "detail": "<script>"})
    fragment = Shared().fragment("log_lines.html", told=[{"line": line}])
    assert "<script>" not in fragment.text
    assert "&lt;script&gt;" in fragment.text
