"""Reads the settings in a process of its own, so that what reading takes does not stay in the daemon's memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import relay
from relay.config.held import Reloading
from relay.config.wording import SettingsError

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

_LONGEST_S = 60.0
_KEPT_BACK = "RELAY_MASTER_KEY"  # not a setting: the key ring takes it out of the environment


class FirstReading:
    """Begun by the constructor, in a fork: this process has its own parts to load meanwhile.

    Make it before there are threads, which a fork would tear.
    """

    def __init__(self) -> None:
        self._pipe, theirs = os.pipe()
        self._child = os.fork()
        if self._child:
            os.close(theirs)
            return
        status = 1
        try:
            from relay.daemon.reading import answer

            with os.fdopen(theirs, "wb") as pipe:
                pipe.write(answer(b""))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # without the parent's exit handlers and buffers

    def settings(self) -> RelaySettings:
        """What it found, as `held.Held`. Blocking. Raises SettingsError."""
        with os.fdopen(self._pipe, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self._child, 0)
        return cast("RelaySettings", _found(answer, os.waitstatus_to_exitcode(status)))


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
    return cast("Reloading", _found(done.stdout, done.returncode))


def _found(answer: bytes, status: int) -> Any:
    if status:
        raise SettingsError([f"settings: what reads them ended with status {status}; standard error says why"])
    found = pickle.loads(answer)  # noqa: S301  (our own process wrote it)
    if isinstance(found, list):
        raise SettingsError(found)
    return found
