"""Accounts with a proxy of their own: set, shown, used, forgotten; the proxy's password is nowhere but in the vault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.config.egress import EgressSettings
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from relay.daemon.sandbox import Sandbox
from tests.peers.proxies import ScriptedProxy, running_proxy
from tests.store import lay_store

ADDRESS, PASSWORD, PROXY_PASSWORD = "ann@example.com", "s3cret-of-the-sandbox", "s3cret-of-the-proxy"


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    provider = Sandbox(tmp_path, login=ADDRESS, password=PASSWORD)
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def proxy() -> AsyncIterator[ScriptedProxy]:
    async with running_proxy("http", login=f"relay:{PROXY_PASSWORD}") as running:
        yield running


@pytest.fixture
async def control(tmp_path: Path, sandbox: Sandbox, proxy: ScriptedProxy) -> AsyncIterator[Control]:
    settings = RelaySettings(data_dir=lay_store(tmp_path / "data"), egress=EgressSettings(no_proxy=()))
    async with open_control(settings) as opened:
        given = {"host": "127.0.0.1", "port": sandbox.port, "trust": str(sandbox.ca), "password": PASSWORD}
        mine = {"proxy": f"http://relay@127.0.0.1:{proxy.port}", "proxy_password": PROXY_PASSWORD}
        await registry.run(opened, "account.add", {"address": ADDRESS, **given, **mine})
        yield opened


async def told(control: Control, action: str, **arguments: Any) -> tuple[Any, list[Mapping[str, Any]]]:
    """The answer and the steps, neither of which shows the proxy's password."""
    steps: list[Mapping[str, Any]] = []
    answer = await registry.run(control.asked_by("tester", steps.append), action, arguments)
    assert PROXY_PASSWORD not in repr((answer, steps))
    return answer, steps


async def test_the_test_mail_goes_through_the_proxy_and_says_so(
    control: Control, sandbox: Sandbox, proxy: ScriptedProxy
) -> None:
    result, steps = await told(control, "account.test", account=ADDRESS)
    assert result["ok"]
    assert proxy.asked == [f"127.0.0.1:{sandbox.port}"] * 2  # the login, then the mail by the lanes' own transport
    assert proxy.logins == [f"relay:{PROXY_PASSWORD}"] * 2
    path = f"through proxy http://relay@127.0.0.1:{proxy.port}"
    assert path in steps[0]["detail"]
    shown, _ = await told(control, "account.show", account=ADDRESS)
    assert shown["path"] == path
    assert shown["secrets"] == ["password", "proxy_password"]
    _, lines = await told(control, "check")
    assert any(path in line["text"] and "logged in" in line["text"] for line in lines)
    audited, _ = await told(control, "audit")
    assert "proxy" in repr(audited)


async def test_a_proxy_that_refuses_the_login_has_a_cause_and_a_remedy(control: Control, proxy: ScriptedProxy) -> None:
    proxy.login = "relay:another"
    result, _ = await told(control, "account.test", account=ADDRESS)
    assert (result["ok"], result["failed_at"]) == (False, "connect")
    assert "407" in result["reply"]
    assert "wants a login" in result["cause"]
    assert any(f"relay account set {ADDRESS} --proxy" in step for step in result["remedy"])


async def test_a_password_never_goes_to_another_proxy(control: Control) -> None:
    await told(control, "account.set", account=ADDRESS, proxy="socks5://relay@other.example:1080")
    shown, _ = await told(control, "account.show", account=ADDRESS)
    assert shown["secrets"] == ["password"]
    assert shown["path"] == "through proxy socks5://relay@other.example:1080"
    await told(control, "account.set", account=ADDRESS, proxy="direct")
    result, _ = await told(control, "account.test", account=ADDRESS)
    assert result["ok"]


async def test_back_to_the_way_of_all(control: Control) -> None:
    await told(control, "account.set", account=ADDRESS, ip="4", source_address="127.0.0.1")
    assert (await told(control, "account.show", account=ADDRESS))[0]["path"].endswith("from 127.0.0.1 by IPv4")
    await told(control, "account.set", account=ADDRESS, defaults=["proxy", "ip", "source_address"])
    assert (await told(control, "account.show", account=ADDRESS))[0]["path"] == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"proxy": f"http://relay:{PROXY_PASSWORD}@proxy:1"}, "--proxy-password-file"),
        ({"proxy": "https://proxy:1"}, "kind is not known"),
        ({"proxy": "http://proxy:1", "proxy_password": PROXY_PASSWORD}, "LOGIN@"),
        ({"proxy": "socks5://relay@proxy:1", "proxy_password": "wörd"}, "ASCII"),
        ({"proxy": "http://relay@proxy:1", "proxy_password": ""}, "255 octets"),
        ({"source_address": "eth0"}, "address"),
        ({"ip": "5"}, "auto, 4, 6"),
        ({"imap_tls": "none"}, "starttls, implicit"),
        ({"imap_port": 0}, "port"),
    ],
)
async def test_what_cannot_be_is_refused(control: Control, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ControlError) as refused:
        await registry.run(control, "account.set", {"account": ADDRESS, **given})
    assert words in f"{refused.value} {refused.value.remedy}"
    assert PROXY_PASSWORD not in f"{refused.value!r} {refused.value} {refused.value.remedy}"
