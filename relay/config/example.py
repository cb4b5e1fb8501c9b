"""Prints relay.env.example, made from the settings models: `python -m relay.config.example`."""

from __future__ import annotations

import sys

from relay.config.settings import RelaySettings
from relay.config.variables import Variable, variables

_HEAD = """\
# Settings of the relay, each with its default. Copy this file to relay.env and remove the "#" of what you change.
# It is looked for in the current folder; RELAY_ENV_FILE in the environment names it for commands run elsewhere.
# The environment wins over this file, this file over the secrets folder (/run/secrets, one file a setting).
# Lists take commas or JSON; yes/no take Y, N, yes, no, true, false, 1, 0; blank means not set. A misspelt name stops
# the start. Made by `make example`; edit relay/config/settings.py instead.

"""


def example() -> str:
    """The whole file."""
    lines = [_HEAD]
    section = ""
    for variable in variables().values():
        if variable.section != section:
            section = variable.section
            lines.append(f"\n# --- {_title(section)}\n")
        lines += _entry(variable)
    return "".join(lines)


def _title(section: str) -> str:
    annotation = RelaySettings.model_fields[section].annotation
    assert annotation is not None
    return (annotation.__doc__ or section).partition("\n")[0].partition(". `")[0].rstrip(".")


def _entry(variable: Variable) -> list[str]:
    fixed = "" if not variable.default or _writable(variable.default) else f" (default: {variable.default})"
    value = variable.default if _writable(variable.default) else ""
    return [f"# {variable.meaning}{fixed}\n", f"#{variable.name}={value}\n"]


def _writable(default: str) -> bool:
    """Whether a default can stand in the file as it is, and is not a sentence about it."""
    return " " not in default and "<" not in default


if __name__ == "__main__":
    sys.stdout.write(example())
