"""Every test of a store runs on both engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store import POSTGRESQL, use_engine


@pytest.fixture(params=["sqlite", POSTGRESQL])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine of the stores that a test opens."""
    if request.param == POSTGRESQL:
        from tests.postgresql import server

        server()  # skips where there is none
    before = use_engine(request.param)
    yield request.param
    use_engine(before)
