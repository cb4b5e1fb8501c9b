"""Settings of the front doors: their kinds, and the one line that each contradiction gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.config.check import load
from relay.config.described import describe
from relay.config.doubts import warnings
from relay.config.settings import ListenerSettings, RelaySettings
from relay.config.wording import SettingsError

Loader = Callable[..., RelaySettings]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Loads from exactly the fields of RELAY_LISTENER__* given, in a folder with a file `c.pem`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.pem").write_text("x")
    (tmp_path / "secrets").mkdir()
    return lambda **fields: load(
        {f"RELAY_LISTENER__{name.upper()}": value for name, value in fields.items()}, secrets_dir=tmp_path / "secrets"
    )


def doors(tmp_path: Path, *entries: dict[str, Any]) -> RelaySettings:
    return load({"RELAY_LISTENERS": json.dumps(entries)}, secrets_dir=tmp_path)


def problem(call: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as caught:
        call()
    (line,) = caught.value.problems
    return line


CERTIFICATE = {"tls_cert": "c.pem", "tls_key": "c.pem"}


def test_a_certificate_alone_offers_starttls(settings: Loader) -> None:
    assert settings().listener.tls_mode == "none"
    assert settings(**CERTIFICATE).listener.tls_mode == "starttls"
    assert settings(**CERTIFICATE, tls="Implicit").listener.tls_mode == "implicit"
    assert settings(**CERTIFICATE, tls="required", tls_min="1.3").listener.tls_min == "1.3"


def test_doors_of_every_kind(settings: Loader, tmp_path: Path) -> None:
    found = doors(
        tmp_path,
        {"name": "plain", "port": 2525, "backlog": 7, "proxy_networks": ["10.0.0.1"]},
        {"port": 2465, "tls_cert": "c.pem", "tls_key": "c.pem", "tls": "implicit", "tls_min": 1.0},
        {"path": "smtp.sock", "path_mode": "660"},
    ).doors
    assert [door.tls_mode for door in found] == ["none", "implicit", "none"]
    assert found[0].proxy_networks == (ip_network("10.0.0.1"),)
    assert found[0].backlog == 7
    assert found[1].tls_min == "1.0"
    assert found[2].path == tmp_path / "smtp.sock"
    assert [door.address for door in found] == [
        "127.0.0.1 port 2525",
        "127.0.0.1 port 2465",
        f"{tmp_path / 'smtp.sock'}",
    ]


@pytest.mark.parametrize(
    ("fields", "name", "part"),
    [
        ({"tls": "implicit"}, "TLS", "implicit needs a certificate; give RELAY_LISTENER__TLS_CERT"),
        ({"tls": "required"}, "TLS", "required needs a certificate"),
        (CERTIFICATE | {"tls": "none"}, "TLS", "none, but RELAY_LISTENER__TLS_CERT is set"),
        ({"tls": "ssl"}, "TLS", "ssl is not a kind of TLS; give none, starttls, required or implicit"),
        ({"tls_min": "1.3"}, "TLS_MIN", "there is no certificate"),
        (CERTIFICATE | {"tls_min": "1.4"}, "TLS_MIN", "1.4 is not a version of TLS; give 1.0, 1.1, 1.2 or 1.3"),
        (
            CERTIFICATE | {"tls": "required", "auth_without_tls": "yes"},
            "AUTH_WITHOUT_TLS",
            "yes, but RELAY_LISTENER__TLS is required",
        ),
        ({"path": "a.sock", "port": "25"}, "PATH", "set together with RELAY_LISTENER__PORT"),
        ({"path": "a.sock", "host": "::1"}, "PATH", "set together with RELAY_LISTENER__HOST"),
        ({"path": "a" * 108}, "PATH", "longer than 107 octets"),
        ({"path_mode": "0600"}, "PATH_MODE", "RELAY_LISTENER__PATH is not"),
        ({"path": "a.sock", "path_mode": "rw"}, "PATH_MODE", "rw is not an access mode; give three octal digits"),
        ({"proxy_networks": "0.0.0.0/0"}, "PROXY_NETWORKS", "0.0.0.0/0 is public; give private networks only"),
        ({"proxy_networks": "198.51.100.7", "allow_public": "yes"}, "PROXY_NETWORKS", "is public"),
        ({"name": "a b"}, "NAME", "a b is not a name"),
        ({"backlog": "0"}, "BACKLOG", "0 is not a count"),
    ],
)
def test_a_contradiction_names_the_variable(settings: Loader, fields: dict[str, str], name: str, part: str) -> None:
    line = problem(lambda: settings(**fields))
    assert line.startswith(f"RELAY_LISTENER__{name}: ")
    assert part in line


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ([{"path": "a.sock"}, {"path": "a.sock"}], "a.sock appears twice"),
        ([{"name": "x", "port": 1}, {"name": "x", "port": 2}], "two doors have the same name"),
    ],
)
def test_doors_that_are_the_same(settings: Loader, tmp_path: Path, entries: list[dict[str, Any]], part: str) -> None:
    line = problem(lambda: doors(tmp_path, *entries))
    assert line.startswith("RELAY_LISTENERS: ")
    assert part in line


def test_a_unix_socket_does_not_clash_with_a_port(settings: Loader, tmp_path: Path) -> None:
    assert len(doors(tmp_path, {"path": "a.sock"}, {"port": 2525}, {"path": "b.sock"}).doors) == 3


def test_what_is_weak_is_warned_about(settings: Loader) -> None:
    (line,) = warnings(settings(**CERTIFICATE, tls_min="1.0"))
    assert line.startswith("RELAY_LISTENER__TLS_MIN: 1.0: the door at 127.0.0.1 port 2525 takes broken encryption")
    assert warnings(settings(auth_without_tls="yes")) == []
    found = settings(auth_without_tls="yes", host="10.0.0.1", allowed_networks="10.0.0.0/8")
    (line,) = warnings(found)
    assert line.startswith("RELAY_LISTENER__AUTH_WITHOUT_TLS: yes: passwords reach the door at 10.0.0.1 port 2525")


def test_the_tls_of_a_door_is_described_as_it_was_written(settings: Loader) -> None:
    environ = {f"RELAY_LISTENER__{name.upper()}": value for name, value in (CERTIFICATE | {"tls": "required"}).items()}
    found = {entry.name: entry.value for entry in describe(load(environ), environ)}
    assert found["RELAY_LISTENER__TLS"] == "required"
    assert found["SMTP_AUTH_TLS"] == "Y"


def test_a_door_cannot_be_changed() -> None:
    with pytest.raises(ValueError):
        ListenerSettings().port = 25  # type: ignore[misc]
