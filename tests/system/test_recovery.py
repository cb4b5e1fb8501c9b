"""What a review found, so that it stays found: wake-ups, ends in trouble, suspensions, files of others."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import arrival, open_store
from tests.system.conftest import APP, PASSWORD, QUICK, Relaying, at

MAIL = b"Subject: hello\r\n\r\nbody\r\n"


async def test_a_dead_upstream_is_tried_again_and_again(tmp_path: Path, relaying: Relaying) -> None:
    async with relaying() as daemon:
        await daemon.add_account("dead@example.com", PASSWORD, "--host", "localhost", "--port", "1")
        await daemon.submit("dead@example.com", ["ann@example.org"], MAIL)
        for attempt in (1, 2, 3, 4):
            await daemon.event("attempt.unreachable", account="dead@example.com", attempt=attempt)


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "MAIL", "DOT"])
async def test_one_421_anywhere_only_delays(upstream: ScriptedUpstream, relaying: Relaying, step: str) -> None:
    upstream.on(step, times=1).answers("421 4.3.2 later").disconnects()  # type: ignore[arg-type]
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        assert (await upstream.next_message()).recipients == ("ann@example.org",)


async def test_an_operators_suspension_outlives_the_mail_that_was_in_flight(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.on("DOT", times=1).pauses().answers("250 2.0.0 ok")
    async with relaying(RELAY_DISPATCH__PROBE_S="0.5") as daemon:
        await daemon.submit(APP, ["first@example.org"], MAIL)
        await upstream.until(lambda: upstream.contents == 1)
        await daemon.cli("account", "suspend", APP)
        upstream.go_on()
        await daemon.event("delivery.relayed", recipient="first@example.org")
        await daemon.submit(APP, ["second@example.org"], MAIL)
        shown = await daemon.cli("account", "list")
        assert "suspended" in shown.stdout
        assert [message.recipients for message in upstream.messages] == [("first@example.org",)]
        await daemon.cli("account", "resume", APP)
        await daemon.event("delivery.relayed", recipient="second@example.org")


async def test_a_probe_that_meets_an_outage_is_not_the_last(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("AUTH", times=1).answers("535 5.7.8 bad credentials")
    upstream.on("GREETING", times=1, skip=1).disconnects()
    async with relaying(RELAY_DISPATCH__PROBE_S="0.5") as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        await daemon.event("account.suspended")
        await daemon.event("attempt.unreachable")
        assert (await upstream.next_message(timeout_s=10)).recipients == ("ann@example.org",)


async def test_nothing_in_the_data_folder_is_for_others(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], b"Subject: big\r\n\r\n" + (b"x" * 76 + b"\r\n") * 2000)
        await upstream.next_message()
        for path in (tmp_path / "data").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_files_that_are_not_ours_stay_and_a_linked_spool_is_refused(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "report.txt").write_text("mine")
    (spool / "folder").mkdir()
    (spool / ("0" * 32)).write_text("an orphan of ours")
    async with open_store(tmp_path):
        assert sorted(path.name for path in spool.iterdir()) == ["folder", "report.txt"]
    other = tmp_path / "other"
    spool.rename(other)
    spool.symlink_to(other)
    with pytest.raises(Exception, match="not a folder of its own"):
        async with open_store(tmp_path):
            pass


async def test_a_new_or_empty_ledger_knows_nothing_so_everything_in_hand_is_in_doubt(tmp_path: Path) -> None:
    async with open_store(tmp_path, clean_end=False) as store:
        ids = [await store.queue.accept(arrival()) for _ in range(2)]
    (tmp_path / "dots").write_bytes(bytes((tmp_path / "dots").stat().st_size))
    async with open_store(tmp_path) as store:
        assert store.in_doubt == ids


async def test_the_memory_budget_holds_for_claims_at_the_same_time(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=0) as store:
        for account in range(20):
            await store.queue.accept(arrival(account=account, body=b"x" * 20_000 + b"\r\n"))
    async with open_store(tmp_path, memory_bytes=100_000) as store:
        claims = await asyncio.gather(*(store.queue.claim_due(account, limit=10) for account in range(20)))
        assert sum(message.held_bytes for claimed, _ in claims for message in claimed) <= 100_000


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0" + b"\xff" * 4000, b"junk" * 2000])
async def test_a_damaged_store_is_one_line_with_a_remedy(tmp_path: Path, damage: bytes) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "relay.db").write_bytes(damage)
    daemon = RelayDaemon(data, QUICK)
    if not damage:  # an empty file is a new store
        async with daemon:
            return
    with pytest.raises(RuntimeError, match="restore it from a backup"):
        await daemon.start()
    assert not [line for line in daemon.other_output if "Traceback" in line]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
async def test_an_end_in_the_middle_of_storage_trouble_repeats_nothing_unnamed(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    import subprocess

    data = tmp_path / "data"
    data.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(data)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    authority = tmp_path / "ca.pem"
    upstream.authority.cert_pem.write_to_path(str(authority))
    upstream.on("DOT", times=1).pauses().answers("250 2.0.0 ok")
    daemon = RelayDaemon(data, QUICK)
    try:
        async with daemon:
            await daemon.add_account(APP, PASSWORD, *at(upstream, authority))
            await daemon.submit(APP, ["ann@example.org"], MAIL)
            await upstream.until(lambda: upstream.contents == 1)
            ballast = data / "ballast"
            _fill(ballast)
            upstream.go_on()
            try:
                await daemon.event("storage.failed", where="settle", timeout_s=5)
            except TimeoutError:
                pytest.skip("the store found room in its own pages")
            ballast.unlink()
            await daemon.stop()
            await daemon.start()
            await daemon.submit(APP, ["after@example.org"], MAIL)
            await daemon.event("delivery.relayed", recipient="after@example.org")
            names = [message.recipients[0] for message in upstream.messages]
            doubled = names.count("ann@example.org") > 1
            assert not doubled or [event for event in daemon.events if event.get("possible_duplicate")]
    finally:
        await daemon.kill()
        subprocess.run(["umount", "-l", str(data)], check=True)


def _fill(path: Path) -> None:
    """Take all the room there is, to the last octet."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while file.write(b"z" * size):
                    pass
            except OSError:
                continue


async def test_what_stays_in_doubt_is_held_in_the_end(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("DOT").answers("250 2.0.0 once", "250 2.0.0 twice")
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        held = await daemon.event("delivery.held", timeout_s=15)
        assert held["possible_duplicate"] is True
        assert upstream.contents <= 5
