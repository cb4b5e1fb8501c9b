"""For all tests."""

from __future__ import annotations

import pytest

from relay.telemetry import redaction


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> None:
    """Secrets are masked for as long as a process lives; here one process runs many tests."""
    redaction.LIVE.__init__()  # type: ignore[misc]
