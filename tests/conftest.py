"""For all tests."""

from __future__ import annotations

import pytest

from relay.telemetry import redaction
from tests import costs, forkserver


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(costs.OPTION, metavar="FILE", help="write what each test costs in processor time to FILE")


def pytest_configure(config: pytest.Config) -> None:
    costs.register(config)


def pytest_unconfigure() -> None:
    forkserver.close()


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> None:
    """Secrets are masked for as long as a process lives; here one process runs many tests."""
    redaction.LIVE.__init__()  # type: ignore[misc]
