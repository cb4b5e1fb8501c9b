"""When the compose files are run, and that all of a module's tests share what one of them has built."""

from __future__ import annotations

import os

import pytest

from tests.compose.stack import missing

NEEDS_ENGINE = [
    pytest.mark.skipif("COMPOSE_TEST" not in os.environ, reason="the compose files are run by `make compose-test`"),
    pytest.mark.skipif("COMPOSE_TEST" in os.environ and missing() != "", reason=missing()),
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="module"),
]
