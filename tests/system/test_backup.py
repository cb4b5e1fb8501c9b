"""Backup of a running relay, restored on a clean machine: every waiting mail and every secret is back."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, QUICK, Relaying, at

SMALL = b"Subject: small\r\n\r\nbody\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 5 + b"\r\n" + (b"x" * 76 + b"\r\n") * 3000


def _clean_machine(folder: Path) -> RelayDaemon:
    folder.mkdir()
    return RelayDaemon(folder / "data", QUICK)


async def test_a_restore_on_a_clean_machine_brings_back_every_mail_and_every_secret(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    """A mail in its dot, a small and a spooled one that wait, while the relay goes on accepting."""
    archive = tmp_path / "relay.tar"
    upstream.on("DOT", times=1).pauses().disconnects()
    patient = {"RELAY_SUBMISSION__STAGE_TIMEOUT_S": "60"}  # the dot stays out for as long as the commands take
    patient |= {"RELAY_DISPATCH__FIRST_RETRY_S": "300", "RELAY_DISPATCH__MAX_RETRY_S": "300"}
    async with relaying(**patient) as daemon:
        await daemon.submit(APP, ["in-its-dot@example.org"], SMALL)
        await upstream.until(lambda: upstream.contents == 1)
        await daemon.add_account("late@example.com", "another-password-nobody-may-see", "--host", "localhost")
        await daemon.cli("account", "suspend", "late@example.com")
        await daemon.submit("late@example.com", ["small@example.org", "second@example.org"], SMALL)
        await daemon.submit("late@example.com", ["large@example.org"], LARGE)
        done = await daemon.cli("backup", str(archive), "--with-keys")
        assert "whoever reads it can read every stored password" in done.stderr
        waiting = json.loads((await daemon.cli("queue", "list", "--json")).stdout)
        await daemon.kill()
    upstream.go_on()
    assert os.stat(archive).st_mode & 0o777 == 0o600
    assert not list((tmp_path / "data").glob(".backup-*"))
    assert PASSWORD.encode() not in archive.read_bytes()

    other = _clean_machine(tmp_path / "clean")
    done = await other.cli("restore", str(archive))
    assert "would be sent again" in done.stderr
    assert "possible_duplicate" in done.stdout
    restored = json.loads((await other.cli("queue", "list", "--json")).stdout)
    told = [(entry["id"], entry["recipient"], entry["size"]) for entry in waiting]
    assert [(entry["id"], entry["recipient"], entry["size"]) for entry in restored] == told
    doubtful = [entry["recipient"] for entry in restored if entry["possible_duplicate"]]
    assert doubtful == ["in-its-dot@example.org"]
    checked = await other.cli("check", "--no-login", "--json", check=False)
    assert [line["status"] for line in json.loads(checked.stdout)["lines"] if line["item"] == "secrets"] == ["ok"]
    # Both secrets open: both accounts log in.
    upstream.accounts["late@example.com"] = "another-password-nobody-may-see"
    await other.cli("account", "set", "late@example.com", *at(upstream, tmp_path / "ca.pem"))
    async with other:
        await other.cli("account", "resume", "late@example.com")
        for recipient in ("in-its-dot@example.org", "small@example.org", "large@example.org", "second@example.org"):
            await other.event("delivery.relayed", recipient=recipient)
    large = next(mail for mail in upstream.messages if mail.recipients == ("large@example.org",))
    assert large.content.endswith(LARGE[-1000:])


async def test_restore_refuses_a_running_relay_a_store_that_is_there_and_a_changed_file(
    tmp_path: Path, relaying: Relaying
) -> None:
    archive = tmp_path / "relay.tar"
    async with relaying() as daemon:
        await daemon.cli("backup", str(archive))
        done = await daemon.cli("restore", str(archive), check=False)
        assert (done.returncode, "stop the relay first" in done.stderr) == (1, True)
        again = await daemon.cli("backup", str(archive), check=False)
        assert (again.returncode, "exists" in again.stderr) == (1, True)
    done = await daemon.cli("restore", str(archive), check=False)
    assert (done.returncode, "holds a store already" in done.stderr) == (1, True)
    done = await daemon.cli("restore", str(archive), "--force", "--json")
    aside = Path(json.loads(done.stdout)["moved_aside"])
    assert (aside / "relay.db").exists()

    other = _clean_machine(tmp_path / "clean")  # the keys stayed behind
    done = await other.cli("restore", str(archive), check=False)
    assert (done.returncode, "RELAY_KEYS_DIR" in done.stderr) == (1, True)
    raw = bytearray(archive.read_bytes())
    raw[raw.find(b"SQLite format 3") + 5000] ^= 1
    archive.write_bytes(raw)
    done = await other.cli("restore", str(archive), check=False)
    assert (done.returncode, "was changed since" in done.stderr) == (1, True)
    assert not (other.data / "relay.db").exists()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "spool/../../evil", "keys/evil", "relay.db-wal"])
async def test_a_name_that_no_backup_holds_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "evil.tar"
    members = {name: {"size": 0, "sha256": "0" * 64}}
    manifest = {"format": 1, "schema": "0001", "members": members, "in_dot": [], "missing": []}
    for stated in (manifest, manifest | {"members": {}}):
        with tarfile.open(archive, "w") as tar:
            for title, text in (("manifest.json", json.dumps(stated).encode()), (name, b"")):
                header = tarfile.TarInfo(title)
                header.size = len(text)
                (tmp_path / "member").write_bytes(text)
                tar.addfile(header, (tmp_path / "member").open("rb"))
        from relay.control.archive import open_archive, unpack
        from relay.control.refusal import ControlError

        with pytest.raises(ControlError), open_archive(archive) as (opened, found):
            unpack(opened, found, tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name and path != archive]


async def test_mail_flows_while_a_backup_is_made(tmp_path: Path, relaying: Relaying) -> None:
    async with relaying() as daemon:
        making = asyncio.create_task(daemon.cli("backup", str(tmp_path / "relay.tar")))
        while not making.done():
            await daemon.submit(APP, ["ann@example.org"], SMALL)
        assert (await making).returncode == 0
    assert await daemon.cli("restore", str(tmp_path / "relay.tar"), "--force", "--hold")
    states = json.loads((await daemon.cli("queue", "summary", "--json")).stdout)["states"]
    assert set(states) <= {"held"}
