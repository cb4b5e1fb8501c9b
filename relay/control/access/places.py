"""Shares out what may be under way at once: nobody from the web takes the places of others, or of the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from relay.control.access.model import Principal
from relay.control.refusal import ControlError

ALL = 64  # connections of the control socket
OF_WEB = 48  # the rest is for the machine's operators
OF_OWNERS = 24  # of those of the web: an owner's test takes as long as a mail server lets it
OF_ONE = 16  # of one person or program
_WAIT_S = 2


class Places:
    """Those of one control socket."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    @contextmanager
    def of_web(self) -> Iterator[None]:
        """One of the web's, whoever it is for. Raises ControlError (throttled)."""
        with self._one("web", OF_WEB):
            yield

    @contextmanager
    def of(self, principal: Principal) -> Iterator[None]:
        """One of this person's or program's. Raises ControlError (throttled)."""
        with self._one(f"one {principal.name}", OF_ONE):
            if principal.accounts is None:
                yield
            else:
                with self._one("owners", OF_OWNERS):
                    yield

    @contextmanager
    def _one(self, share: str, most: int) -> Iterator[None]:
        if self._taken[share] >= most:
            whose = "of yours " if share.startswith("one ") else ""
            raise ControlError(f"too much {whose}is under way at once", "try again in a moment", "throttled", _WAIT_S)
        self._taken[share] += 1
        try:
            yield
        finally:
            self._taken[share] -= 1
            if not self._taken[share]:
                del self._taken[share]
