"""The backup file: a tar whose first member, `manifest.json`, names every other one with its size and SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from relay.control.refusal import ControlError

FORMAT = 1
MANIFEST = "manifest.json"
_MAX_MANIFEST = 256 << 20  # octets: more than a million spool files
_BLOCK = 1 << 20
# Whatever else a tar can hold (links, devices, absolute names, `..`) is refused by name or by kind.
_NAME = re.compile(r"relay\.db|spool/[0-9a-f]{32}|keys/(?:primary|[a-z0-9][a-z0-9._-]{0,63}\.key)")
_WHOLE = "take another copy of the file, or make a new backup"


def write_archive(path: Path, folder: Path, facts: Mapping[str, Any]) -> int:
    """Pack the files of `folder` into `path` (mode 0600, must not exist, synced on return); its size in octets.

    `facts` go into the manifest beside `members`.  Raises ControlError, OSError; no file is left then.
    """
    if path.exists() or path.is_symlink():
        raise ControlError(f"{path} exists", "give another name, or move it away")
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            _pack(file, folder, facts)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.link(part, path)  # unlike a rename it never replaces what somebody else put there meanwhile
    except FileExistsError:
        raise ControlError(f"{path} exists", "give another name, or move it away") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    _sync_folder(path.parent)
    return size


def _pack(file: IO[bytes], folder: Path, facts: Mapping[str, Any]) -> None:
    names = sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if not found.is_dir())
    names = [name for name in names if _NAME.fullmatch(name)]
    members = {name: _described(folder / name) for name in names}
    text = json.dumps({"format": FORMAT, **facts, "members": members}, indent=1).encode()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_header(MANIFEST, len(text)), io.BytesIO(text))
        for name in names:
            with _reading(folder / name) as source:
                tar.addfile(_header(name, members[name]["size"]), source)


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o600, int(time.time())
    return header


def _described(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    with _reading(path) as source:
        while block := source.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def _reading(path: Path) -> IO[bytes]:
    """Root may do this in the folder of another user: a link in the place of a file is not followed."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ControlError(f"{path} is no file", "repeat the command")
    return open(handle, "rb")


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[tuple[tarfile.TarFile, dict[str, Any]]]:
    """The archive behind its manifest, and the manifest. Raises ControlError: no backup, or of a newer program."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar, _manifest(tar)
    except tarfile.TarError:
        raise ControlError(f"{path} is no backup, or not all of it", _WHOLE) from None
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror or error}", "give a backup that can be read") from None


def _manifest(tar: tarfile.TarFile) -> dict[str, Any]:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > _MAX_MANIFEST:
        raise ControlError("that is no backup of the relay: it does not begin with a manifest", "give another file")
    source = tar.extractfile(first)
    try:
        manifest = json.loads(source.read() if source is not None else b"")
    except (ValueError, RecursionError):
        raise ControlError("the manifest of the backup cannot be read", _WHOLE) from None
    match manifest:
        case {"format": int(number)} if number > FORMAT:
            raise ControlError(f"the backup has format {number}, this program knows {FORMAT}", "use the newer program")
        case {"format": int(), "schema": str(), "members": dict(members), "in_dot": list(), "missing": list()}:
            for name, facts in members.items():
                _check_entry(name, facts)
            return manifest  # type: ignore[no-any-return]
    raise ControlError("the manifest of the backup lacks something", _WHOLE)


def _check_entry(name: str, facts: object) -> None:
    match facts:
        case {"size": int(size), "sha256": str(digest)} if size >= 0 and len(digest) == 64 and _NAME.fullmatch(name):
            return
    raise ControlError("the manifest of the backup names what no backup holds", "do not use this file")


def unpack(tar: tarfile.TarFile, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write every member into `folder`, each one proved by its checksum. Blocking.

    Raises ControlError when anything is missing, changed, or not in the manifest; OSError.
    """
    expected = dict(manifest["members"])
    for part in (folder, folder / "spool", folder / "keys"):
        part.mkdir(mode=0o700, exist_ok=True)
    while (member := tar.next()) is not None:
        facts = expected.pop(member.name, None)
        if facts is None or not member.isreg() or member.size != facts["size"]:
            raise ControlError(f"{member.name[:80]!r} does not belong into the backup", "do not use this file")
        source = tar.extractfile(member)
        assert source is not None
        if _copied(source, folder / member.name) != facts["sha256"]:
            raise ControlError(f"{member.name} was changed since the backup was made", _WHOLE)
    if expected:
        raise ControlError(f"{min(expected)} is missing in the backup", _WHOLE)


def _copied(source: IO[bytes], target: Path) -> str:
    """Copy, synced; the SHA-256 of it."""
    digest = hashlib.sha256()
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        while block := source.read(_BLOCK):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
