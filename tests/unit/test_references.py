"""Secrets by reference: from files, the environment and Vault; what is wrong is said without the secret."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.credentials.references import Reference, ReferenceUnreadable, Resolver, parse_reference
from tests.peers.vault import TOKEN, VaultPeer

SECRET = "a secret of these tests"


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ({"file": "secrets/x"}, Reference("file", "secrets/x")),
        ({"env": "APP_PASSWORD"}, Reference("env", "APP_PASSWORD")),
        ({"vault": "kv/relay/billing#password"}, Reference("vault", "kv/relay/billing#password")),
    ],
)
def test_there_are_three_forms(given: dict[str, str], reference: Reference) -> None:
    assert parse_reference(given) == reference


def test_a_relative_file_is_beside_the_file_that_names_it() -> None:
    assert Reference("file", "x").within(Path("/etc/relay")) == Reference("file", "/etc/relay/x")
    assert Reference("file", "/run/x").within(Path("/etc/relay")).place == "/run/x"
    assert Reference("env", "X").within(Path("/etc/relay")).place == "X"


@pytest.mark.parametrize(
    "given",
    [
        SECRET,
        12345,
        {},
        {"file": SECRET, "env": "X"},
        {"fiel": SECRET},
        {"env": 5},
        {"vault": SECRET},
        {"vault": "kv/x"},
    ],
)
def test_what_is_no_reference_is_refused_without_being_shown(given: object) -> None:
    with pytest.raises(ValueError, match="give") as refused:
        parse_reference(given)
    assert SECRET not in str(refused.value)


def test_files_and_variables_lose_one_line_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(f"{SECRET}\r\n".encode())
    resolver = Resolver({"X": f"{SECRET}\n"})
    assert resolver.read(Reference("file", str(tmp_path / "x"))).reveal() == SECRET
    assert resolver.read(Reference("env", "X")).reveal() == SECRET


@pytest.mark.parametrize(
    ("octets", "words"), [(b"", "empty"), (b"\xff", "UTF-8"), (b"x" * 65_537, "64 KiB"), (None, "cannot be read")]
)
def test_a_file_that_holds_no_secret_is_named(tmp_path: Path, octets: bytes | None, words: str) -> None:
    if octets is not None:
        (tmp_path / "x").write_bytes(octets)
    with pytest.raises(ReferenceUnreadable, match=words) as refused:
        Resolver({}).read(Reference("file", str(tmp_path / "x")))
    assert str(tmp_path / "x") in str(refused.value)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(ReferenceUnreadable, match="no regular file"):
        Resolver({}).read(Reference("file", str(tmp_path / "x")))


def test_a_link_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "x")
    with pytest.raises(ReferenceUnreadable, match="symbolic links"):
        Resolver({}).read(Reference("file", str(tmp_path / "x")))


def test_a_variable_that_is_not_there_is_named() -> None:
    with pytest.raises(ReferenceUnreadable, match="env APP: is not in the environment"):
        Resolver({}).read(Reference("env", "APP"))


def test_vault_is_asked_once_a_place_in_either_version() -> None:
    with VaultPeer({"kv/data/relay/a": {"one": SECRET, "two": "2"}, "old/b": {"c": "3"}}) as vault:
        resolver = Resolver({"VAULT_ADDR": vault.address, "VAULT_TOKEN": TOKEN})
        assert resolver.read(Reference("vault", "kv/relay/a#one")).reveal() == SECRET
        assert resolver.read(Reference("vault", "kv/relay/a#two")).reveal() == "2"
        assert vault.asked == ["kv/data/relay/a"]
        assert resolver.read(Reference("vault", "old/b#c")).reveal() == "3"


@pytest.mark.parametrize(
    ("place", "token", "words"),
    [
        ("kv/a#other", TOKEN, "no such field"),
        ("kv/other#x", TOKEN, "no such place"),
        ("kv/a#x", "another-token", "not let this token"),
    ],
)
def test_what_vault_does_not_give_is_named(place: str, token: str, words: str) -> None:
    with VaultPeer({"kv/data/a": {"x": SECRET}}) as vault:
        resolver = Resolver({"VAULT_ADDR": vault.address, "VAULT_TOKEN": token})
        with pytest.raises(ReferenceUnreadable, match=words) as refused:
            resolver.read(Reference("vault", place))
    assert token not in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "VAULT_ADDR is not set"),
        ({"VAULT_ADDR": "https://vault.example"}, "VAULT_TOKEN is not set"),
        ({"VAULT_ADDR": "http://vault.example", "VAULT_TOKEN": TOKEN}, "in clear"),
        ({"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": TOKEN}, "no answer that can be used"),
    ],
)
def test_a_vault_that_cannot_be_asked_is_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ReferenceUnreadable, match=words) as refused:
        Resolver(environ).read(Reference("vault", "kv/a#b"))
    assert TOKEN not in str(refused.value)


def test_the_vault_peer_answers_as_documented() -> None:
    with VaultPeer({"kv/data/a": {"x": "1"}}) as vault:

        def get(path: str, token: str) -> tuple[int, bytes]:
            request = urllib.request.Request(f"{vault.address}/v1/{path}", headers={"X-Vault-Token": token})
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        assert get("kv/data/a", TOKEN) == (200, b'{"data": {"data": {"x": "1"}, "metadata": {"version": 1}}}')
        assert get("kv/data/b", TOKEN)[0] == 404
        assert get("kv/data/a", "wrong")[0] == 403
