"""Does work in a fork: what it loads and leaves behind is gone with it, only its result stays."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class ForkEnded(Exception):
    """It ended without a result; why is on standard error. `status` is negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a process of ours ended with status {status}; standard error says why")
        self.status = status


class Fork(Generic[T]):
    """Begins `work` at once, beside whatever this process does meanwhile; its result must be picklable.

    Make it before there are threads, which a fork would tear. Raises OSError when there can be no process.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._pipe, theirs = os.pipe()
        self._child = os.fork()
        if self._child:
            os.close(theirs)
            return
        status = 1
        try:
            with os.fdopen(theirs, "wb") as pipe:
                pickle.dump(work(), pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # without the parent's exit handlers and buffers

    def result(self) -> T:
        """Wait for it. Once only. Raises ForkEnded."""
        with os.fdopen(self._pipe, "rb") as pipe:
            answer = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        if status:
            raise ForkEnded(status)
        return cast("T", pickle.loads(answer))  # noqa: S301  (our own process wrote it)
