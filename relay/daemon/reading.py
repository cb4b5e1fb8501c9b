"""What the process that reads the settings for a daemon does (see `apart`)."""

from __future__ import annotations

import pickle
import sys

from relay.config.check import load
from relay.config.held import held
from relay.config.reloading import reloading
from relay.config.settings import RelaySettings
from relay.config.wording import SettingsError


def answer(before: RelaySettings | None) -> object:
    """The settings, `Held`; when those in force are given, what becomes of them; or a list of problems."""
    try:
        settings = load()
    except SettingsError as error:
        return list(error.problems)
    return held(settings) if before is None else reloading(before, settings)


def main() -> int:
    """The process of a reload: settings in force on standard input, the answer on standard output."""
    from relay.credentials.hardening import harden_process

    harden_process()
    before = pickle.load(sys.stdin.buffer)  # noqa: S301  (our daemon wrote it)
    pickle.dump(answer(before), sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
