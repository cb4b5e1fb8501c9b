"""Where settings come from: environment, then `relay.env`, then the secrets folder; the first that has a name wins."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.config.variables import ENV_FILE, MASTER_KEY, lookalike, nearest, variables
from relay.config.wording import shown

_OURS = ("RELAY_", "SMTP_AUTH_", "IMAP_")
_MAX_BYTES = 1 << 20
# What Kubernetes puts into the environment for a service named "relay" or "relay-…".
_KUBERNETES = re.compile(
    r"RELAY_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


@dataclass(frozen=True, slots=True)
class Given:
    """A value somebody set, and where: `environment`, or the file's path."""

    value: str
    origin: str


def gather(environ: Mapping[str, str], env_file: Path | None, secrets_dir: Path) -> tuple[dict[str, Given], list[str]]:
    """What is set, by name, and what is wrong with names and files, a line each. Blank means not set."""
    given: dict[str, Given] = {}
    problems: list[str] = []
    named = env_file or (Path(environ[ENV_FILE]) if environ.get(ENV_FILE) else None)
    for name, value, origin in (
        *_environment(environ, problems),
        *_file(named or Path("relay.env"), named is not None, problems),
        *_secrets(secrets_dir, problems),
    ):
        if value.strip():
            given.setdefault(name, Given(value.strip(), origin))
    return given, problems


def _environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(environ):
        if not name.upper().startswith(_OURS) or name in (ENV_FILE, MASTER_KEY):
            continue
        if name in variables():
            yield name, environ[name], "environment"
        elif not _somebody_elses(name, environ[name]):
            problems.append(_unknown(name, ""))


def _somebody_elses(name: str, value: str) -> bool:
    if name.upper().startswith("RELAY_"):
        return bool(_KUBERNETES.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)
    return name not in variables() and not (name.upper() in variables() or lookalike(name))


def _unknown(name: str, origin: str) -> str:
    right = nearest(name)
    if name == MASTER_KEY:
        remedy = "a key does not belong in this file; give it in the environment or put a file into RELAY_KEYS_DIR"
        return f"{name}: {remedy}{origin}"
    remedy = f"did you mean {right}?" if right else "relay.env.example lists all there are"
    return f"{shown(name)}: there is no such setting; {remedy}{origin}"


def _file(path: Path, must_exist: bool, problems: list[str]) -> Iterator[tuple[str, str, str]]:
    if not os.path.isfile(path):  # unlike Path's, it says no in a folder of somebody else, too
        if must_exist:
            problems.append(
                f"{ENV_FILE}: {shown(str(path))} does not exist or is not a file; give the path of a readable file"
            )
        return
    text = _read(path, problems)
    if text is None:
        return
    import io

    from dotenv.parser import parse_stream

    seen: set[str] = set()
    for binding in parse_stream(io.StringIO(text)):
        at = f" ({path}, line {binding.original.line})"
        if binding.error or (binding.key is not None and binding.value is None):
            problems.append(f"{path}: line {binding.original.line} is not understood; give NAME=value")
        elif binding.key is None:
            continue
        elif binding.key not in variables():
            problems.append(_unknown(binding.key, at))
        elif binding.key in seen:
            problems.append(f"{binding.key}: set twice; give one value{at}")
        else:
            seen.add(binding.key)
            yield binding.key, binding.value or "", str(path)


def _secrets(folder: Path, problems: list[str]) -> Iterator[tuple[str, str, str]]:
    """One file a setting, named as the variable in either case; files of others are left alone."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        name = path.name.upper()
        if not name.startswith(_OURS) or not path.is_file() or name == MASTER_KEY:
            continue
        if name in variables():
            text = _read(path, problems)
            if text is not None:
                yield name, text, str(path)
        elif name.startswith("RELAY_"):
            problems.append(_unknown(path.name, f" ({path})"))


def _read(path: Path, problems: list[str]) -> str | None:
    try:
        with path.open("rb") as stream:
            octets = stream.read(_MAX_BYTES + 1)
        if len(octets) <= _MAX_BYTES:
            return octets.decode("utf-8")
        problems.append(f"{path}: larger than {_MAX_BYTES} bytes; this is no settings file")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror}); make it readable for this user, or remove it")
    except UnicodeDecodeError:
        problems.append(f"{path}: not UTF-8 text; save it as UTF-8")
    return None
