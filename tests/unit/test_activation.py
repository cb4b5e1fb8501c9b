"""Socket activation and readiness, as systemd's sd_listen_fds(3) and sd_notify(3) say."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config.settings import ListenerSettings
from relay.daemon.activation import BadActivation, Inherited, assigned, inherited, notify
from tests.system.activate import ROOT

SHOW = """
import json
import os
import re
from relay.daemon.activation import inherited
found = inherited(os.environ)
print([(one.name, one.socket.getsockname(), one.socket.fileno(), one.socket.get_inheritable()) for one in found])
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


@pytest.fixture
def given() -> Iterator[list[Inherited]]:
    found = [Inherited(name, socket.socket()) for name in ("relay.socket", "tls", "relay.socket")]
    yield found
    for one in found:
        one.socket.close()


def activated(*names: str, sockets: list[socket.socket]) -> str:
    """What a process that was started with these sockets prints."""
    numbers = [str(one.fileno()) for one in sockets]
    command = [sys.executable, "-m", "tests.system.activate", ",".join(numbers), ":".join(names)]
    done = subprocess.run(
        [*command, sys.executable, "-c", SHOW],
        pass_fds=[one.fileno() for one in sockets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout or done.stderr


def test_sockets_are_taken_and_no_child_hears_of_them(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        path = str(tmp_path / "a.sock")
        local.bind(path)
        local.listen()
        found = activated("smtp", "local", sockets=[tcp, local])
        assert found.splitlines() == [
            str([("smtp", tcp.getsockname(), 3, False), ("local", path, 4, False)]),
            "[]",
        ]


def test_what_does_not_listen_is_refused() -> None:
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for one in (idle, datagrams):
            assert "BadActivation: LISTEN_FDS: descriptor 3 is no listening stream socket" in activated(sockets=[one])


@pytest.mark.parametrize("pid", ["", "1", str(os.getppid())])
def test_sockets_for_another_process_are_left_alone(pid: str) -> None:
    environ = {"LISTEN_PID": pid, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "OTHER": "x"}
    assert inherited(environ) == []
    assert environ == {"OTHER": "x"}


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "1000000"])
def test_a_senseless_count_is_none(count: str) -> None:
    assert inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}) == []


PLAIN, TLS = ListenerSettings(name="plain"), ListenerSettings(name="tls")
NAMELESS = ListenerSettings()


def named(given: list[Inherited], *names: str) -> list[Inherited]:
    return [one._replace(name=name) for one, name in zip(given, names, strict=False)]


def test_sockets_go_to_the_doors_of_their_names(given: list[Inherited]) -> None:
    first, second, _ = (one.socket for one in given)
    assert assigned(named(given, "tls", "plain"), [PLAIN, TLS]) == [second, first]
    assert assigned(named(given, "tls"), [PLAIN, NAMELESS, TLS]) == [None, None, first]
    assert assigned([], [PLAIN, TLS]) == [None, None]


@pytest.mark.parametrize("wrong", ["tsl", "", "unknown", "relay-tls.socket", "TLS", "tls ", "tls\x1b[0m"])
def test_a_socket_that_names_no_door_is_never_another_door(given: list[Inherited], wrong: str) -> None:
    for doors in ([NAMELESS, TLS], [PLAIN, TLS], [TLS]):
        with pytest.raises(BadActivation, match=r"^LISTEN_FDNAMES: no door has the name of the socket") as refused:
            assigned(named(given, wrong), doors)
        assert "FileDescriptorName=" in str(refused.value)
        assert str(refused.value).isprintable()


def test_a_door_has_one_socket(given: list[Inherited]) -> None:
    with pytest.raises(BadActivation, match=r"^LISTEN_FDNAMES: two sockets have the name tls"):
        assigned(named(given, "tls", "tls"), [PLAIN, TLS])


@pytest.mark.parametrize("name", ["", "unknown", "relay.socket", "smtp"])
def test_sockets_of_one_unit_go_by_their_order_where_no_door_has_a_name(given: list[Inherited], name: str) -> None:
    alike = named(given, name, name, name)
    assert assigned(alike, [NAMELESS] * 3) == [one.socket for one in given]
    assert assigned(alike[:1], [NAMELESS]) == [given[0].socket]
    assert assigned([], [NAMELESS]) == [None]


@pytest.mark.parametrize("doors", [1, 3])
def test_as_many_sockets_as_doors(given: list[Inherited], doors: int) -> None:
    with pytest.raises(BadActivation, match=f"^LISTEN_FDS: 2 sockets for {doors} doors?; give each door a name"):
        assigned(named(given, "a", "a"), [NAMELESS] * doors)


def test_units_have_no_order(given: list[Inherited]) -> None:
    with pytest.raises(BadActivation, match=r"^LISTEN_FDNAMES: no door has a name, so whose are relay.socket and tls"):
        assigned(given[:2], [NAMELESS, NAMELESS])


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_service_manager_is_told(kind: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        name = f"@relay-test-{os.getpid()}" if kind == "abstract" else str(tmp_path / "notify")
        manager.bind("\0" + name[1:] if kind == "abstract" else name)
        notify({"NOTIFY_SOCKET": name}, "READY=1")
        assert manager.recv(100) == b"READY=1"


def test_nobody_to_tell_is_no_trouble(tmp_path: Path) -> None:
    for address in ("", "relative", str(tmp_path / "nobody")):
        notify({"NOTIFY_SOCKET": address}, "READY=1")
    notify({}, "READY=1")


def test_the_units_of_the_documentation_name_the_doors_of_its_settings() -> None:
    page = (ROOT / "docs" / "running.md").read_text()
    [doors] = re.findall(r"^RELAY_LISTENERS=(\[.*\])$", page, re.M)
    named = {door["name"] for door in json.loads(doors)}
    assert named == set(re.findall(r"FileDescriptorName=(\w+)", page))
    assert all(f"relay-{name}.socket" in page for name in named)
    assert all(door.keys() <= ListenerSettings.model_fields.keys() for door in json.loads(doors))
