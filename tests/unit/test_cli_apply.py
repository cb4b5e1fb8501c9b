"""`relay apply` and `relay reload` on a store without a daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from relay.cli import tree

SECRET = "hunter2 and more"
TEXT = '[accounts."app@example.com"]\nhost = "mail.example.com"\npassword = { file = "secret" }\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("RELAY_", "SMTP_AUTH_", "IMAP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RELAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "accounts.toml").write_text(TEXT)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = tree.run(list(argv))
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    return status, out, err


def test_a_plan_then_the_same_done(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    lines = [
        "+ account app@example.com: provider custom, auth password, host mail.example.com, password set",
        "+ sender app@example.com: account app@example.com",
    ]
    assert "no store" in run(capsys, "apply", "--dry-run", "accounts.toml")[2]  # a plan makes none
    (folder / "empty.toml").touch()
    run(capsys, "apply", "empty.toml")
    plan, done = (run(capsys, "apply", *more, "accounts.toml")[1].splitlines() for more in (["--dry-run"], []))
    assert plan == [*lines, "2 changes to make: relay apply."]
    assert done == [*lines, "2 changes made."]
    status, out, _ = run(capsys, "apply", "accounts.toml", "--json")
    assert (status, json.loads(out)) == (
        0,
        {"file": str(folder / "accounts.toml"), "applied": True, "changes": [], "waiting": {}},
    )
    assert str(folder / "accounts.toml") in run(capsys, "account", "show", "app@example.com")[1]
    assert run(capsys, "apply", "--release")[1].startswith("Managed by hand from now on: 2 entries.")


def test_a_refusal_is_one_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "accounts.toml").write_text(TEXT + f'client_secret = "{SECRET}"\n')
    status, out, err = run(capsys, "apply", "accounts.toml")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert '"app@example.com".client_secret: a secret does not belong in this file; give { file = ' in err
    assert run(capsys, "apply")[::2] == (
        1,
        "relay: there is no accounts file; "
        "name one: relay apply FILE; or set RELAY_ACCOUNTS_FILE, then `relay reload`\n",
    )
    assert run(capsys, "apply", "--release", "accounts.toml")[0] == 2


def test_without_a_daemon_there_is_nothing_to_reload(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, _, err = run(capsys, "reload")
    assert status == 1
    assert err == f"relay: no daemon answers in {folder / 'data'}; settings count from its start on: relay serve\n"
