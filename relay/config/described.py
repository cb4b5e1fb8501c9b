"""Every setting as people want to see it: name, value, where it came from, default, meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.config.check import SECRETS_DIR
from relay.config.settings import RelaySettings
from relay.config.sources import gather
from relay.config.variables import as_text, variables


@dataclass(frozen=True, slots=True)
class Described:
    """`origin` is `default`, `environment`, or the file that set it."""

    name: str
    value: str
    origin: str
    default: str
    meaning: str


def describe(
    settings: RelaySettings,
    environ: Mapping[str, str],
    *,
    env_file: Path | None = None,
    secrets_dir: Path = SECRETS_DIR,
) -> Iterator[Described]:
    """All settings in the order of relay.env.example; `settings` must have been loaded from the same sources."""
    given, _ = gather(environ, env_file, secrets_dir)
    for variable in variables().values():
        origin = given[variable.name].origin if variable.name in given else "default"
        value = _value(settings, variable.name, variable.path)
        yield Described(variable.name, value, origin, variable.default, variable.meaning)


def _value(settings: RelaySettings, name: str, path: tuple[str, ...]) -> str:
    if name == "RELAY_LISTENERS":
        return f"{len(settings.listeners)} front doors" if settings.listeners else ""
    value: object = settings
    for part in path:
        value = getattr(value, part)
    if path[-1] != "tls" or path[0] == "listener":
        return as_text(value)
    if name == "SMTP_AUTH_SSL":
        return "Y" if value == "implicit" else ""
    return "N" if value == "none" else "Y"
