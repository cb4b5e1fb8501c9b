"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from relay.accounts import passwords
from relay.telemetry import redaction
from tests import costs, forkserver
from tests.lengths import examples

if TYPE_CHECKING:
    from tests.peers.authority import Authority

_HASHER = passwords._hasher  # the program's own


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(costs.OPTION, metavar="FILE", help="write what each test costs in processor time to FILE")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("relay", max_examples=examples(50))
    settings.load_profile("relay")
    costs.register(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The dearest first: with -n no process is left alone with them at the end. A stable sort: modules stay whole."""
    dearest = ("system", "browser", "interop", "contract", "wire")
    items.sort(key=lambda item: next((n for n, name in enumerate(dearest) if name in item.path.parts), len(dearest)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """With `--dist loadfile` the modules of tests/browser go to one process: one browser and one console serve all."""
    return _Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        module = super()._split_scope(nodeid)
        return "tests/browser" if module.startswith("tests/browser/") else module


def pytest_unconfigure() -> None:
    forkserver.close()


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> None:
    """Secrets are masked for as long as a process lives; here one process runs many tests."""
    redaction.LIVE.__init__()  # type: ignore[misc]


@pytest.fixture(autouse=True, scope="session")
def _cheap_passwords() -> Iterator[None]:
    """Most tests hash passwords in passing, for which 64 MiB and 100 ms each are too dear."""
    forkserver.hash_cheaply()
    yield
    passwords._hasher = _HASHER


@pytest.fixture
def costly_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests of how they are hashed: as the program does it."""
    monkeypatch.setattr(passwords, "_hasher", _HASHER)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """An authorization server over loopback, for all tests of a module that sign in somewhere."""
    from tests.peers.authority import running_authority  # some tests need it, and it takes long to import

    with running_authority(tmp_path_factory.mktemp("authority")) as running:
        yield running
