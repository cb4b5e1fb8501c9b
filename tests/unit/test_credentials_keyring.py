"""Key files and the ring: who may read them, which one is primary, and that a key is made once and whole."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from relay.credentials import keyfiles
from relay.credentials.errors import KeyMissing, KeyNotDroppable, KeyRefused, NoSuchKey
from relay.credentials.keyring import KeyRing, create_first_key, load_key_ring

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    return keys


def _put(folder: Path, name: str, *, mode: int = 0o600, text: str | None = None) -> Path:
    path = folder / name
    path.write_text(text if text is not None else os.urandom(32).hex() + "\n")
    path.chmod(mode)
    return path


def _load(folder: Path, secrets_dir: Path | None = None, **environ: str) -> KeyRing:
    return load_key_ring(folder, environ=environ, secrets_dir=secrets_dir)


def _master(key_id: str = "m1") -> str:
    return f"{key_id}:{base64.b64encode(os.urandom(32)).decode()}"


# Reading


def test_hex_and_base64_are_the_same_key(folder: Path) -> None:
    material = os.urandom(32)
    _put(folder, "a.key", text=material.hex() + "\n")
    _put(folder, "b.key", text=base64.b64encode(material).decode() + "\n", mode=0o400)
    ring = _load(folder)
    assert ring.ids == {"a", "b"}
    assert ring.key("a").same_material(ring.key("b"))
    assert ring.sources()["a"] == str(folder / "a.key")


def test_a_missing_folder_is_an_empty_ring(tmp_path: Path) -> None:
    ring = _load(tmp_path / "none")
    assert ring.ids == frozenset()
    with pytest.raises(KeyMissing) as caught:
        _ = ring.primary
    assert caught.value.key_ids == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o666, 0o610])
def test_a_key_that_others_can_get_at_is_refused_with_the_cure(folder: Path, mode: int) -> None:
    path = _put(folder, "k1.key", mode=mode)
    with pytest.raises(KeyRefused) as caught:
        _load(folder)
    assert str(caught.value) == f"{path}: has mode {mode:04o}, others can get at the key; run: chmod 600 {path}"
    path.chmod(0o600)
    assert _load(folder).ids == {"k1"}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_is_refused(folder: Path, mode: int) -> None:
    _put(folder, "k1.key")
    folder.chmod(mode)
    with pytest.raises(KeyRefused, match=f"chmod 700 {folder}"):
        _load(folder)
    folder.chmod(0o755)
    assert _load(folder).ids == {"k1"}


@as_root
def test_a_key_of_another_user_is_refused(folder: Path) -> None:
    path = _put(folder, "k1.key")
    os.chown(path, 12345, 12345)
    with pytest.raises(KeyRefused, match="belongs to user 12345"):
        _load(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no key"),
        ("0" * 64, "not random"),
        ("ab" * 31, "no key"),
        ("zz" * 32, "no key"),
        (base64.b64encode(b"x" * 16).decode(), "no key"),
        ("ab" * 2000, "no key file"),
        ("\u00e4" * 64, "no key file"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(folder: Path, text: str, reason: str) -> None:
    _put(folder, "k1.key", text=text)
    with pytest.raises(KeyRefused, match=reason) as caught:
        _load(folder)
    assert str(folder / "k1.key") in str(caught.value)
    assert not text or text not in str(caught.value)


def test_a_pipe_or_a_folder_does_not_stop_the_start(folder: Path) -> None:
    os.mkfifo(folder / "k1.key", 0o600)
    with pytest.raises(KeyRefused, match="not a regular file"):
        _load(folder)
    (folder / "k1.key").unlink()
    (folder / "k1.key").mkdir(mode=0o700)
    with pytest.raises(KeyRefused, match="not a regular file"):
        _load(folder)


@pytest.mark.parametrize("name", ["K1.key", "my key.key", "-k.key", "k..-.key"])
def test_a_name_that_is_no_key_id_is_refused(folder: Path, name: str) -> None:
    _put(folder, name)
    with pytest.raises(KeyRefused, match="no good key id"):
        _load(folder)


def test_other_files_are_left_alone(folder: Path) -> None:
    _put(folder, "k1.key")
    for name in ("README", "k1.key~", ".k2.key.new", ".k3.key"):
        _put(folder, name, text="nothing")
    assert _load(folder).ids == {"k1"}


# Mounted secrets and the variable


def test_mounted_secrets_may_be_readable_but_not_writable_by_others(folder: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "secrets"
    mounted.mkdir()
    _put(mounted, "other-secret", text="not ours")
    path = _put(mounted, "relay-key-m7", mode=0o444)
    assert _load(folder, mounted).ids == {"m7"}
    path.chmod(0o464)
    with pytest.raises(KeyRefused, match=f"chmod go-w {path}"):
        _load(folder, mounted)


def test_a_credential_that_systemd_loaded_is_a_key(folder: Path, tmp_path: Path) -> None:
    loaded = tmp_path / "credentials"
    loaded.mkdir()
    _put(loaded, "other-credential", text="not ours")
    _put(loaded, "relay-key-sealed", mode=0o440)  # its mode where an access list names the service's user
    environ = {"CREDENTIALS_DIRECTORY": str(loaded)}
    ring = load_key_ring(folder, environ=environ, secrets_dir=None)
    assert ring.ids == {"sealed"}
    assert create_first_key(folder, ring)[1] is False
    loaded.joinpath("relay-key-sealed").unlink()
    assert load_key_ring(folder, environ=environ, secrets_dir=None).ids == frozenset()


def test_a_mounted_secret_may_be_a_link_as_kubernetes_makes_them(folder: Path, tmp_path: Path) -> None:
    mounted, data = tmp_path / "secrets", tmp_path / "secrets" / "..data"
    data.mkdir(parents=True)
    _put(data, "relay-key-m7", mode=0o444)
    (mounted / "relay-key-m7").symlink_to("..data/relay-key-m7")
    assert _load(folder, mounted).ids == {"m7"}


def test_the_variable_is_taken_out_of_the_environment(folder: Path) -> None:
    environ = {"RELAY_MASTER_KEY": _master(), "PATH": "/bin"}
    ring = load_key_ring(folder, environ=environ, secrets_dir=None)
    assert ring.primary.id == "m1"
    assert ring.sources() == {"m1": "RELAY_MASTER_KEY"}
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("value", ["abc", ":" + "a" * 44, "M 1:" + "a" * 44, "m1:", "m1:hunter2hunter2"])
def test_a_bad_variable_is_refused_without_showing_it(folder: Path, value: str) -> None:
    with pytest.raises(KeyRefused, match="RELAY_MASTER_KEY") as caught:
        _load(folder, RELAY_MASTER_KEY=value)
    assert "hunter2" not in str(caught.value)


def test_an_empty_variable_is_none(folder: Path) -> None:
    assert _load(folder, RELAY_MASTER_KEY="").ids == frozenset()


def test_one_name_for_two_keys_is_refused_one_key_twice_is_not(folder: Path) -> None:
    path = _put(folder, "m1.key")
    assert _load(folder, RELAY_MASTER_KEY=f"m1:{path.read_text()}").ids == {"m1"}
    with pytest.raises(KeyRefused, match="differs from the key m1"):
        _load(folder, RELAY_MASTER_KEY=_master("m1"))


# Which is primary


def test_primary_is_the_named_one_else_the_variable_else_the_last_by_name(folder: Path) -> None:
    for name in ("a.key", "c.key", "b.key"):
        _put(folder, name)
    assert _load(folder).primary.id == "c"
    assert _load(folder, RELAY_MASTER_KEY=_master("a0")).primary.id == "a0"
    _load(folder).make_primary("b")
    assert _load(folder, RELAY_MASTER_KEY=_master("a0")).primary.id == "b"
    assert (folder / "primary").read_text() == "b\n"


def test_a_primary_that_is_not_there_is_missing_not_replaced(folder: Path) -> None:
    _put(folder, "a.key")
    _put(folder, "primary", text="b\n")
    with pytest.raises(KeyMissing) as caught:
        _load(folder)
    assert caught.value.key_ids == ("b",)
    with pytest.raises(NoSuchKey):
        KeyRing([], None, folder).make_primary("b")


def test_a_new_key_does_not_become_primary_by_its_name(folder: Path) -> None:
    _put(folder, "a.key")
    ring = _load(folder)
    added = ring.add()
    assert added.id > "a"
    assert ring.primary.id == _load(folder).primary.id == "a"
    ring.make_primary(added.id)
    assert ring.primary.id == _load(folder).primary.id == added.id
    assert _load(folder).key(added.id).same_material(added)


def test_only_an_unused_file_of_ours_is_dropped(folder: Path) -> None:
    _put(folder, "a.key")
    ring = _load(folder, RELAY_MASTER_KEY=_master("m1"))
    ring.make_primary("a")
    with pytest.raises(KeyNotDroppable, match="primary"):
        ring.drop("a")
    with pytest.raises(KeyNotDroppable, match="RELAY_MASTER_KEY"):
        ring.drop("m1")
    with pytest.raises(NoSuchKey):
        ring.drop("x")
    ring.make_primary("m1")
    ring.drop("a")
    assert ring.ids == {"m1"}
    assert not (folder / "a.key").exists()


# The first key


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_first_key_is_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    keys_dir = tmp_path / "keys"
    keys_dir.mkdir(mode=0o700)
    before = os.umask(umask)
    try:
        ring, created = create_first_key(
            keys_dir, load_key_ring(keys_dir, environ={}, secrets_dir=None, today=lambda: date(2026, 11, 23))
        )
    finally:
        os.umask(before)
    assert created
    path = keys_dir / f"{ring.primary.id}.key"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert ring.primary.id.startswith("k2026-11-23-")
    assert len(path.read_text()) == 65
    assert _load(keys_dir).primary.same_material(ring.primary)


def test_the_folder_is_made_private(tmp_path: Path) -> None:
    keys_dir = tmp_path / "deep" / "keys"
    create_first_key(keys_dir, _load(keys_dir))
    assert keys_dir.stat().st_mode & 0o7777 == 0o700


def test_a_ring_with_a_key_gets_no_other(folder: Path) -> None:
    ring = _load(folder, RELAY_MASTER_KEY=_master())
    assert create_first_key(folder, ring) == (ring, False)
    assert list(folder.iterdir()) == []


def test_what_a_crash_left_is_no_key_and_goes_away(folder: Path) -> None:
    _put(folder, ".k2026-01-01-aaaa.key.new", text="half a k")
    ring, created = create_first_key(folder, _load(folder))
    assert created
    assert sorted(path.name for path in folder.iterdir()) == [".lock", f"{ring.primary.id}.key"]


def test_an_existing_key_is_never_overwritten(folder: Path) -> None:
    path = _put(folder, "k1.key")
    before = path.read_text()
    with keyfiles.locked(folder), pytest.raises(KeyRefused, match="exists already"):
        keyfiles.write(folder, "k1.key", "other", replace=False)
    assert path.read_text() == before


def test_of_many_processes_that_start_at_once_one_makes_the_key(tmp_path: Path) -> None:
    keys_dir = tmp_path / "keys"
    program = (
        "import sys; from pathlib import Path\n"
        "from relay.credentials.keyring import create_first_key, load_key_ring\n"
        "keys_dir = Path(sys.argv[1])\n"
        "ring = load_key_ring(keys_dir, environ={}, secrets_dir=None)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "ring, created = create_first_key(keys_dir, ring)\n"
        "print(ring.primary.id, created)\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(keys_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=30)[0].split() for racer in racers]
    assert len({key_id for key_id, _ in said}) == 1
    assert sorted(created for _, created in said) == ["False"] * 5 + ["True"]
    assert len(list(keys_dir.glob("*.key"))) == 1


def test_a_lock_that_is_never_given_back_ends_in_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "_LOCK_WAIT_S", 0.05)
    with keyfiles.locked(folder), pytest.raises(KeyRefused, match="another process"), keyfiles.locked(folder):
        pass


def test_a_ring_shows_ids_only(folder: Path) -> None:
    path = _put(folder, "k1.key")
    ring = _load(folder)
    assert repr(ring) == "KeyRing(ids=['k1'], primary='k1')"
    assert path.read_text().strip() not in repr(ring.primary)
