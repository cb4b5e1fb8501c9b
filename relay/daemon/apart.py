"""Reads the settings in a process of its own, so that what reading takes does not stay in the daemon's memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import relay
from relay.config.fork import Fork, ForkEnded
from relay.config.held import Reloading
from relay.config.wording import SettingsError

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

_LONGEST_S = 60.0
_KEPT_BACK = "RELAY_MASTER_KEY"  # not a setting: the key ring takes it out of the environment


class FirstReading:
    """Begun by the constructor, in a fork: this process has its own parts to load meanwhile."""

    def __init__(self) -> None:
        self._fork = Fork(_answer)

    def settings(self) -> RelaySettings:
        """What it found, as `held.Held`. Blocking. Raises SettingsError."""
        try:
            found = self._fork.result()
        except ForkEnded as ended:
            raise _died(ended.status) from None
        return cast("RelaySettings", _right(found))


def _answer() -> object:
    from relay.daemon.reading import answer

    return answer(None)


def reload(before: RelaySettings) -> Reloading:
    """Read the settings again; what becomes of those in force. Blocking. Raises SettingsError, OSError.

    In a new interpreter, since there are threads now.  It gets our environment and our working folder, where the
    settings are; only we read its answer.
    """
    environ = {name: value for name, value in os.environ.items() if name != _KEPT_BACK}
    home = str(Path(relay.__file__).resolve().parents[1])
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            (sys.executable, "-P", "-m", "relay.daemon.reading"),  # -P: no module comes from wherever we were started
            input=pickle.dumps(before),
            stdout=subprocess.PIPE,
            env=environ,
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SettingsError([f"settings: not read within {_LONGEST_S:g} s; see to their files"]) from None
    if done.returncode:
        raise _died(done.returncode)
    return cast("Reloading", _right(pickle.loads(done.stdout)))  # noqa: S301  (our own process wrote it)


def _right(found: object) -> object:
    """Unless it is a list of problems."""
    if isinstance(found, list):
        raise SettingsError(found)
    return found


def _died(status: int) -> SettingsError:
    return SettingsError([f"settings: what reads them ended with status {status}; standard error says why"])
