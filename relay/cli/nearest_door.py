"""Which front door `relay sendmail` takes when none is named: what the settings say, if this user may read them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from relay.cli.submitting import PORT, Server

if TYPE_CHECKING:
    from relay.config.sources import Given

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_SECRETS = "/run/secrets"


def nearest_door() -> Server:
    """The first Unix socket, else the first door that needs no TLS, else 127.0.0.1:2525.

    Whoever calls may be any user in any folder: what is wrong with the settings or may not be read is passed over,
    and a relay.env that others may write does not count, for it could send the mail anywhere.
    """
    if not _anything_set():
        return Server()
    from pathlib import Path

    from relay.config.sources import gather

    with_file = "RELAY_ENV_FILE" in os.environ or _own("relay.env")
    given, _ = gather(os.environ, None if with_file else Path(os.devnull), Path(_SECRETS))
    return _choice(_doors(given))


def _anything_set() -> bool:
    """Whether it is worth to load what reads settings: that takes longer than all the rest."""
    if any(name.startswith("RELAY_LISTENER") or name == "RELAY_ENV_FILE" for name in os.environ) or _own("relay.env"):
        return True
    try:
        return any(name.upper().startswith("RELAY_LISTENER") for name in os.listdir(_SECRETS))
    except OSError:
        return False


def _own(path: str) -> bool:
    """A file of this user or of root that no others may write."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022


def _doors(given: Mapping[str, Given]) -> list[Mapping[str, Any]]:
    if "RELAY_LISTENERS" in given:
        try:
            doors = json.loads(given["RELAY_LISTENERS"].value)
        except ValueError:
            return []
        return [door for door in doors if isinstance(door, dict)] if isinstance(doors, list) else []
    prefix = "RELAY_LISTENER__"
    return [{name.removeprefix(prefix).lower(): it.value for name, it in given.items() if name.startswith(prefix)}]


def _choice(doors: list[Mapping[str, Any]]) -> Server:
    for door in doors:
        if isinstance(door.get("path"), str):
            return Server(path=door["path"])
    for door in doors:
        host, port = str(door.get("host", "127.0.0.1")), str(door.get("port", PORT))
        if str(door.get("tls", "")).lower() not in ("required", "implicit") and port.isdigit():
            return Server(host=_EVERY_ADDRESS.get(host, host), port=int(port))
    return Server()
