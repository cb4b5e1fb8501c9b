"""Key files: read only when nobody else can write or read them, written so that a crash leaves all or nothing."""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.credentials.errors import KeyRefused
from relay.credentials.sealing import KEY_BYTES

_MAX_FILE_BYTES = 1024
_LOCK_WAIT_S = 10.0
_TEMPORARY = ".new"
_KEY_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_DISTINCT = 8  # 32 random octets with fewer distinct values: never; a row of zeros or a placeholder: always


def is_key_id(text: str) -> bool:
    """1-64 of a-z 0-9 . _ -, letter or digit at both ends: safe as a file name on any file system."""
    return _KEY_ID.fullmatch(text) is not None


def parse_key(text: str, source: str) -> bytes:
    """The 32 octets that `text` gives in hex or base64, white space around it allowed. Raises KeyRefused."""
    text = text.strip()
    material = b""
    try:
        material = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        pass  # refused below, where the text is no part of the error
    if len(material) != KEY_BYTES:
        raise KeyRefused(source, "is no key", f"it must be {KEY_BYTES} random octets, in hex or base64, one line")
    if len(set(material)) < _DISTINCT:
        raise KeyRefused(source, "is not random", "make one with `relay key add` or `openssl rand -base64 32`")
    return material


def read_private(path: Path) -> str:
    """The text of a file that only we or root can read and write (mode 0600 or stricter). Raises KeyRefused."""
    return _read(path, private=True)


def read_mounted(path: Path) -> str:
    """The text of a file that a container engine mounted: others may read it, none but its owner may write it."""
    return _read(path, private=False)


def check_folder(folder: Path) -> None:
    """Raise KeyRefused when others could put keys into `folder`, or it is no folder. Missing is fine."""
    try:
        facts = folder.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise KeyRefused(str(folder), _why(error), "let the relay's user own it") from None
    if not stat.S_ISDIR(facts.st_mode):
        raise KeyRefused(str(folder), "is not a folder", "point RELAY_KEYS_DIR to the folder of the key files")
    _check_owner(folder, facts)
    if facts.st_mode & 0o022:
        raise KeyRefused(str(folder), _mode(facts, "others can write to it"), f"run: chmod 700 {folder}")


def list_names(folder: Path, *, optional: bool = False) -> list[str]:
    """The names in `folder`, sorted; hidden ones left out; empty when it is missing. Raises KeyRefused.

    `optional`: empty also when we may not look into it.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        if optional and isinstance(error, PermissionError | NotADirectoryError):
            return []
        raise KeyRefused(str(folder), _why(error), "let the relay's user own it") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (made with mode 0700 when missing) against other processes that change keys in it.

    Raises KeyRefused when it cannot be had, or another process has kept it for ten seconds.
    """
    try:
        _make_folder(folder)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeyRefused(str(folder), _why(error), "make it a folder that the relay's user owns") from None
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KeyRefused(str(folder), "is held by another process", "end it, then try again") from None
                time.sleep(0.02)  # no loop runs here; flock has no time limit of its own
        yield
    finally:
        os.close(handle)


def write(folder: Path, name: str, text: str, *, replace: bool) -> None:
    """Write a 0600 file durably, whole or not at all. Call it under `locked`.

    Raises KeyRefused; also when the name is taken and `replace` is false.
    """
    path, temporary = folder / name, folder / f".{name}{_TEMPORARY}"
    try:
        if not replace and path.exists():
            raise KeyRefused(str(path), "exists already", "choose another key id")
        for stale in folder.glob(f".*{_TEMPORARY}"):
            stale.unlink()  # left by a crash; nobody else writes while we hold the lock
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        raise KeyRefused(str(path), _why(error), "the relay's user must be able to write there") from None


def remove(folder: Path, name: str) -> None:
    """Remove a file durably. Call it under `locked`. Raises KeyRefused."""
    try:
        (folder / name).unlink(missing_ok=True)
        _sync_folder(folder)
    except OSError as error:
        raise KeyRefused(str(folder / name), _why(error), "the relay's user must be able to write there") from None


def _read(path: Path, *, private: bool) -> str:
    try:
        # O_NONBLOCK: a pipe in the place of a key does not stop the start.  The open file is judged, not its
        # name, so that nothing can be exchanged in between.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            facts = os.fstat(handle)
            _check_file(path, facts, private=private)
            data = os.read(handle, _MAX_FILE_BYTES + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise KeyRefused(str(path), _why(error), "let the relay's user own it, mode 0600") from None
    if len(data) > _MAX_FILE_BYTES or not data.isascii():
        raise KeyRefused(str(path), "is no key file", "it must hold one line of hex or base64")
    return data.decode("ascii")


def _check_file(path: Path, facts: os.stat_result, *, private: bool) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise KeyRefused(str(path), "is not a regular file", "put a key file in its place")
    if private:
        _check_owner(path, facts)
        if facts.st_mode & 0o077:
            raise KeyRefused(str(path), _mode(facts, "others can get at the key"), f"run: chmod 600 {path}")
    elif facts.st_mode & 0o022:
        raise KeyRefused(str(path), _mode(facts, "others can write to it"), f"run: chmod go-w {path}")


def _check_owner(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid not in (os.geteuid(), 0):
        raise KeyRefused(
            str(path), f"belongs to user {facts.st_uid}", f"give it to the relay's user: chown {os.geteuid()} {path}"
        )


def _mode(facts: os.stat_result, reason: str) -> str:
    return f"has mode {stat.S_IMODE(facts.st_mode):04o}, {reason}"


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)  # a new name survives a power cut only when its folder was synced
    finally:
        os.close(handle)
