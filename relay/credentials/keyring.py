"""The key ring: every key by its id, and which one is primary, the one that seals what is new.

Keys come from `<id>.key` in the keys folder, `relay-key-<id>` in the secrets folder and in the credentials that systemd
loaded for the service, and `RELAY_MASTER_KEY`.
Primary is the id in the file `primary` of the keys folder, else the one of `RELAY_MASTER_KEY`, else the last
by name (ids that are made here begin with the day).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, MutableMapping
from datetime import UTC, date, datetime
from pathlib import Path

from relay.credentials import keyfiles
from relay.credentials.errors import KeyMissing, KeyNotDroppable, KeyRefused, NoSuchKey
from relay.credentials.hardening import take_from_environment
from relay.credentials.sealing import KEY_BYTES, Key

MASTER_KEY = "RELAY_MASTER_KEY"
SECRETS_DIR = Path("/run/secrets")
_CREDENTIALS = "CREDENTIALS_DIRECTORY"  # systemd.exec(5), LoadCredential=; some versions show its files as mode 0440

_SUFFIX = ".key"
_MOUNTED_PREFIX = "relay-key-"
_PRIMARY = "primary"


def _today() -> date:
    return datetime.now(UTC).date()


class KeyRing:
    """Made by `load_key_ring`. May be used from any thread; changed by one at a time."""

    def __init__(
        self, keys: Iterable[Key], primary_id: str | None, keys_dir: Path, *, today: Callable[[], date] = _today
    ) -> None:
        self._keys = {key.id: key for key in keys}
        self._primary_id = primary_id
        self._keys_dir = keys_dir
        self._today = today

    def __repr__(self) -> str:
        return f"KeyRing(ids={sorted(self._keys)!r}, primary={self._primary_id!r})"

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all keys."""
        return frozenset(self._keys)

    @property
    def primary(self) -> Key:
        """The key that seals. Raises KeyMissing when the ring is empty."""
        if self._primary_id is None:
            raise KeyMissing(())
        return self._keys[self._primary_id]

    def key(self, key_id: str) -> Key:
        """Raises KeyMissing."""
        key = self._keys.get(key_id)
        if key is None:
            raise KeyMissing((key_id,))
        return key

    def sources(self) -> dict[str, str]:
        """Where each key came from, by id."""
        return {key_id: key.source for key_id, key in sorted(self._keys.items())}

    def add(self) -> Key:
        """Make a key, durable in the keys folder on return; not primary unless it is the first. Raises KeyRefused.

        Blocks for two syncs.  The primary is pinned before, so that the new name cannot take its place.
        """
        with keyfiles.locked(self._keys_dir):
            if self._primary_id is not None:
                keyfiles.write(self._keys_dir, _PRIMARY, f"{self._primary_id}\n", replace=True)
            key = _make(self._keys_dir, self._today())
        self._keys = {**self._keys, key.id: key}
        self._primary_id = self._primary_id or key.id
        return key

    def copy_to(self, folder: Path) -> list[str]:
        """Write every key, wherever it came from, into `folder` as a keys folder of its own; the ids. Blocking.

        Raises KeyRefused.
        """
        with keyfiles.locked(folder):
            for key in self._keys.values():
                keyfiles.write(folder, f"{key.id}{_SUFFIX}", key.text(), replace=False)
            if self._primary_id is not None:
                keyfiles.write(folder, _PRIMARY, f"{self._primary_id}\n", replace=True)
        return sorted(self._keys)

    def take_over(self, other: KeyRing) -> list[str]:
        """Add the keys of `other` that are not here, durable in the keys folder on return; their ids. Blocking.

        Of an empty ring the primary key becomes that of `other`; otherwise it stays.  Raises KeyRefused, also when a
        key here has the id of another one there; nothing was written then.
        """
        new = self._lacking(other)
        if not new:
            return []
        primary = self._primary_id or other._primary_id
        with keyfiles.locked(self._keys_dir):
            if self._primary_id is not None:  # pinned before, so that no new name takes its place
                keyfiles.write(self._keys_dir, _PRIMARY, f"{primary}\n", replace=True)
            for key in new:
                keyfiles.write(self._keys_dir, self._path(key.id).name, key.text(), replace=False)
            if self._primary_id is None:  # named after it is there
                keyfiles.write(self._keys_dir, _PRIMARY, f"{primary}\n", replace=True)
        self._keys = {**self._keys, **{key.id: key for key in new}}
        self._primary_id = primary
        return sorted(key.id for key in new)

    def joined(self, other: KeyRing) -> KeyRing:
        """What this ring would be after `take_over`; nothing is written. Raises KeyRefused."""
        keys = [*self._keys.values(), *self._lacking(other)]
        return KeyRing(keys, self._primary_id or other._primary_id, self._keys_dir, today=self._today)

    def _lacking(self, other: KeyRing) -> list[Key]:
        for key in other._keys.values():
            known = self._keys.get(key.id, key)
            if not known.same_material(key):
                raise KeyRefused(
                    known.source, f"differs from the key {key.id} in {key.source}", "move one of them away"
                )
        return [key for key in other._keys.values() if key.id not in self._keys]

    def make_primary(self, key_id: str) -> None:
        """Seal with `key_id` from now on; durable on return. Raises NoSuchKey, KeyRefused. Blocks for two syncs."""
        if key_id not in self._keys:
            raise NoSuchKey(key_id)
        with keyfiles.locked(self._keys_dir):
            keyfiles.write(self._keys_dir, _PRIMARY, f"{key_id}\n", replace=True)
        self._primary_id = key_id

    def check_droppable(self, key_id: str) -> None:
        """Raise NoSuchKey, or KeyNotDroppable for the primary and for keys that are not in the keys folder."""
        if key_id not in self._keys:
            raise NoSuchKey(key_id)
        if key_id == self._primary_id:
            raise KeyNotDroppable(key_id, "it is the primary key")
        source = self._keys[key_id].source
        if source != str(self._path(key_id)):
            raise KeyNotDroppable(key_id, f"it comes from {source}; remove it there")

    def drop(self, key_id: str) -> None:
        """Remove the key and its file. The caller has made sure that nothing is sealed under it.

        Raises NoSuchKey, KeyNotDroppable, KeyRefused.
        """
        self.check_droppable(key_id)
        with keyfiles.locked(self._keys_dir):
            keyfiles.remove(self._keys_dir, self._path(key_id).name)
        self._keys = {other: key for other, key in self._keys.items() if other != key_id}

    def _path(self, key_id: str) -> Path:
        return self._keys_dir / f"{key_id}{_SUFFIX}"


def load_key_ring(
    keys_dir: Path,
    *,
    environ: MutableMapping[str, str],
    secrets_dir: Path | None = SECRETS_DIR,
    today: Callable[[], date] = _today,
) -> KeyRing:
    """Read every key; the ring may be empty. Changes nothing but `environ`, from which RELAY_MASTER_KEY is taken.

    Raises KeyRefused (a file that others can read, an owner that is neither we nor root, no key, two keys of one
    name) and KeyMissing when `primary` names a key that is not there.
    """
    master = _from_environment(environ)
    loaded = environ.get(_CREDENTIALS)
    folders = (secrets_dir, Path(loaded) if loaded else None)
    mounted = [key for folder in folders if folder is not None for key in _from_secrets(folder)]
    keys: dict[str, Key] = {}
    for key in (*_from_folder(keys_dir), *mounted, *([master] if master else [])):
        known = keys.setdefault(key.id, key)
        if not known.same_material(key):
            raise KeyRefused(key.source, f"differs from the key {key.id} in {known.source}", "remove one of them")
    return KeyRing(keys.values(), _primary(keys_dir, keys, master), keys_dir, today=today)


def create_first_key(keys_dir: Path, ring: KeyRing) -> tuple[KeyRing, bool]:
    """A ring with a key: `ring`, or one with a key made now. The flag says whether this process made it.

    Several processes may try at once: one makes the key, the others find it.  Raises KeyRefused.
    """
    if ring.ids:
        return ring, False
    with keyfiles.locked(keys_dir):
        keyfiles.check_folder(keys_dir)
        found = _from_folder(keys_dir)
        if found:
            return KeyRing(found, _primary(keys_dir, {key.id: key for key in found}, None), keys_dir), False
        key = _make(keys_dir, ring._today())
    return KeyRing([key], key.id, keys_dir), True


def _make(keys_dir: Path, day: date) -> Key:
    """A new key, durable; read back, so that a file system that ignores modes is noticed now, not at the next start."""
    key_id = f"k{day.isoformat()}-{secrets.token_hex(2)}"
    name = f"{key_id}{_SUFFIX}"
    keyfiles.write(keys_dir, name, f"{secrets.token_bytes(KEY_BYTES).hex()}\n", replace=False)
    return _read_key(keys_dir / name, key_id)


def _from_folder(keys_dir: Path) -> list[Key]:
    keyfiles.check_folder(keys_dir)
    return [
        _read_key(keys_dir / name, name.removesuffix(_SUFFIX))
        for name in keyfiles.list_names(keys_dir)
        if name.endswith(_SUFFIX)
    ]


def _read_key(path: Path, key_id: str) -> Key:
    _check_id(key_id, str(path))
    return Key(key_id, keyfiles.parse_key(keyfiles.read_private(path), str(path)), str(path))


def _from_secrets(secrets_dir: Path) -> list[Key]:
    keys = []
    for name in keyfiles.list_names(secrets_dir, optional=True):
        if name.startswith(_MOUNTED_PREFIX):
            path = secrets_dir / name
            key_id = name.removeprefix(_MOUNTED_PREFIX)
            _check_id(key_id, str(path))
            keys.append(Key(key_id, keyfiles.parse_key(keyfiles.read_mounted(path), str(path)), str(path)))
    return keys


def _from_environment(environ: MutableMapping[str, str]) -> Key | None:
    value = take_from_environment(MASTER_KEY, environ)
    if not value:
        return None
    key_id, separator, text = value.partition(":")
    if not separator:
        raise KeyRefused(MASTER_KEY, "has no key id", "its form is <id>:<base64 of 32 random octets>")
    _check_id(key_id, MASTER_KEY)
    return Key(key_id, keyfiles.parse_key(text, MASTER_KEY), MASTER_KEY)


def _check_id(key_id: str, source: str) -> None:
    if not keyfiles.is_key_id(key_id):
        raise KeyRefused(source, "has no good key id", "use 1 to 64 of a-z 0-9 . _ - for it")


def _primary(keys_dir: Path, keys: dict[str, Key], master: Key | None) -> str | None:
    if _PRIMARY in keyfiles.list_names(keys_dir):
        named = keyfiles.read_mounted(keys_dir / _PRIMARY).strip()
        _check_id(named, str(keys_dir / _PRIMARY))
        if named not in keys:
            raise KeyMissing((named,))
        return named
    if master is not None:
        return master.id
    return max(keys, default=None)
