"""One connection of a lane: what it takes next, and whether a final dot may go out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from relay.accounts.model import Upstream
from relay.dispatch.attempt import Attempt
from relay.mail.outcome import Outcome
from relay.queue.ledger import LedgerFull
from relay.submission.transport import Submission

if TYPE_CHECKING:
    from relay.dispatch.lane import Lane, Services


class Worker:
    """The lane as one connection sees it (submission.transport.Source).

    `begun` is called once: when it takes for the first time, or ended without.
    """

    __slots__ = ("_begun", "_lane", "_services", "_took", "_upstream")

    def __init__(self, lane: Lane, upstream: Upstream, services: Services, *, begun: Callable[[], None]) -> None:
        self._lane, self._upstream, self._services, self._begun = lane, upstream, services, begun
        self._took = False

    async def run(self) -> None:
        """Carry what the lane gives until it gives nothing."""
        try:
            await self._services.transport.carry(self._upstream, self)
        finally:
            self._begin()

    def _begin(self) -> None:
        if not self._took:
            self._took = True
            self._begun()

    def take(self) -> Submission | None:
        """See `Source.take`."""
        self._begin()
        return self._lane.take(self._upstream)

    def before_dot(self, submission: Submission) -> Awaitable[bool] | bool:
        """See `Source.before_dot`."""
        assert isinstance(submission, Attempt)
        queue = self._services.queue
        if not queue.leased():
            return False
        if submission.slot is None:  # not asked before
            try:
                submission.slot = queue.dot(submission.message_id)
            except LedgerFull:
                return False
        if queue.shared or submission.upstream.in_doubt == "hold":
            return self._marked(submission)
        return True

    async def _marked(self, attempt: Attempt) -> bool:
        queue = self._services.queue
        if not await queue.mark_dot(attempt.message):
            attempt.fenced = True
            return False
        return queue.leased()  # the mark may have taken long, or this process may have stood still

    def report(self, submission: Submission, outcomes: Sequence[Outcome]) -> None:
        """See `Source.report`."""
        assert isinstance(submission, Attempt)
        self._lane.report(submission, outcomes)
