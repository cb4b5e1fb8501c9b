"""What the process that reads the settings for a daemon does (see `apart`)."""

from __future__ import annotations

import pickle
import sys

from relay.config.check import load
from relay.config.held import held
from relay.config.reloading import reloading
from relay.config.wording import SettingsError


def answer(before: bytes) -> bytes:
    """Pickled: the settings; or, when those in force are given, a `Reloading`; or a list of problems."""
    found: object
    try:
        settings = load()
        found = reloading(pickle.loads(before), settings) if before else held(settings)  # noqa: S301  (our daemon's)
    except SettingsError as error:
        found = list(error.problems)
    return pickle.dumps(found)


def main() -> int:
    """The process of a reload: settings in force on standard input, the answer on standard output."""
    from relay.credentials.hardening import harden_process

    harden_process()
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
