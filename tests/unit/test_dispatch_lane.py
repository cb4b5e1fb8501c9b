"""What a lane answers to a transport."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from relay.accounts.model import Account
from relay.accounts.upstream import fill
from relay.config.settings import UpstreamDefaults
from relay.dispatch.attempt import Attempt
from relay.dispatch.lane import Lane
from relay.dispatch.worker import Worker
from tests.store import arrival, open_store


@pytest.mark.parametrize("in_doubt", ["retry", "hold"])
async def test_a_dot_that_is_asked_for_again_is_marked_once(tmp_path: Path, in_doubt: str) -> None:
    upstream = fill(Account(1, "app@example.com", "custom", "none", in_doubt=in_doubt), UpstreamDefaults())  # type: ignore[arg-type]
    async with open_store(tmp_path, clean_end=False) as store:
        await store.queue.accept(arrival())
        [message] = store.fresh
        services = SimpleNamespace(queue=store.queue)
        worker = Worker(Lane(1, services), upstream, services, begun=lambda: None)  # type: ignore[arg-type]
        attempt = Attempt(
            message.id, message.reverse_path, ("ann@example.org",), b"", 0, False, False, message, upstream, 0.0
        )
        for _ in range(2):
            allowed = worker.before_dot(attempt)
            assert allowed if isinstance(allowed, bool) else await allowed
        assert attempt.slot is not None
        store.queue.dot_settled(attempt.slot)
    async with open_store(tmp_path) as store:
        assert (store.in_doubt == []) == (in_doubt == "retry")  # those that hold have the durable mark
