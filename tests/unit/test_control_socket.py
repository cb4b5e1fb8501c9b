"""The control socket: mode, bounds, refusals, progress, and who was there."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import sqlite3
import stat
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay.config.settings import RelaySettings
from relay.control import wire
from relay.control.context import ControlError
from relay.control.socket import ControlServer
from relay.daemon.build import open_control
from tests.store import lay_store

SECRET = "hunter2-in-a-request"


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    folder = tmp_path / ("deep-" * 30)  # longer than a socket address may be
    async with open_control(RelaySettings(data_dir=lay_store(folder))) as control:
        server = ControlServer(folder, control)
        await server.start()
        yield folder
        await server.stop()


# Commands are processes of their own: their threads must not be those that the server here reads the store with.
COMMANDS = ThreadPoolExecutor(20)


async def call(data_dir: Path, action: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(COMMANDS, partial(wire.call, data_dir, action, arguments or {}, **more))


async def raw(data_dir: Path, octets: bytes) -> dict[str, Any]:
    """The one answer to `octets`."""

    def exchange() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection, wire.reachable(data_dir) as address:
            connection.settimeout(20)
            connection.connect(address)
            try:
                connection.sendall(octets)
            except BrokenPipeError:
                pass  # it has heard enough
            with connection.makefile("rb") as lines:
                return lines.readline()

    answer = json.loads(await asyncio.get_running_loop().run_in_executor(COMMANDS, exchange))
    assert isinstance(answer, dict)
    return answer


async def test_only_its_owner_may_connect(data_dir: Path) -> None:
    facts = (data_dir / wire.SOCKET_NAME).stat()
    assert stat.S_ISSOCK(facts.st_mode)
    assert stat.S_IMODE(facts.st_mode) == 0o600


async def test_an_action_is_done_for_who_asked(data_dir: Path) -> None:
    added = {"address": "ann@example.com", "host": "mail.example.com", "password": SECRET}
    assert (await call(data_dir, "account.add", added))["address"] == "ann@example.com"
    [entry] = await call(data_dir, "audit")
    assert entry["actor"] == pwd.getpwuid(os.geteuid()).pw_name
    told: list[Mapping[str, Any]] = []
    lines = await call(data_dir, "check", {"login": False}, on_progress=told.append)
    assert told == lines


async def test_every_answer_says_how_far_the_changes_had_come(data_dir: Path) -> None:
    async def changes(action: str, **arguments: Any) -> int:
        return int((await raw(data_dir, json.dumps({"action": action, "args": arguments}).encode() + b"\n"))["changes"])

    before = await changes("account.list")
    assert await changes("overview", waits=True) == before
    added = {"address": "ann@example.com", "host": "mail.example.com", "password": SECRET}
    assert await changes("account.add", **added) == before  # as it was before that
    after = await changes("account.list")
    assert after > before
    assert await changes("account.list") == after


async def test_a_refusal_comes_with_its_remedy(data_dir: Path) -> None:
    with pytest.raises(ControlError) as caught:
        await call(data_dir, "account.show", {"account": "nobody@example.com"})
    assert caught.value.text == "there is no account nobody@example.com"
    assert caught.value.remedy == "`relay account list` shows them"


@pytest.mark.parametrize(
    "octets",
    [
        b"\n",
        b"hunter2-in-a-request\n",
        b'["account.list", {}]\n',
        b'{"action": "account.list"}\n',
        b'{"action": 1, "args": {}}\n',
        b'{"action": "account.list", "args": {"password": "hunter2-in-a-request"}}\n',
        b'{"action": "account.set_password", "args": {"account": ["hunter2-in-a-request"], "password": ""}}\n',
        b'{"action": "client.add", "args": {"name": "x", "networks": ["10.0.0.0/8"]}, "as": null}\n',
        b'{"action": "client.add", "args": {"name": "x", "networks": ["10.0.0.0/8"]}, "as": "console:admin"}\n',
        b'{"action": "client.add", "args": {"name": "x", "networks": ["10.0.0.0/8"]}, "as": {}}\n',
        b'{"action": "client.add", "args": {"name": "x", "networks": ["10.0.0.0/8"]}, "as": {"session": ""}}\n',
        b"\xff\xfe\n",
        b'{"action": "' + b"x" * (wire.MAX_LINE + 10) + b'"}\n',
    ],
)
async def test_what_is_no_request_is_refused_and_not_repeated(data_dir: Path, octets: bytes) -> None:
    answer = await raw(data_dir, octets)
    assert answer["error"]["remedy"]
    assert SECRET not in json.dumps(answer)
    assert await call(data_dir, "account.list") == await call(data_dir, "client.list") == []


async def test_a_name_that_is_no_utf8_is_refused(data_dir: Path) -> None:
    with pytest.raises(ControlError):
        await call(data_dir, "account.show", {"account": "\udcff@example.com"})


async def test_commands_beside_each_other_all_get_an_answer(data_dir: Path) -> None:
    names = [f"client-{number}" for number in range(20)]
    await asyncio.gather(
        *(
            call(data_dir, "client.add", {"name": name, "networks": [f"10.0.{number}.0/24"]})
            for number, name in enumerate(names)
        )
    )
    assert [entry["name"] for entry in await call(data_dir, "client.list")] == sorted(names)


async def test_a_stale_socket_is_replaced_and_a_closed_one_is_gone(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / wire.SOCKET_NAME))
    stale.close()
    with pytest.raises(wire.NoDaemon):
        await call(tmp_path, "account.list")
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path))) as control:
        server = ControlServer(tmp_path, control)
        await server.start()
        assert await call(tmp_path, "account.list") == []
        await server.stop()
    assert not (tmp_path / wire.SOCKET_NAME).exists()
    with pytest.raises(wire.NoDaemon):
        await call(tmp_path, "account.list")


async def test_a_bug_is_answered_without_its_insides(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = sqlite3.connect(data_dir / "relay.db")
    broken.execute("DROP TABLE audit")
    broken.commit()
    broken.close()
    with pytest.raises(ControlError) as caught:
        await call(data_dir, "audit")
    assert str(caught.value) == "the daemon failed over it; see daemon.fault in its log"
    assert "control audit" in capfd.readouterr().err
