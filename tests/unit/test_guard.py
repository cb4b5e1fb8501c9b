"""Hosts that were named through the web lead to mail servers alone (server-side request forgery)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.accounts.model import Account
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.access.model import SCOPES, Principal
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from relay.net.failure import DialFailed
from relay.net.guard import Guard
from relay.net.reach import reach
from relay.net.way import Way
from tests.store import lay_store

ANN = "ann@example.com"


@pytest.mark.parametrize(
    ("address", "allowed", "with_private"),
    [
        ("93.184.215.14", True, True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True, True),
        ("127.0.0.1", False, False),
        ("127.8.9.10", False, False),
        ("::1", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::127.0.0.1", False, False),
        ("2002:7f00:1::", False, False),
        ("64:ff9b::7f00:1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("fe80::1%eth0", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("168.63.129.16", False, False),
        ("224.0.0.1", False, False),
        ("255.255.255.255", False, False),
        ("240.0.0.1", False, False),
        ("10.1.2.3", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("fd12:3456::1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("no address", False, False),
    ],
)
def test_addresses_that_a_host_of_the_web_may_have(address: str, allowed: bool, with_private: bool) -> None:
    assert Guard().allows(address) is allowed
    assert Guard(private=True).allows(address) is with_private


async def refused(host: str, port: int, guard: Guard) -> DialFailed:
    with pytest.raises(DialFailed) as caught:
        (await reach(host, port, Way(guard=guard), asyncio.get_running_loop().time() + 5)).close()
    return caught.value


async def test_what_is_there_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open port, a closed one, and a name that turns to this machine at the moment of the connection."""
    guard = Guard(ports=frozenset(range(1, 65536)))
    with socket.create_server(("127.0.0.1", 0)) as opened, socket.create_server(("127.0.0.1", 0)) as other:
        port, closed = opened.getsockname()[1], other.getsockname()[1]
        other.close()
        for host in ("127.0.0.1", "localhost", "rebound.example"):
            guarded = guard.of([host])
            loop = asyncio.get_running_loop()

            async def turned(name: str, service: int, **_: Any) -> Any:
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", service))]

            monkeypatch.setattr(loop, "getaddrinfo", turned, raising=False)
            first, second = await refused(host, port, guarded), await refused(host, closed, guarded)
            assert first.reason == second.reason == "upstream-forbidden"
            assert first.detail == second.detail
            assert "127.0.0.1" not in first.detail.replace(host, "")
            (await reach(host, port, Way(guard=guard.of(["another.example"])), loop.time() + 5)).close()


async def test_ports_are_those_of_mail() -> None:
    guard = Guard(ports=frozenset({2525})).of(["203.0.113.9"])
    assert [port for port in (22, 25, 80, 143, 443, 465, 587, 993, 2525, 6379) if guard.allows_port(port)] == [
        *(25, 143, 443, 465, 587, 993, 2525)
    ]
    assert (await refused("203.0.113.9", 22, guard)).reason == "upstream-forbidden"


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        yield opened.asked_by("tester", lambda _: None)


def by_web(control: Control) -> Control:
    return control.in_name_of(Principal("token:t", frozenset(SCOPES)))


async def act(control: Control, action: str, **arguments: object) -> Any:
    return await registry.run(control, action, arguments)


def account(control: Control) -> Account:
    found = control.directory.by_address(ANN)
    assert found is not None
    return found


async def test_a_host_is_guarded_from_the_web_until_an_operator_names_it(control: Control) -> None:
    web = by_web(control)
    await act(web, "account.add", address=ANN, host="localhost", port=587, tls="starttls", password="pw-of-ann-1")
    assert account(control).web_hosts == "localhost"
    assert (await control.ways.of(account(control).id)).guard.concerns("LOCALHOST")
    tried = await act(web, "account.test", account=ANN)
    assert (tried["failed_at"], tried["ok"]) == ("connect", False)
    assert "named through the web" in tried["cause"]
    await act(web, "account.set", account=ANN, imap_host="10.0.0.1")
    assert account(control).web_hosts == "10.0.0.1,localhost"
    await act(control, "account.set", account=ANN, port=465)
    assert account(control).web_hosts == "10.0.0.1,localhost"
    await act(control, "account.set", account=ANN, host="localhost")
    assert account(control).web_hosts == "10.0.0.1"
    await act(web, "account.set", account=ANN, port=587)
    assert account(control).web_hosts == "10.0.0.1"
    await act(control, "account.set", account=ANN, defaults=["imap_host"])
    assert account(control).web_hosts is None


async def test_a_stored_secret_goes_to_no_host_that_the_web_names_later(control: Control) -> None:
    await act(control, "account.add", address=ANN, host="mail.example.com", password="pw-of-ann-1")
    await act(by_web(control), "account.set", account=ANN, port=465, per_day=7)
    assert await control.vault.kinds(account(control).id) == ["password"]
    told = await act(by_web(control), "account.set", account=ANN, host="mail.evil.example")
    assert await control.vault.kinds(account(control).id) == []
    assert "set-password" in told["to_do"]


@pytest.mark.parametrize(
    "given",
    [
        {"proxy": "http://127.0.0.1:3128"},
        {"proxy": "direct"},
        {"source_address": "127.0.0.1"},
        {"ip": "4"},
        {"trust": "/etc/shadow"},
        {"port": 22},
        {"imap_port": 6379},
        {"defaults": ["proxy"]},
    ],
)
async def test_what_leads_elsewhere_is_for_operators(control: Control, given: dict[str, object]) -> None:
    await act(control, "account.add", address=ANN, host="mail.example.com", password="pw-of-ann-1")
    before = account(control)
    with pytest.raises(ControlError) as caught:
        await act(by_web(control), "account.set", account=ANN, **given)
    assert caught.value.kind in ("forbidden", "invalid")
    assert account(control) == before
    if "defaults" not in given:
        await act(control, "account.set", account=ANN, **{"trust": "name:x.example"} if "trust" in given else given)
