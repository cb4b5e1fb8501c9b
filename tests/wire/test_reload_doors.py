"""A door gets other settings, another address or none while sessions go on at it."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from relay.config.settings import ListenerSettings, RelaySettings
from relay.daemon.doors import DoorRefused, Doors, plan
from relay.listener.authentication import Authentication
from relay.listener.rates import Rates
from relay.listener.server import Listener
from tests.wire.door import HOST, OpenDoor, Talker, open_door


def configure(listener: Listener, **settings: object) -> None:
    listener.configure(
        ListenerSettings.model_validate({"port": 0, **settings}), hostname=HOST, tls=None, direct_timeout_s=20
    )


async def test_a_session_ends_under_the_settings_it_began_with(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_recipients=2) as door:
        before = await door.client()
        configure(door.listener, max_recipients=1, max_message_bytes=4096)
        after = await door.connect()
        await after.reply()
        assert "250-SIZE 4096" in await after.say(b"EHLO app.example\r\n")
        for talker, second in ((before, "250 2.1.5"), (after, "452 4.5.3")):
            await talker.say(b"MAIL FROM:<app@example.com>\r\n")
            await talker.say(b"RCPT TO:<ann@example.org>\r\n")
            assert (await talker.say(b"RCPT TO:<bob@example.org>\r\n")).startswith(second)
        assert door.listener.connections == 2


async def test_sessions_of_before_count_against_the_new_limit(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        first = await door.client()
        configure(door.listener, max_connections_per_client=1)
        assert (await (await door.connect()).reply()).startswith("421 4.7.0")
        assert (await first.say(b"QUIT\r\n")).startswith("221")
        assert await first.rest() == b""
        await door.is_served()


async def test_the_backlog_and_the_mode_of_a_socket_change_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with open_door(tmp_path, path=path) as door:
        inode = path.stat().st_ino
        configure_at = ListenerSettings(path=path, path_mode="600", backlog=7)
        door.listener.configure(configure_at, hostname=HOST, tls=None, direct_timeout_s=20)
        assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o600)
        talker = Talker(*await asyncio.open_unix_connection(str(path)))
        assert (await talker.reply()).startswith("220 ")


async def test_who_is_connected_already_is_served_when_the_door_goes(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        port, open_session = door.listener.port, await door.client()
        waiting = socket.create_connection(("127.0.0.1", port))  # the system has it, the loop not yet
        waiting.setblocking(False)
        await door.listener.retire()
        talker = Talker(*await asyncio.open_connection(sock=waiting))
        assert (await talker.reply()).startswith("220 ")
        for one in (talker, open_session):
            assert (await one.say(b"EHLO app.example\r\n")).startswith("250")
            await one.begin()
            assert (await one.say(b"Subject: x\r\n\r\n.\r\n")).startswith("250 2.0.0")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def doors_of(door: OpenDoor, settings: RelaySettings) -> Doors:
    doors = Doors(
        plan(settings),
        directory=door.directory,
        queue=door.store.queue,
        rates=Rates(),
        authentication=Authentication(door.directory),
    )
    await doors.start([])
    return doors


def settings_of(tmp_path: Path, *doors: dict[str, object]) -> RelaySettings:
    return RelaySettings.model_validate({"data_dir": tmp_path, "listeners": doors})


async def test_what_cannot_be_opened_leaves_all_as_it_was(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        doors = await doors_of(door, settings_of(tmp_path, {"port": 0}))
        port = doors.listeners[0].port
        taken = {"port": door.listener.port}
        with pytest.raises(DoorRefused):
            await doors.change(plan(settings_of(tmp_path, {"path": str(tmp_path / "s")}, taken)))
        assert not (tmp_path / "s").exists()
        assert [listener.port for listener in doors.listeners] == [port]
        talker = Talker(*await asyncio.open_connection("127.0.0.1", port))
        assert (await talker.reply()).startswith("220 ")
        doors.stop_accepting()
        assert await doors.drain(5.0)


async def test_a_door_that_went_is_waited_for_at_the_end(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        doors = await doors_of(door, settings_of(tmp_path, {"port": 0}))
        talker = Talker(*await asyncio.open_connection("127.0.0.1", doors.listeners[0].port))
        await talker.reply()
        await doors.change(plan(settings_of(tmp_path, {"path": str(tmp_path / "s")})))
        assert os.path.exists(tmp_path / "s")
        doors.stop_accepting()
        assert (await talker.reply()).startswith("421 4.3.2")
        assert await doors.drain(5.0)
        assert not (tmp_path / "s").exists()
