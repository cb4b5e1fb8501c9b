"""The command tree run in this process, on a store without a daemon."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay.cli import tree
from tests.store import lay_store

PASSWORD = "hunter2 with a space and more"


class Answer:
    """What a command left: status, standard output, standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith(("RELAY_", "SMTP_AUTH_", "IMAP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RELAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def command(*argv: str, stdin: str = "") -> Answer:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        status = tree.run(list(argv))
        out, err = capsys.readouterr()
        assert PASSWORD not in out + err
        return Answer(status, out, err)

    return command


def add(run: Run, address: str = "ann@example.com", *more: str, laid: bool = True) -> Answer:
    """`relay account add`; not `laid`: the first one makes the store, migration by migration."""
    if laid:
        lay_store(Path(os.environ["RELAY_DATA_DIR"]))
    return run("account", "add", address, "--host", "mail.example.com", "--password-file", "-", *more, stdin=PASSWORD)


def refused(answer: Answer, *words: str) -> None:
    """Status 1, nothing on standard output, one line with a remedy on standard error."""
    assert answer.status == 1
    assert answer.out == ""
    lines = [line for line in answer.err.splitlines() if line.startswith("relay: ")]
    assert len(lines) == 1
    assert "; " in lines[0]
    for word in words:
        assert word in lines[0]
