"""What `relay client try` says, beyond what the front door's own tests show: doors, AUTH, sizes, remedies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.config.check import load
from relay.control import registry
from relay.control.context import Control
from relay.daemon.build import open_control
from tests.peers.certificates import write_certificates
from tests.unit.command_line import PASSWORD, Run, add

Knowing = Callable[..., AbstractAsyncContextManager[Control]]


@pytest.fixture
def knowing(tmp_path: Path) -> Knowing:
    """An account app@example.com, a client `erp` at 10.0.0.0/8 with the options given, and these doors."""
    certificate = write_certificates(tmp_path)

    @asynccontextmanager
    async def run(*doors: dict[str, Any], **options: Any) -> AsyncIterator[Control]:
        tls = {"tls_cert": str(certificate.chain), "tls_key": str(certificate.key)}
        every = [
            {
                "port": 25 + number,
                "allowed_networks": ["10.0.0.0/8"],
                **(tls if door.get("tls", "none") != "none" else {}),
                **door,
            }
            for number, door in enumerate(doors or ({},))
        ]
        environ = {"RELAY_DATA_DIR": str(tmp_path / "data"), "RELAY_LISTENERS": json.dumps(every)}
        async with open_control(load(environ, secrets_dir=tmp_path / "none")) as control:
            account = {"address": "app@example.com", "host": "mail.example.com", "password": "secret"}
            await registry.run(control, "account.add", account)
            client = {"name": "erp", "networks": ["10.0.0.0/8"], **options}
            await registry.run(control, "client.add", client)
            yield control

    return run


async def tried(control: Control, **more: Any) -> dict[str, Any]:
    arguments = {"address": "10.1.2.3", "sender": "app@example.com", "recipient": "ann@example.org", **more}
    return await registry.run(control, "client.try", arguments)


def step(result: dict[str, Any], name: str) -> list[str]:
    return [one["text"] for one in result["steps"] if one["step"] == name]


LOGIN = {"auth": "login", "login": "erp", "password": "a password"}


@pytest.mark.parametrize(
    ("doors", "through", "how"),
    [
        ([{}, {"tls": "starttls"}], "127.0.0.1 port 26", "127.0.0.1 port 26 behind STARTTLS"),
        ([{}, {"tls": "implicit"}], "127.0.0.1 port 26", "127.0.0.1 port 26 (TLS from the first octet)"),
        ([{"auth_without_tls": True}], "", "127.0.0.1 port 25 (without TLS)"),
        (
            [{"tls": "required"}, {"tls": "starttls", "auth_without_tls": True}],
            "127.0.0.1 port 25, behind STARTTLS",
            "127.0.0.1 port 25 behind STARTTLS, 127.0.0.1 port 26 (also without TLS)",
        ),
        (
            [{"tls": "starttls", "allowed_networks": ["192.168.0.0/16"]}, {"tls": "implicit"}],
            "127.0.0.1 port 26",
            "127.0.0.1 port 26 (TLS from the first octet)",
        ),
    ],
)
async def test_a_client_that_logs_in_is_told_by_which_door(
    doors: list[dict[str, Any]], through: str, how: str, knowing: Knowing
) -> None:
    async with knowing(*doors, **LOGIN) as control:
        result = await tried(control)
        assert result["accepted"]
        assert step(result, "AUTH") == [f"PLAIN and LOGIN are offered by {how}; the login counts as done here"]
        assert [text.partition(":")[0] for text in step(result, "door")] == ([through] if through else [])


async def test_a_client_that_can_log_in_nowhere_is_refused_as_the_door_would(knowing: Knowing) -> None:
    async with knowing({}, {"tls": "starttls", "allowed_networks": ["192.168.0.0/16"]}, **LOGIN) as control:
        result = await tried(control)
        assert not result["accepted"]
        assert result["reply"].startswith("530 5.7.0")
        [auth] = step(result, "AUTH")
        assert auth.startswith("no door that lets 10.1.2.3 in offers it: ")
        assert "TLS_CERT" in auth


async def test_others_hear_nothing_of_auth(knowing: Knowing) -> None:
    async with knowing({"tls": "starttls"}) as control:
        assert step(await tried(control), "AUTH") == []


async def test_the_size_of_the_whole_counts_and_what_was_not_looked_at_is_said(knowing: Knowing) -> None:
    async with knowing({"max_message_bytes": 100_000}, bytes_per_day=90_000) as control:
        mail = {"content": "From: app@example.com\r\n\r\nbody\r\n", "size": 80_000}
        result = await tried(control, **mail)
        assert result["accepted"]
        assert "only its first 31 octets of 80000 were looked at" in step(result, "DATA")
        assert step(await tried(control, **mail | {"size": 31}), "DATA") == ["250, once it is safely queued"]
        result = await tried(control, **mail | {"size": 90_001})
        assert result["reply"].startswith("552 5.3.4 larger than the 90000 octets")
        assert "relay client set erp --bytes-per-day" in result["remedy"]
        assert (await tried(control, **mail | {"size": 100_001}))["reply"].startswith("552 5.3.4 message exceeds")
        assert (await tried(control, **mail | {"size": -1}))["accepted"]


async def test_a_refusal_comes_with_its_remedy(knowing: Knowing) -> None:
    async with knowing({}) as control:
        result = await tried(control, sender="root")
        assert result["remedy"].startswith("give the application a whole address")
        assert "`relay client set erp --tolerate +odd-dots`" in result["remedy"]
        assert (await tried(control))["remedy"] == ""


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_the_command_measures_the_whole_file(run: Run, tmp_path: Path, ends: bytes, way: str) -> None:
    add(run)
    head = ends.join([b"From: ann@example.com", b"Subject: x", b"", b""])
    body = (b"x" * 70 + ends) * 1000
    file = tmp_path / "mail.eml"
    file.write_bytes(head + body)
    where = ("-",) if way == "stdin" else (str(file),)
    answer = run(
        *("client", "try", "127.0.0.1", "ann@example.com", "bob@example.org", *where, "--json"),
        stdin=(head + body).decode(),
    )
    size = len(head + body) + ((head + body).count(b"\n") if ends == b"\n" and way == "file" else 0)
    assert f"only its first 60000 octets of {size} were looked at" in step(answer.json, "DATA")
    assert PASSWORD not in answer.out


def test_the_command_ends_with_one_line_that_has_the_remedy(run: Run) -> None:
    add(run)
    answer = run("client", "try", "127.0.0.1", "nobody@example.com", "bob@example.org")
    assert answer.status == 1
    [line] = answer.err.splitlines()
    assert line.startswith("relay: it would be refused: 550 5.7.1 <nobody@example.com>")
    assert "; `relay account add nobody@example.com`" in line
    assert "10.0.0.300 is no IP address; give" in run("client", "try", "10.0.0.300", "a@b.example", "c@d.example").err
