"""The image, built once for all tests that run it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.image.engine import Image, missing

NEEDS_IMAGE = [
    pytest.mark.skipif("IMAGE_TEST" not in os.environ, reason="the image is built by `make image-test`"),
    pytest.mark.skipif(missing() != "", reason=missing()),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    built = Image(tmp_path_factory.mktemp("image"))
    yield built
    built.close()
