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
