"""The daemon's life: kills, orderly ends, trouble with the disk, a long queue at start, no secret anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import smtplib
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.lengths import size_of
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.spillage import spilled
from tests.system import killtest
from tests.system.conftest import APP, PASSWORD, QUICK, Relaying, at

KILLS = size_of("KILLTEST_KILLS", short=5, long=100)
MESSAGES = KILLS * 60
MAIL = b"Subject: hello\r\n\r\nbody\r\n"


@pytest.mark.slow
@pytest.mark.timeout(90 + 6 * KILLS)
async def test_kill_9_under_load_loses_nothing_and_names_every_duplicate(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    figures = await killtest.run(KILLS, MESSAGES, seed, tmp_path)
    assert killtest.verdict(figures) == [], f"seed {seed}: {figures}"
    assert int(str(figures["acknowledged"])) >= MESSAGES


async def test_sigterm_ends_with_0_and_every_accepted_mail_goes_out_exactly_once(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.delay_s = 0.02
    async with relaying() as daemon:
        for round_ in range(5):
            sending = [asyncio.create_task(daemon.submit(APP, [f"r{round_}-{n}@x.org"], MAIL)) for n in range(10)]
            await daemon.event("message.accepted", since=len(daemon.events))
            assert await daemon.stop() == 0
            await asyncio.gather(*sending, return_exceptions=True)
            await daemon.start()
        accepted = {event["message_id"] for event in daemon.events if event["event"] == "message.accepted"}
        for message_id in accepted:
            await daemon.event("delivery.relayed", message_id=message_id)
        names = [message.recipients[0] for message in upstream.messages]
        assert len(names) == len(set(names)) == len(accepted)
        assert not [event for event in daemon.events if event.get("possible_duplicate")]


async def test_a_dot_that_is_out_gets_its_time_at_the_end(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("DOT", times=1).pauses().answers("250 2.0.0 ok")
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        await upstream.until(lambda: upstream.contents == 1)
        ending = asyncio.create_task(daemon.stop())
        await daemon.event("daemon.stopping")
        upstream.go_on()
        assert await ending == 0
        await daemon.event("delivery.relayed")


async def test_a_second_daemon_on_the_same_data_is_refused(tmp_path: Path, relaying: Relaying) -> None:
    async with relaying():
        second = RelayDaemon(tmp_path / "data", QUICK)
        with pytest.raises(RuntimeError, match="held by another process"):
            await second.start()


async def test_a_wrong_key_refuses_the_start_and_changes_nothing(tmp_path: Path, relaying: Relaying) -> None:
    async with relaying() as daemon:
        await daemon.stop()
        [key] = (tmp_path / "data" / "keys").glob("*.key")
        kept = key.read_bytes()
        before = _rows(tmp_path)
        key.write_bytes(os.urandom(32).hex().encode() + b"\n")
        with pytest.raises(RuntimeError, match=key.stem):
            await daemon.start()
        key.unlink()
        with pytest.raises(RuntimeError, match=key.stem):
            await daemon.start()
        assert _rows(tmp_path) == before
        key.write_bytes(kept)
        key.chmod(0o644)
        with pytest.raises(RuntimeError, match="chmod 600"):
            await daemon.start()
        key.chmod(0o600)
        await daemon.start()


def _rows(folder: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{folder / 'data' / 'relay.db'}?mode=ro", uri=True) as connection:
        return [
            row
            for table in ("accounts", "senders", "secrets", "messages", "deliveries")
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1")
        ]


async def test_no_secret_lies_anywhere(tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying) -> None:
    async with relaying(fresh=True, RELAY_LOG__LEVEL="debug") as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        await upstream.next_message()
        said = [await daemon.cli("account", "test", APP), await daemon.cli("account", "show", APP, "--json")]
        said.append(await daemon.cli("account", "set-password", APP, "--password-file", "-", stdin=PASSWORD + "2"))
        said.append(await daemon.cli("audit", "--json"))
        await daemon.submit(APP, ["bob@example.org"], MAIL)  # and the log of a refused login
        await daemon.event("account.suspended")
        places = {name: Path(f"/proc/{daemon.pid}/{name}").read_bytes() for name in ("environ", "cmdline")}
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        assert "Max core file size        0                    0" in limits
        assert await daemon.crash() == -signal.SIGABRT
        assert any(event["event"] == "upstream.line" for event in daemon.events), "the debug log shows the dialogue"
        places["answers"] = "".join(done.stdout + done.stderr for done in said).encode()
        places["log"] = json.dumps(daemon.events).encode() + repr(daemon.other_output).encode()
        places |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert not [place for place in places if Path(place).name.startswith("core")]
        assert spilled([PASSWORD, PASSWORD + "2"], places) == []


@pytest.mark.timeout(120)
async def test_a_hundred_thousand_queued_messages_do_not_delay_the_start(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    async with relaying(fresh=True) as daemon:
        await daemon.cli("account", "suspend", APP)
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        await daemon.stop()
        _multiply(tmp_path / "data" / "relay.db", 100_000)
        started = time.monotonic()
        await daemon.start()
        listening = min(time.monotonic() - started, processor_s(daemon.pid))  # the latter on a busy machine
        await daemon.cli("account", "resume", APP)
        resumed = time.monotonic()
        await upstream.next_message()
        assert listening < 2.5, "2 s, and half a second for a busy machine"
        assert time.monotonic() - resumed < 5
        await daemon.kill()


def processor_s(pid: int) -> float:
    """How long a process has had a processor, in seconds (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _multiply(store: Path, times: int) -> None:
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {times})"
    with sqlite3.connect(store) as connection:
        for table, key in (("messages", "id"), ("deliveries", "message_id"), ("contents", "message_id")):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            others = ", ".join(column for column in columns if column != key)
            connection.execute(
                f"{numbers} INSERT INTO {table} ({key}, {others}) SELECT {key} + i, {others} FROM {table}, n"
            )


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
@pytest.mark.timeout(90)
async def test_a_full_disk_is_answered_452_and_what_was_accepted_arrives(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs", str(data)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    authority = tmp_path / "ca.pem"
    upstream.authority.cert_pem.write_to_path(str(authority))
    daemon = RelayDaemon(data, QUICK)
    try:
        async with daemon:
            await daemon.add_account(APP, PASSWORD, *at(upstream, authority))
            await daemon.cli("account", "suspend", APP)
            accepted, replies = await _fill(daemon)
            assert accepted > 3
            assert set(replies) <= {452, 451}
            assert replies
            ballast = data / "ballast"
            if ballast.exists():
                ballast.unlink()
            await daemon.cli("account", "resume", APP)
            for _ in range(accepted):
                await upstream.next_message(timeout_s=20)
            await daemon.event("delivery.relayed")
            await _until_accepted(daemon)
            assert upstream.messages == [] or len(upstream.messages) == 1
            assert await daemon.stop() == 0
    finally:
        await daemon.kill()
        subprocess.run(["umount", "-l", str(data)], check=True)


async def _fill(daemon: RelayDaemon) -> tuple[int, list[int]]:
    """Send until the disk is full and some more; how many were accepted, and what the others were told."""
    body = b"Subject: fill\r\n\r\n" + (b"y" * 76 + b"\r\n") * 6000
    accepted, replies = 0, []
    for _ in range(60):
        try:
            await daemon.submit(APP, ["ann@example.org"], body)
            accepted += 1
        except smtplib.SMTPResponseException as refused:
            replies.append(refused.smtp_code)
        if len(replies) >= 5:
            break
    return accepted, replies


async def _until_accepted(daemon: RelayDaemon) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                await daemon.submit(APP, ["after@example.org"], MAIL)
                return
            except smtplib.SMTPResponseException:
                await asyncio.sleep(0.2)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_every_250_comes_after_a_sync(tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying) -> None:
    async with relaying() as daemon:
        await daemon.cli("account", "suspend", APP)
        trace = tmp_path / "trace"
        tracer = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-y", "-s", "96", "-e", "trace=fdatasync,fsync,pwrite64,write,sendto,writev"),
            *("-o", str(trace), "-p", str(daemon.pid)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert tracer.stderr is not None
        assert b"attached" in await tracer.stderr.readline()
        for _ in range(20):
            await daemon.submit(APP, ["ann@example.org"], MAIL)
        tracer.terminate()
        await tracer.wait()
        synced, answered = False, 0
        for line in trace.read_text("utf-8", "replace").splitlines():
            if ("fdatasync(" in line or "fsync(" in line) and "relay.db-wal" in line:
                synced = True
            elif "relay.db-wal" in line and "pwrite64" in line:
                synced = False
            elif "queued as" in line:
                assert synced, line
                answered += 1
        assert answered == 20


async def test_the_first_start_leaves_no_more_in_memory_than_the_next(tmp_path: Path) -> None:
    resident = []
    for _ in range(2):
        async with RelayDaemon(tmp_path / "data", QUICK, fresh=True) as daemon:
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            resident.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
    assert resident[0] < resident[1] + 4, resident  # MiB; Alembic alone is 11
