"""The daemon on PostgreSQL: what the front door takes is kept there and relayed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.postgresql import server
from tests.system.conftest import APP, Relaying

MAIL = b"Subject: hello\r\n\r\nbody\r\n.dot at the start\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"".join(b".%070d\r\n" % line for line in range(8000))


async def test_mail_small_and_large_is_kept_in_the_database_and_relayed(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    url = server().fresh()
    async with relaying(RELAY_DATABASE__URL=url) as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        message = await upstream.next_message()
        assert (message.reverse_path, message.recipients) == (APP, ("ann@example.org",))
        relayed = await daemon.event("delivery.relayed", recipient="ann@example.org")
        assert "relayed" in (await daemon.cli("trace", relayed["message_id"], "--json")).stdout
        await daemon.submit(APP, ["ben@example.org"], LARGE)
        large = await upstream.next_message()
        assert large.content.endswith(LARGE.partition(b"\r\n\r\n")[2].replace(b"\r\n.", b"\r\n..")[-70_000:])
        await daemon.event("delivery.relayed", recipient="ben@example.org")
        assert await daemon.stop() == 0
    found = server().execute("SELECT state FROM deliveries", url.rpartition("/")[2])
    assert found == [("relayed",), ("relayed",)]
    assert server().execute("SELECT count(*) FROM chunks", url.rpartition("/")[2]) == [(0,)]
    assert not (daemon.data / "spool").exists()


async def test_an_empty_database_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    daemon = RelayDaemon(tmp_path / "data", {"RELAY_DATABASE__URL": server().empty()})
    started = await daemon.cli("serve", check=False)
    assert started.returncode == 1
    assert "has no schema yet" in started.stderr
    assert "relay migrate" in started.stderr
    assert json.loads((await daemon.cli("migrate", "--json")).stdout)["migrated"] is True
    assert json.loads((await daemon.cli("migrate", "--json")).stdout)["migrated"] is False
    assert (await daemon.cli("queue", "list", check=False)).returncode in (0, 1)
    assert not os.path.exists(tmp_path / "data" / "relay.db")


async def _count(daemon: RelayDaemon) -> tuple[int, int]:
    """Deliveries that wait, and accounts whose stored password opens."""
    waiting = json.loads((await daemon.cli("queue", "list", "--json")).stdout)
    checked = json.loads((await daemon.cli("check", "--no-login", "--json", check=False)).stdout)["lines"]
    secrets = [line for line in checked if line["item"] == "secrets"]
    return len(waiting), int(secrets[0]["text"].split()[0]) if secrets[0]["status"] == "ok" else -1


def _another(daemon: RelayDaemon, data: Path, url: str) -> RelayDaemon:
    """A relay with the same settings and keys on another store."""
    settings = {name: value for name, value in daemon.environment().items() if name.startswith("RELAY_")}
    place = {"RELAY_DATA_DIR": str(data), "RELAY_KEYS_DIR": str(daemon.data / "keys"), "RELAY_DATABASE__URL": url}
    return RelayDaemon(data, settings | place)


async def test_a_store_moves_to_postgresql_and_back_with_all_that_waits(
    upstream: ScriptedUpstream, relaying: Relaying, tmp_path: Path
) -> None:
    upstream.on("MAIL", times=2).answers("450 4.7.1 not now")
    async with relaying(RELAY_DISPATCH__FIRST_RETRY_S="600", RELAY_DISPATCH__MAX_RETRY_S="600") as daemon:
        await daemon.submit(APP, ["ann@example.org", "ben@example.org"], MAIL)
        await daemon.submit(APP, ["cleo@example.org"], LARGE)
        await daemon.event("delivery.deferred", recipient="cleo@example.org")
        refused = await daemon.cli("migrate", "--to", server().empty(), check=False)
        assert refused.returncode == 1
        assert "stop the relay first" in refused.stderr
        before = await _count(daemon)
        assert before == (3, 1)
        await daemon.stop()
        url = server().empty()
        moved = json.loads((await daemon.cli("migrate", "--to", url, "--json")).stdout)
        assert (moved["contents"], moved["rows"]["deliveries"], moved["missing"]) == (1, 3, [])
        again = await daemon.cli("migrate", "--to", url, check=False)
        assert "not empty" in again.stderr
        there = _another(daemon, daemon.data, url)
        assert await _count(there) == before
        archive = tmp_path / "backup.tar"
        async with there:
            await there.cli("backup", str(archive))
        file = tmp_path / "back" / "relay.db"
        back = json.loads((await there.cli("migrate", "--to", f"sqlite:///{file}", "--json")).stdout)
        assert (back["contents"], back["rows"]["deliveries"]) == (1, 3)
        assert len(list((file.parent / "spool").iterdir())) == 1
        fresh = server().empty()
        restored = _another(daemon, tmp_path / "restored", fresh)
        await restored.cli("restore", str(archive))
        assert await _count(restored) == before
        async with restored:
            shown = json.loads((await restored.cli("queue", "list", "--json")).stdout)
            await restored.cli("queue", "retry", *{line["id"] for line in shown}, check=False)
            arrived = sorted([await upstream.next_message() for _ in range(2)], key=lambda message: message.recipients)
        assert [message.recipients for message in arrived] == [
            ("ann@example.org", "ben@example.org"),
            ("cleo@example.org",),
        ]
        assert arrived[1].content.endswith(LARGE.partition(b"\r\n\r\n")[2].replace(b"\r\n.", b"\r\n..")[-70_000:])
        await daemon.start()
