"""Loads the settings, or says in a line each which variable is wrong, how, and what its right form is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from relay.config.campus import imap_values, upstream_values
from relay.config.settings import RelaySettings
from relay.config.sources import Given, gather
from relay.config.variables import name_of, variables
from relay.config.wording import SettingsError, Wrong, shown

SECRETS_DIR = Path("/run/secrets")
_SECRET = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|HEADERS|URL|_PROXY$|_KEY$", re.IGNORECASE)


def load(
    environ: Mapping[str, str] | None = None, *, env_file: Path | None = None, secrets_dir: Path = SECRETS_DIR
) -> RelaySettings:
    """The settings of this process: environment, then `relay.env` (or RELAY_ENV_FILE), then the secrets folder.

    `environ` None: the environment of this process.  Raises SettingsError with every problem found, not just the first.
    """
    given, problems = gather(os.environ if environ is None else environ, env_file, secrets_dir)
    tree = _tree(given, problems)
    try:
        settings = RelaySettings(**tree)
    except ValidationError as error:
        named = {problem.partition(":")[0] for problem in problems}
        problems += [line for name, line in _lines(error, given) if name not in named]
        settings = None
    if problems or settings is None:
        raise SettingsError(problems) from None  # the ValidationError carries values
    return settings


def _tree(given: Mapping[str, Given], problems: list[str]) -> dict[str, Any]:
    """The nested form the models read."""
    tree: dict[str, Any] = {}
    for name, entry in given.items():
        path = variables()[name].path
        if path[0] in ("upstream", "imap"):
            continue
        if name == "RELAY_LISTENERS":
            doors = _doors(entry.value, problems)
            if doors is not None:
                tree["listeners"] = doors
        else:
            branch = tree.setdefault(path[0], {}) if len(path) > 1 else tree
            branch[path[-1]] = entry.value
    for section, values in (("upstream", upstream_values(given, problems)), ("imap", imap_values(given, problems))):
        if values:
            tree[section] = values
    return tree


def _doors(text: str, problems: list[str]) -> list[Any] | None:
    try:
        doors = json.loads(text)
    except ValueError:
        doors = None
    if isinstance(doors, list) and doors and all(isinstance(door, dict) for door in doors):
        return doors
    problems.append(
        'RELAY_LISTENERS: not a JSON list of front doors; give a list such as [{"host": "10.1.2.3", "port": 2525}]'
    )
    return None


def _lines(error: ValidationError, given: Mapping[str, Given]) -> list[tuple[str, str]]:
    """Name and line of each problem pydantic found; one a variable."""
    lines: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        cause = entry.get("ctx", {}).get("error")
        path = tuple(entry["loc"])
        if isinstance(cause, Wrong) and cause.field:
            path = (*path, *cause.field.split("__"))
        name = name_of(path)
        if name in lines:
            continue
        if isinstance(cause, Wrong):
            text = _with_names(cause.text, path)
        elif entry["type"] == "extra_forbidden":
            text = "there is no such setting; relay.env.example lists those of a front door"
        else:
            form = _form(path)
            value = "the value given" if _SECRET.search(name) else shown(entry["input"])
            text = f"{value} is not {form.noun}; give {form.right}"
        origin = given[name].origin if name in given else "environment"
        lines[name] = f"{name}: {text}" + (f" ({origin})" if origin != "environment" else "")
    return list(lines.items())


def _form(path: tuple[str | int, ...]) -> Any:
    """The form of the field at `path`; a door of RELAY_LISTENERS has those of RELAY_LISTENER__*."""
    parts = ("listener", *path[2:3]) if path[:1] == ("listeners",) and len(path) > 2 else path
    name = name_of(tuple(parts))
    return variables()[name].form if name in variables() else variables()["RELAY_LISTENERS"].form


def _with_names(text: str, path: tuple[str | int, ...]) -> str:
    """Bare names of neighbouring fields, such as TLS_CERT, written as the variables they are."""
    if len(path) != 2 or f"RELAY_{path[0]}__".upper() + str(path[1]).upper() not in variables():
        return text
    prefix = f"RELAY_{path[0]}__".upper()
    return re.sub(
        r"\b[A-Z][A-Z_]+\b", lambda word: prefix + word[0] if prefix + word[0] in variables() else word[0], text
    )
