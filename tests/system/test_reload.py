"""Settings change while the daemon runs: no session is lost, and what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.daemon import RelayDaemon
from tests.lengths import size_of
from tests.peers.certificates import write_certificates
from tests.peers.webhook import Webhook
from tests.system.conftest import APP, PASSWORD, QUICK
from tests.wire.door import Talker

RELOADS = size_of("RELAY_TEST_RELOADS", short=12, long=200)
BODY = b"Subject: one\r\n\r\nbody\r\n.\r\n"


class FromFile(RelayDaemon):
    """A daemon whose doors and numbers are in relay.env; `with_console`: whether there is one, too."""

    with_console = False

    def environment(self) -> dict[str, str]:
        environ = super().environment()
        del environ["RELAY_LISTENER__PORT"]
        if self.with_console:
            del environ["RELAY_CONSOLE__ENABLED"]
        return environ

    def write(self, settings: Mapping[str, str]) -> None:
        """What relay.env says from now on; it is read at the next reload."""
        text = "".join(f"{name}='{value}'\n" for name, value in settings.items())
        (self.data.parent / "relay.env").write_text(text)

    async def hang_up(self, event: str = "daemon.reloaded") -> dict[str, object]:
        """SIGHUP, and the event that answers it."""
        seen = len(self.events)
        os.kill(self.pid, signal.SIGHUP)
        return await self.event(event, since=seen)


@asynccontextmanager
async def daemon_of(folder: Path, doors: str, **more: str) -> AsyncIterator[FromFile]:
    """Its one account is suspended: mail stays in the queue, and costs nothing else."""
    daemon = FromFile(folder / "data", QUICK)
    daemon.write({"RELAY_LISTENERS": doors, **more})
    async with daemon:
        await daemon.cli("account", "add", APP, "--host", "localhost", "--password-file", "-", stdin=PASSWORD)
        await daemon.cli("account", "suspend", APP)
        yield daemon


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def greeted(port: int) -> Talker:
    """A session; OSError before its greeting when the door is gone."""
    talker = Talker(*await asyncio.open_connection("127.0.0.1", port))
    if not (await talker.reply()).startswith("220 "):
        raise ConnectionResetError("no greeting")
    return talker


async def send(talker: Talker, count: int) -> None:
    """`count` messages in one session; AssertionError when it does not live through them."""
    assert (await talker.say(b"EHLO app.example\r\n")).startswith("250")
    for _ in range(count):
        await talker.begin(APP)
        assert (await talker.say(BODY)).startswith("250 2.0.0 Ok: queued as ")


class Load:
    """Sessions one after the other at a door until `ended`; `door_may_go`: it may refuse them, before the greeting."""

    def __init__(self, port: int, *, door_may_go: bool) -> None:
        self.port, self.door_may_go = port, door_may_go
        self.ended = asyncio.Event()
        self.sessions = self.refused = self.reset = 0

    async def run(self) -> None:
        while not self.ended.is_set():
            try:
                talker = await greeted(self.port)
            except OSError as error:
                assert self.door_may_go
                self.refused += isinstance(error, ConnectionRefusedError)
                self.reset += not isinstance(error, ConnectionRefusedError)
                await asyncio.wait([asyncio.ensure_future(self.ended.wait())], timeout=0.005)
                continue
            await send(talker, 3)
            assert (await talker.say(b"QUIT\r\n")).startswith("221 ")
            talker.close()
            self.sessions += 1


@pytest.mark.timeout(60 + RELOADS * 3)
async def test_no_session_is_lost_over_many_reloads_under_load(tmp_path: Path) -> None:
    certificates = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        certificates.append(write_certificates(tmp_path / name))
    moving = [free_port(), free_port()]

    def doors(number: int) -> str:
        """The first stays, with another certificate and other limits; the second is another one each time."""
        chosen = certificates[number % 2]
        stays = {"port": 0, "tls_cert": str(chosen.chain), "tls_key": str(chosen.key)}
        limits = {"max_message_bytes": 100_000 + number, "max_recipients": 100 + number}
        return json.dumps([{**stays, **limits}, {"port": moving[number % 2]}])

    async with daemon_of(tmp_path, doors(0)) as daemon:
        port = int((await daemon.event("daemon.ready"))["port"])
        loads = [Load(port, door_may_go=False) for _ in range(3)]
        loads += [Load(one, door_may_go=True) for one in moving]
        faithful = await greeted(port)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(load.run()) for load in loads]
            for number in range(1, RELOADS + 1):
                daemon.write({"RELAY_LISTENERS": doors(number), "RELAY_DISPATCH__PROBE_S": str(1000 + number)})
                await daemon.hang_up()
                assert all(not task.done() for task in running)
                await send(faithful, 1)
                fresh = await greeted(port)
                assert f"250-SIZE {100_000 + number}" in await fresh.say(b"EHLO app.example\r\n")
                await fresh.say(b"STARTTLS\r\n")
                trust = ssl.create_default_context(cafile=str(certificates[number % 2].ca))
                await fresh.writer.start_tls(trust, server_hostname="localhost")
                fresh.close()
            for load in loads:
                load.ended.set()
        assert "250-SIZE 100000" in await faithful.say(b"EHLO app.example\r\n")  # it began under those limits
        assert (await faithful.say(b"QUIT\r\n")).startswith("221 ")
        assert all(load.sessions for load in loads)
        stays, goes = loads[:3], loads[3:]
        print(
            f"{RELOADS} reloads; {sum(load.sessions for load in stays)} sessions at the door that stays, "
            f"{sum(load.sessions for load in goes)} at those that come and go, none lost; these refused "
            f"{sum(load.refused for load in goes)} and reset {sum(load.reset for load in goes)} before a greeting"
        )
        assert not [event for event in daemon.events if event["event"] == "daemon.fault"]
        account = json.loads((await daemon.cli("account", "show", APP, "--json")).stdout)
        assert account["waiting"] == 3 * sum(load.sessions for load in loads) + RELOADS


async def test_a_door_moves_to_another_address_of_the_same_port(tmp_path: Path) -> None:
    port = free_port()
    narrow, wide = ({"host": host, "port": port} for host in ("127.0.0.1", "0.0.0.0"))
    async with daemon_of(tmp_path, json.dumps([narrow])) as daemon:
        session = await greeted(port)
        daemon.write({"RELAY_LISTENERS": json.dumps([wide])})
        await daemon.hang_up()
        await daemon.event("listener.stopped", host="127.0.0.1")
        await daemon.event("listener.started", host="0.0.0.0")
        await send(session, 1)
        await send(await greeted(port), 1)


async def test_the_command_says_what_counts_and_what_needs_a_restart(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, '[{"port": 0}]') as daemon:
        daemon.write(
            {
                "RELAY_LISTENERS": '[{"port": 0}]',
                "RELAY_LOG__LEVEL": "warning",
                "RELAY_KEYS_DIR": str(tmp_path / "keys"),
            }
        )
        result = json.loads((await daemon.cli("reload", "--json")).stdout)
        assert (result["changed"], result["restart"]) == (["RELAY_LOG__LEVEL"], ["RELAY_KEYS_DIR"])
        assert (await daemon.event("settings.restart_needed"))["settings"] == "RELAY_KEYS_DIR"
        assert not [event for event in daemon.events if event["event"] == "daemon.reloaded"]  # info is not written now
        assert "Restart the relay" in (await daemon.cli("reload")).stderr


async def test_console_notices_and_mailbox_change_without_a_restart(tmp_path: Path) -> None:
    def written(more: Mapping[str, str]) -> dict[str, str]:
        return {"RELAY_LISTENERS": '[{"port": 0}]', "RELAY_CONSOLE__PORT": str(free_port()), **more}

    async def answers(port: str) -> int:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as client:
            return (await client.get("/healthz")).status_code

    with Webhook() as hook:
        daemon = FromFile(tmp_path / "data", QUICK)
        daemon.with_console = True
        first = written({"RELAY_CONSOLE__ENABLED": "yes"})
        daemon.write(first)
        async with daemon:
            await daemon.cli("account", "add", APP, "--host", "localhost", "--password-file", "-", stdin=PASSWORD)
            await daemon.cli("account", "suspend", APP)
            await daemon.event("console.started", timeout_s=15)
            assert await answers(first["RELAY_CONSOLE__PORT"]) == 200
            session = await greeted(int((await daemon.event("daemon.ready"))["port"]))
            more = {"RELAY_NOTICES__URLS": hook.url(), "RELAY_MAILBOX__POLL_S": "7"}
            second = written({"RELAY_CONSOLE__ENABLED": "yes", "RELAY_CONSOLE__HOSTS": "relay.example", **more})
            daemon.write(second)
            seen = len(daemon.events)
            result = json.loads((await daemon.cli("reload", "--json")).stdout)
            assert (result["changed"], result["restart"]) == (
                ["RELAY_CONSOLE__PORT", "RELAY_CONSOLE__HOSTS", "RELAY_NOTICES__URLS", "RELAY_MAILBOX__POLL_S"],
                [],
            )
            await send(session, 1)
            started = await daemon.event("console.started", since=seen, timeout_s=20)
            assert str(started["port"]) == second["RELAY_CONSOLE__PORT"]
            assert await answers(second["RELAY_CONSOLE__PORT"]) == 200
            with pytest.raises(httpx.ConnectError):
                await answers(first["RELAY_CONSOLE__PORT"])
            await daemon.cli("notice", "test")
            assert hook.taken
            daemon.write(second | {"RELAY_CONSOLE__ENABLED": "no"})
            await daemon.hang_up()
            assert await daemon.stop() == 0
            assert not [event for event in daemon.events if event["event"] == "console.ended"]


async def test_what_is_wrong_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong = [
            {"RELAY_DISPATCH__LIFETIME_S": "soon"},
            {"RELAY_LISTENERS": json.dumps([{"port": free_port()}, {"port": taken.getsockname()[1]}])},
            {
                "RELAY_LISTENERS": json.dumps(
                    [{"port": 0, "tls_cert": f"{tmp_path}/no.pem", "tls_key": f"{tmp_path}/no.pem"}]
                )
            },
            {"RELAY_ACCOUNTS_FILE": str(tmp_path / "no.pem"), "RELAY_LISTENERS": json.dumps([{"port": free_port()}])},
        ]
        async with daemon_of(tmp_path, '[{"port": 0}]') as daemon:
            port = int((await daemon.event("daemon.ready"))["port"])
            session = await greeted(port)
            for settings in wrong:
                daemon.write(settings)
                refused = await daemon.hang_up("daemon.reload_refused")
                assert refused["detail"]
                assert refused["to_do"]
                await send(session, 1)
                await send(await greeted(port), 1)
            daemon.write({"RELAY_LISTENERS": '[{"port": 0, "max_recipients": 101}]'})
            assert (await daemon.hang_up())["settings"] == "RELAY_LISTENERS"
            assert json.loads((await daemon.cli("reload", "--json")).stdout)["doors"] == ["127.0.0.1 port 0"]


async def test_systemd_hears_of_a_reload(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        daemon = FromFile(tmp_path / "data", QUICK | {"NOTIFY_SOCKET": str(address)})
        daemon.write({"RELAY_LISTENER__PORT": "0"})
        async with daemon:
            assert manager.recv(4096) == b"READY=1"
            await daemon.hang_up()
            reloading, stamp = manager.recv(4096).decode().split("\n")
            assert reloading == "RELOADING=1"
            assert stamp.startswith("MONOTONIC_USEC=")
            assert stamp.partition("=")[2].isdecimal()
            assert manager.recv(4096) == b"READY=1"


async def test_the_accounts_file_is_applied_at_start_and_when_it_or_a_secret_changes(tmp_path: Path) -> None:
    file, secret = tmp_path / "accounts.toml", tmp_path / "secret"
    file.write_text(f'[accounts."{APP}"]\nhost = "localhost"\npassword = {{ file = "secret" }}\n')
    secret.write_text(PASSWORD)
    daemon = FromFile(tmp_path / "data", QUICK)
    daemon.write({"RELAY_LISTENER__PORT": "0", "RELAY_ACCOUNTS_FILE": str(file)})
    async with daemon:
        await daemon.event("accounts.applied", added=2)
        secret.write_text("another")
        assert (await daemon.event("accounts.applied", changed=1))["path"] == str(file)
        seen = len(daemon.events)
        file.write_text(file.read_text() + "prt = 25\n")
        refused = await daemon.event("accounts.refused", since=seen)
        assert "did you mean port?" in f"{refused['detail']}; {refused['to_do']}"
        check = await daemon.cli("check", "--no-login", check=False)
        assert f'accounts."{APP}".prt' in check.stdout
        assert PASSWORD not in check.stdout + check.stderr + json.dumps(daemon.events)
    with pytest.raises(RuntimeError, match="did you mean port"):  # at the start it is a wrong setting like any other
        await daemon.start()
