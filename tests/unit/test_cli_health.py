"""`relay health`: asks a daemon and only a daemon, within a limit."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.cli import health, tree


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("d")
    monkeypatch.setenv("RELAY_DATA_DIR", str(folder))
    monkeypatch.setattr(sys, "argv", ["relay"])
    return folder


@contextmanager
def answering(data: Path, answer: bytes | None) -> Iterator[None]:
    """A control socket that gives every request `answer`; None: it stays silent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(data / "control.sock"))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                assert json.loads(connection.makefile("rb").readline())["action"] == "health"
                if answer is not None:
                    connection.sendall(answer + b"\n")
                connection.makefile("rb").read()  # until the command hangs up

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(10)


Capture = pytest.CaptureFixture[str]


def test_without_a_daemon_it_says_so_and_makes_nothing(data: Path, capsys: Capture) -> None:
    assert tree.run(["health"]) == 1
    assert (
        capsys.readouterr().err
        == f"relay: no daemon answers in {data}; start it with `relay serve`; its log says why\n"
    )
    assert list(data.iterdir()) == []


def test_a_daemon_that_takes_mail_is_well(data: Path, capsys: Capture) -> None:
    with answering(data, b'{"ok": {"ready": true, "reasons": []}}'):
        assert tree.run(["health", "--ready"]) == 0
    assert capsys.readouterr().out == "ok: mail is taken\n"


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        (["health"], 0, lambda out, err: out == "ok: the daemon answers; not ready: storage: no room\n"),
        (["health", "--ready"], 1, lambda out, err: (out, "not ready: storage: no room" in err) == ("", True)),
        (["health", "--ready", "--json"], 1, lambda out, err: json.loads(out)["ready"] is False),
    ],
)
def test_alive_is_not_ready(
    data: Path, capsys: Capture, argv: list[str], status: int, told: Callable[[str, str], bool]
) -> None:
    with answering(data, b'{"ok": {"ready": false, "reasons": ["storage: no room"]}}'):
        assert tree.run(argv) == status
    captured = capsys.readouterr()
    assert told(captured.out, captured.err), captured


def test_a_daemon_that_hangs_is_not_waited_for(data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_ANSWER_S", 0.2)
    with answering(data, None):
        assert tree.run(["health"]) == 1
    assert "stopped answering" in capsys.readouterr().err
