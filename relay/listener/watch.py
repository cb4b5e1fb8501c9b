"""The one timer of a session: too long idle, too slow in DATA, never between the final dot and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from relay.listener import replies
from relay.listener.intake import Intake
from relay.mail.reply import Reply

if TYPE_CHECKING:
    from relay.config.settings import ListenerSettings

_NEVER = float("inf")


class Watch:
    """Moving a deadline costs an assignment; the timer looks at it when it fires, and sets itself again."""

    __slots__ = (
        "_deadline",
        "_expired",
        "_idle_s",
        "_intake",
        "_loop",
        "_octets",
        "_rate",
        "_since",
        "_timer",
        "_window_s",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: ListenerSettings, expired: Callable[[Reply, str], None]
    ) -> None:
        self._loop = loop
        self._expired = expired
        self._idle_s = float(settings.idle_timeout_s)
        self._window_s = float(settings.data_rate_window_s)
        self._rate = settings.data_min_rate_bytes_s
        self._intake: Intake | None = None
        self._since = 0.0  # begin of the window the rate is measured over
        self._octets = 0  # had arrived by then
        self._deadline = loop.time() + self._idle_s
        self._timer = loop.call_later(min(self._idle_s, self._window_s), self._look)

    def command(self) -> None:
        """A complete command came (not: an octet came)."""
        self._deadline = self._loop.time() + self._idle_s

    def content(self, intake: Intake) -> None:
        """DATA begins: from here the rate counts."""
        self._intake = intake
        self._since = self._loop.time()
        self._octets = 0
        self._deadline = _NEVER

    def paused(self, seconds: float) -> None:
        """We kept the client waiting: that is not its slowness."""
        self._since += seconds

    def commit(self) -> None:
        """The final dot came: nothing may fire until it is answered."""
        self._intake = None
        self._deadline = _NEVER

    def linger(self, seconds: float) -> None:
        """The last reply is out; how long it may take to be read."""
        self._timer.cancel()
        self._intake = None
        self._deadline = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._look)

    def stop(self) -> None:
        """The connection is gone."""
        self._timer.cancel()
        del self._expired  # the session's: it and this would wait for the collector of cycles

    def _look(self) -> None:
        now = self._loop.time()
        wait = min(self._window_s, self._idle_s)
        intake = self._intake
        if intake is not None:
            passed = now - self._since
            if passed >= self._window_s - 0.001:
                if intake.received - self._octets < max(self._rate * passed, 1) and not intake.ended:
                    self._expired(replies.TOO_SLOW, "slow")
                    return
                self._since, self._octets = now, intake.received
                passed = 0.0
            wait = min(wait, self._window_s - passed)
        elif now >= self._deadline - 0.001:
            self._expired(replies.IDLE, "idle")
            return
        else:
            wait = min(wait, self._deadline - now)
        self._timer = self._loop.call_later(max(wait, 0.001), self._look)
