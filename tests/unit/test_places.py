"""Who may have how much under way at once, on the control socket and in the web process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from relay.console.identity import Caller
from relay.console.pages.jobs import Jobs
from relay.control.access.model import Principal
from relay.control.access.places import ALL, OF_ONE, OF_OWNERS, OF_WEB, Places
from relay.control.client import ControlClient
from relay.control.refusal import ControlError


def owner(number: int) -> Principal:
    return Principal(f"console:{number}", frozenset(), frozenset({number}), user_id=number)


def taken(stack: ExitStack, places: Places, principals: list[Principal]) -> int:
    """How many of them found a place."""
    count = 0
    for principal in principals:
        with suppress(ControlError):
            stack.enter_context(places.of(principal))
            count += 1
    return count


def test_one_person_owners_and_the_web_leave_places_to_others() -> None:
    places, admin = Places(), Principal("console:admin", frozenset(("read",)), user_id=99)
    with ExitStack() as stack:
        assert taken(stack, places, [owner(1)] * 100) == OF_ONE
        assert taken(stack, places, [owner(number) for number in range(2, 100)]) == OF_OWNERS - OF_ONE
        assert taken(stack, places, [admin] * 100) == OF_ONE
        for _ in range(OF_WEB):
            stack.enter_context(places.of_web())
        with pytest.raises(ControlError) as refused, places.of_web():
            pass
        assert (refused.value.kind, refused.value.wait_s) == ("throttled", 2)
    assert OF_OWNERS < OF_WEB < ALL
    with ExitStack() as stack:
        assert taken(stack, places, [owner(1)] * 100) == OF_ONE  # all went back


@asynccontextmanager
async def answering(done: asyncio.Event) -> AsyncIterator[ControlClient]:
    """Behind a control socket, a daemon that does everything as soon as `done` is set."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            await done.wait()
            writer.write(b'{"ok": {}}\n')
        writer.close()

    with tempfile.TemporaryDirectory() as folder:  # the path of a socket is short
        async with await asyncio.start_unix_server(answer, f"{folder}/control.sock"):
            yield ControlClient(Path(folder))
        done.set()


def caller(name: str, client: ControlClient, *, is_owner: bool = True) -> Caller:
    return Caller(name, is_owner, frozenset(), f"csrf {name}", 600, client, {"session": name})


async def test_one_owner_fills_no_place_of_others_in_the_web_process() -> None:
    jobs, done = Jobs(), asyncio.Event()
    done.set()
    async with answering(done) as quick, answering(asyncio.Event()) as never:
        for _ in range(300):
            job = jobs.start(caller("ann", quick), "account.test", {})
            assert job.task is not None
            await job.task
        assert jobs.of(caller("ann", quick), job.id) is job
        with pytest.raises(ControlError):
            jobs.of(caller("bob", quick), job.id)
        started = 0
        for number in range(100):
            for _ in range(4):
                with suppress(ControlError):
                    jobs.start(caller(f"owner {number}", never), "account.test", {})
                    started += 1
        assert 100 < started <= 150
        jobs.start(caller("admin", never, is_owner=False), "key.rotate", {})
        tasks = [job.task for job in jobs._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
