"""The process that reads the settings: what it found arrives, what is wrong is told, also when it ends itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.check import load
from relay.config.held import held
from relay.config.wording import SettingsError
from relay.daemon import apart


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELAY_DATA_DIR", str(tmp_path / "data"))
    return monkeypatch


def test_at_a_start_it_is_a_fork(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RELAY_NOTICES__URLS", "json://me:hunter2@host/")
    assert apart.FirstReading().settings() == held(load())


def test_at_a_reload_it_says_what_changed(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = held(load())
    (tmp_path / "relay.env").write_text("RELAY_DISPATCH__PROBE_S=5\n")  # found by the working folder
    environment.setenv("RELAY_MASTER_KEY", "not for it")
    new = apart.reload(before)
    assert new.changed == ("RELAY_DISPATCH__PROBE_S",)
    assert new.settings == held(load())


def test_every_problem_arrives(environment: pytest.MonkeyPatch) -> None:
    before = held(load())
    environment.setenv("RELAY_LISTENER__PORT", "x")
    environment.setenv("RELAY_LOG__LEVEL", "loud")
    with pytest.raises(SettingsError) as whole:
        load()
    for read in (lambda: apart.FirstReading().settings(), lambda: apart.reload(before)):
        with pytest.raises(SettingsError) as told:
            read()
        assert told.value.problems == whole.value.problems


def test_one_that_ends_itself_is_told(
    environment: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encodings").mkdir()
    environment.setenv("PYTHONHOME", str(tmp_path))  # no interpreter can start there
    with pytest.raises(SettingsError, match="standard error says why"):
        apart.reload(held(load()))
    assert capfd.readouterr().err
