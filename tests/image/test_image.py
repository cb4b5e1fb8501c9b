"""The image as an operator meets it: mail goes through, it is healthy, SIGTERM ends it, bad mounts are named."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon import REPOSITORY
from tests.image.conftest import NEEDS_IMAGE
from tests.image.engine import DATA, UID, ContainedRelay, FirstProcess, Image, first_process, status_of
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD

pytestmark = NEEDS_IMAGE
STOP_S = 35
CONTENT = b"Subject: from a container\r\n\r\nIt works.\r\n"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An empty data folder of the image's user."""
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o700)
    os.chown(folder, UID, UID)
    return folder


@pytest.mark.parametrize("kind", [ContainedRelay, FirstProcess])
async def test_a_mail_goes_through(image: Image, volume: Path, kind: type[ContainedRelay]) -> None:
    async with ScriptedUpstream(accounts={APP: PASSWORD}) as upstream:
        upstream.authority.cert_pem.write_to_path(str(volume / "ca.pem"))
        settings = {} if kind is FirstProcess else {"RELAY_CONSOLE__ENABLED": "no"}  # healthy all the same
        relay = kind(image, volume, settings)
        await relay.start()
        try:
            await relay.add_account(
                *(APP, PASSWORD, "--host", "localhost", "--port", str(upstream.port), "--trust", f"{DATA}/ca.pem")
            )
            await relay.submit(APP, ["you@example.org"], CONTENT)
            message = await upstream.next_message()
            assert message.account == APP
            assert b"It works." in message.content
            test = image.config()["Healthcheck"]["Test"]
            assert test[0] == "CMD"
            checked = await asyncio.to_thread(
                subprocess.run, image.running(volume, {}, *test[1:]), capture_output=True, timeout=30, check=False
            )
            assert (checked.returncode, checked.stdout) == (0, b"ok: mail is taken\n")
            if isinstance(relay, FirstProcess):
                await relay.event("console.started", timeout_s=30)
                await _is_confined(relay)
        finally:
            began = time.monotonic()
            status = await relay.stop()
        assert status == 0
        assert time.monotonic() - began < STOP_S
    after = await asyncio.to_thread(
        subprocess.run, image.running(volume, {}, *test[1:]), capture_output=True, text=True, timeout=30, check=False
    )
    assert after.returncode == 1
    assert "no daemon answers" in after.stderr


async def _is_confined(relay: FirstProcess) -> None:
    """No rights, nothing writable but the volume and /tmp, and no dead process stays behind."""
    status = status_of(relay.first)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == [str(UID)] * 4
    with pytest.raises(OSError) as refused:
        Path(f"/proc/{relay.first}/root/opt/relay/new").write_text("")
    assert refused.value.errno == errno.EROFS
    entering = ("nsenter", f"--target={relay.first}", "--mount", "--pid", "--root", "--wd=/")
    subprocess.run([*entering, "sh", "-c", "sleep 0.01 & exec true"], check=True, timeout=20)  # an orphan of process 1
    [daemon] = [
        pid for pid in _namespace(relay.first) if b"serve" in _arguments(pid) and b"tini" not in _arguments(pid)
    ]
    [console] = [pid for pid in _namespace(relay.first) if b"relay.console" in _arguments(pid)]
    assert status_of(console)["PPid"] == str(daemon)
    seen = len(relay.events)
    os.kill(console, signal.SIGKILL)
    await relay.event("console.ended", since=seen, timeout_s=20)
    await relay.event("console.started", since=seen, timeout_s=30)
    assert [pid for pid in _namespace(relay.first) if status_of(pid)["State"].startswith("Z")] == []


def _namespace(first: int) -> list[int]:
    """The processes in the PID namespace of `first`."""
    own = os.readlink(f"/proc/{first}/ns/pid")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.readlink(entry / "ns/pid") == own:
                found.append(int(entry.name))
        except (FileNotFoundError, PermissionError):  # ended meanwhile; not ours
            continue
    return found


def _arguments(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _unwritable(volume: Path) -> str:
    os.chown(volume, 0, 0)
    volume.chmod(0o755)
    return rf"{DATA}/relay\.db cannot be used \(.*readonly.*\): let user {UID} write {DATA} and what is in it"


def _not_ours(volume: Path) -> str:
    shutil.rmtree(volume)
    volume.mkdir(mode=0o755)
    return (
        rf"RELAY_DATA_DIR: {DATA}/relay\.lock: Permission denied; give a folder that user {UID} can write "
        rf"\(chown -R {UID} {DATA}\)"
    )


def _no_volume(volume: Path) -> str:
    return (
        rf"RELAY_DATA_DIR: {DATA}/relay\.lock: Read-only file system; mount a volume there that can be written, or .*"
    )


def _open_key(volume: Path) -> str:
    [key] = (volume / "keys").glob("*.key")
    key.chmod(0o644)
    return rf"{DATA}/keys/.*\.key: has mode 0644, others can get at the key; run: chmod 600 .*"


def _key_lost(volume: Path) -> str:
    [key] = (volume / "keys").glob("*.key")
    key.unlink()
    return rf"the key ring lacks {key.stem}, which is in use; put the key file back \(nothing was changed\)"


def _folder_lost(volume: Path) -> str:
    [key] = (volume / "keys").glob("*.key")
    for name in os.listdir(volume / "keys"):
        (volume / "keys" / name).unlink()
    (volume / "keys").rmdir()
    return rf"the key ring lacks {key.stem}, which is in use; put the key file back \(nothing was changed\)"


@pytest.mark.parametrize("harm", [_unwritable, _not_ours, _no_volume, _open_key, _key_lost, _folder_lost])
def test_a_bad_mount_is_one_line(image: Image, volume: Path, harm: Callable[[Path], str]) -> None:
    add = ("relay", "account", "add", APP, "--host", "mail.example.com", "--password-file", "-")
    subprocess.run(
        image.running(volume, {}, *add), input=PASSWORD.encode(), check=True, capture_output=True, timeout=60
    )
    expected = harm(volume)
    data = "none" if harm is _no_volume else str(volume)
    serve = first_process(image, data, {}, "tini", "-s", "--", "relay", "serve")
    done = subprocess.run(serve, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert re.fullmatch(f"relay: {expected}", line), line
    assert "daemon.ready" not in done.stdout
    assert PASSWORD not in done.stdout + done.stderr


def test_a_key_from_outside_is_used_and_none_is_made(image: Image, volume: Path) -> None:
    """As compose and Kubernetes mount them: readable by all, the container is the boundary."""
    folder = volume.parent / "secrets"
    folder.mkdir(mode=0o755)
    key = folder / "relay-key-main"
    key.write_text(f"{secrets.token_hex(32)}\n")
    key.chmod(0o444)

    def with_key(*program: str, given: str = "") -> subprocess.CompletedProcess[str]:
        # Not by buildah: of two volumes it lost the image's own one at times.
        run = first_process(image, str(volume), {}, *program, binds={folder: "/run/secrets"})
        return subprocess.run(run, input=given, capture_output=True, text=True, timeout=60, check=False)

    add = ("relay", "account", "add", APP, "--host", "mail.example.com", "--password-file", "-")
    added = with_key(*add, given=PASSWORD)
    assert added.returncode == 0, added.stderr
    listed = with_key("relay", "key", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert '"main"' in listed.stdout
    assert (volume / "relay.db").exists()
    assert not (volume / "keys").exists() or list((volume / "keys").glob("*.key")) == []


def test_what_the_image_says_of_itself_and_holds(image: Image) -> None:
    config = image.config()
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["tini", "-s", "--", "relay"]
    assert config["Cmd"] == ["serve"]
    assert DATA in config["Volumes"]
    assert not [name for name in config["Env"] if "KEY" in name or "PASSWORD" in name]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    bill = json.loads((image.root / labels["io.authrelay.sbom"].lstrip("/")).read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(_normal(one["name"]), one["version"]) for one in bill["components"]}
    installed = {
        (_normal(folder.name.split("-")[0]), folder.name.split("-")[1].removesuffix(".dist"))
        for folder in image.root.glob("opt/relay/lib/python3*/site-packages/*.dist-info")
    }
    assert listed == installed
    locked = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;]+)", (REPOSITORY / "requirements/image.txt").read_text(), re.M)
    assert installed <= {(_normal(name), version) for name, version in locked}
    assert not list(image.root.glob("opt/relay/lib/python3*/site-packages/pip*"))
    [package] = image.root.glob("opt/relay/lib/python3*/site-packages/relay")
    assert not [path for path in package.rglob("*") if path.suffix in (".key", ".db", ".env") or path.name == "tests"]
    privileged = subprocess.run(
        ["find", str(image.root), "-xdev", "-type", "f", "-perm", "/6000"], capture_output=True, check=True
    )
    assert privileged.stdout == b""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
