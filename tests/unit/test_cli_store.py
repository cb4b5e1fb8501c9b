"""Where commands look for the store, and that the wrong folder gets none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.command_line import Run, add, refused
from tests.unit.test_cli import ALL

# What its arguments are does not matter: there is no store.
ELSEWHERE = {
    "account list": "",
    "account show": "a@example.com",
    "account test": "a@example.com",
    "account set": "a@example.com --per-day 1",
    "account suspend": "a@example.com",
    "account resume": "a@example.com",
    "account remove": "a@example.com",
    "account connect": "a@example.com",
    "account set-password": "a@example.com --password-file -",
    "sender add": "* a@example.com",
    "sender list": "",
    "sender remove": "*",
    "sender which": "a@example.com",
    "client add": "erp --network 10.0.0.1",
    "client set": "erp --answer direct",
    "client list": "",
    "client show": "erp",
    "client remove": "erp",
    "client try": "127.0.0.1 a@example.com b@example.org",
    "queue list": "",
    "queue show": "0000000000001",
    "queue retry": "0000000000001",
    "queue hold": "0000000000001",
    "queue release": "0000000000001",
    "queue remove": "0000000000001",
    "queue summary": "",
    "notice list": "",
    "notice test": "",
    "key list": "",
    "node list": "",
    "key add": "",
    "key rotate": "",
    "key drop": "k1",
    "backup": "backup.tar",
    "console password": "--password-file -",
    "console invite": "a@example.com",
    "console users": "",
    "console remove": "a@example.com",
    "console token": "nagios --scope read",
    "console tokens": "",
    "console revoke": "nagios",
    "trace": "0000000000001",
    "audit": "",
    "migrate": "",
}
OTHERWISE = {"serve", "demo", "account add", "check", "explain", "sendmail", "client switches"}
OTHERWISE |= {"restore", "apply", "reload", "health"}
OTHERWISE |= {f"import {relay}" for relay in ("postfix", "msmtp", "emailproxy", "decke")}  # may be the first


def test_no_command_is_forgotten() -> None:
    assert {" ".join(path) for path in ALL} == ELSEWHERE.keys() | OTHERWISE


@pytest.mark.parametrize("command", ELSEWHERE)
def test_no_command_makes_a_store_in_the_wrong_folder(command: str, run: Run, tmp_path: Path) -> None:
    answer = run(*command.split(), *ELSEWHERE[command].split(), stdin="password")
    where = f"there is no store in {tmp_path / 'data'}, and {tmp_path} has no relay.env; "
    refused(answer, where, "RELAY_ENV_FILE", "RELAY_DATA_DIR", "relay serve")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_is_not_taken_for_the_one_to_move(run: Run, tmp_path: Path) -> None:
    refused(run("migrate", "--to", "postgresql://relay@127.0.0.1:1/relay"), "there is no store in")
    assert not list(tmp_path.glob("**/relay.db"))


def test_check_says_it_as_a_finding(run: Run, tmp_path: Path) -> None:
    answer = run("check")
    assert answer.status == 1
    assert answer.out.startswith("FAILED   start     there is no store in ")
    assert list(tmp_path.iterdir()) == []


def test_the_settings_that_were_read_are_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_DATA_DIR")
    (tmp_path / "relay.env").write_text(f"RELAY_DATA_DIR={tmp_path}/here\n")
    refused(run("account", "list"), f"no store in {tmp_path}/here, as relay.env and the environment say")
    (tmp_path / "other.env").write_text(f"RELAY_DATA_DIR={tmp_path}/there\n")
    monkeypatch.setenv("RELAY_ENV_FILE", str(tmp_path / "other.env"))
    refused(run("account", "list"), f"no store in {tmp_path}/there, as {tmp_path}/other.env and the environment say")


def test_a_command_finds_the_store_from_anywhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_DATA_DIR")
    (tmp_path / "relay.env").write_text(f"RELAY_DATA_DIR={tmp_path}/here\n")
    assert add(run, laid=False).status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("RELAY_ENV_FILE", str(tmp_path / "relay.env"))
    assert "ann@example.com" in run("account", "list").out


def test_the_first_account_says_what_it_made(run: Run, tmp_path: Path) -> None:
    made = f"Made a new store in {tmp_path}/data, with its first key in {tmp_path}/data/keys: back both up.\n"
    assert made in add(run, laid=False).err
    assert "Made" not in add(run, "bob@example.com", laid=False).err


def test_no_key_is_made_beside_a_store_whose_keys_are_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(run, laid=False)
    run("account", "remove", "ann@example.com")  # no secret: nothing says which key there was
    monkeypatch.setenv("RELAY_KEYS_DIR", str(tmp_path / "other"))
    refused(run("key", "rotate"), f"no key in {tmp_path / 'other'}", "RELAY_KEYS_DIR")
    run("account", "list")
    assert not (tmp_path / "other").exists()
