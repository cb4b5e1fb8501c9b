"""`account test` and `check` against a real submission server: the sandbox provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.accounts import store
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.access.attempts import MOST
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from relay.daemon.sandbox import Sandbox
from relay.telemetry.redaction import LIVE
from tests.store import lay_store

ADDRESS, PASSWORD = "ann@example.com", "s3cret-of-the-sandbox"


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    provider = Sandbox(tmp_path, login=ADDRESS, password=PASSWORD)
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def control(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        arguments = {
            "address": ADDRESS,
            "host": "127.0.0.1",
            "port": sandbox.port,
            "trust": str(sandbox.ca),
            "password": PASSWORD,
        }
        await registry.run(opened, "account.add", arguments)
        yield opened


async def run_test(control: Control, **arguments: Any) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """The result of `account test` and the steps it told."""
    told: list[Mapping[str, Any]] = []
    watched = control.asked_by("tester", told.append)
    result = await registry.run(watched, "account.test", {"account": ADDRESS, **arguments})
    assert PASSWORD not in repr((result, told))
    return result, told


async def test_a_good_account_sends_a_real_mail_step_by_step(control: Control, sandbox: Sandbox) -> None:
    result, told = await run_test(control, to="me@example.net")
    assert result["ok"]
    assert [(step["step"], step["ok"]) for step in told] == [
        (step, True) for step in ("connect", "tls", "ehlo", "login", "mail", "rcpt", "data", "accepted")
    ]
    arrival = sandbox.arrivals.get_nowait()
    assert (arrival.login, arrival.reverse_path, arrival.recipients) == (ADDRESS, ADDRESS, ("me@example.net",))
    assert arrival.tls.startswith("TLS")
    assert b"Subject: Test mail" in arrival.content
    assert "250 2.0.0" in result["reply"]


async def test_without_a_recipient_the_account_itself_gets_it(control: Control, sandbox: Sandbox) -> None:
    result, _ = await run_test(control)
    assert result["to"] == ADDRESS
    assert sandbox.arrivals.get_nowait().recipients == (ADDRESS,)


async def test_a_wrong_password_fails_at_the_login_after_one_try(control: Control, sandbox: Sandbox) -> None:
    await registry.run(control, "account.set_password", {"account": ADDRESS, "password": "not-what-the-sandbox-knows"})
    result, told = await run_test(control)
    assert not result["ok"]
    assert result["failed_at"] == "login"
    assert result["cause"]
    assert result["remedy"][0] == f"Store the right password: relay account set-password {ADDRESS}"
    assert not [step for step in result["remedy"] if "OAuth" in step]
    assert [(step["step"], step["ok"]) for step in told] == [
        ("connect", True),
        ("tls", True),
        ("ehlo", True),
        ("login", False),
    ]
    assert sandbox.refused_logins == 1
    assert sandbox.arrivals.empty()


async def test_an_untrusted_certificate_fails_before_any_login(
    control: Control, sandbox: Sandbox, tmp_path: Path
) -> None:
    other = Sandbox(tmp_path / "other", login=ADDRESS, password=PASSWORD)
    (tmp_path / "other").mkdir()
    await other.start()
    await other.stop()
    await registry.run(control, "account.set", {"account": ADDRESS, "trust": str(other.ca)})
    result, told = await run_test(control)
    assert result["failed_at"] == "tls"
    assert told[-1]["ok"] is False
    assert sandbox.refused_logins == 0


async def test_nobody_there_fails_at_connect(control: Control, sandbox: Sandbox) -> None:
    await sandbox.stop()
    result, _ = await run_test(control)
    assert result["failed_at"] == "connect"


async def test_a_success_ends_a_suspension_that_the_relay_made(control: Control) -> None:
    account = control.directory.by_address(ADDRESS)
    assert account is not None
    await control.database.write(lambda c: store.set_state(c, account.id, "suspended", "bad-password", "535", 1))
    await control.directory.reload()
    result, _ = await run_test(control)
    assert result["resumed"]
    healed = control.directory.by_address(ADDRESS)
    assert healed is not None
    assert healed.state == "ok"
    await registry.run(control, "account.suspend", {"account": ADDRESS})
    result, _ = await run_test(control)
    assert result["ok"]
    assert not result["resumed"]


async def test_a_recipient_that_is_none_is_refused(control: Control) -> None:
    with pytest.raises(ControlError):
        await run_test(control, to="nobody>\r\nRCPT TO:<x@example.org")


async def test_check_logs_in_everywhere_and_says_who_cannot(control: Control, sandbox: Sandbox) -> None:
    lines = await registry.run(control, "check", {})
    [line] = [line for line in lines if line["item"] == "account"]
    assert line["status"] == "ok"
    assert "logged in" in line["text"]
    await registry.run(control, "account.set_password", {"account": ADDRESS, "password": "not-what-the-sandbox-knows"})
    lines = await registry.run(control, "check", {})
    [line] = [line for line in lines if line["item"] == "account"]
    assert line["status"] == "failed"
    assert "535 5.7.8" in line["text"]
    assert line["remedy"]
    assert sandbox.arrivals.empty()
    assert await registry.run(control, "account.test", {"account": ADDRESS})


async def test_check_names_a_secret_that_is_gone(control: Control) -> None:
    account = control.directory.by_address(ADDRESS)
    assert account is not None
    await control.vault.forget(account.id)
    lines = await registry.run(control, "check", {})
    assert [line["remedy"] for line in lines if line["status"] == "failed"] == [f"relay account set-password {ADDRESS}"]


async def test_a_typed_password_is_tried_and_nothing_of_it_is_kept(control: Control, sandbox: Sandbox) -> None:
    stored = "not-what-the-sandbox-knows"
    await registry.run(control, "account.set_password", {"account": ADDRESS, "password": stored})
    account = control.directory.by_address(ADDRESS)
    assert account is not None
    await control.database.write(lambda c: store.set_state(c, account.id, "suspended", "bad-password", "535", 1))
    await control.directory.reload()
    before = await control.vault.fetch(account.id, "password")
    result, _ = await run_test(control, password=PASSWORD)
    assert (result["ok"], result["resumed"], result["password"]) == (True, False, "typed")
    assert sandbox.arrivals.get_nowait().login == ADDRESS
    same = control.directory.by_address(ADDRESS)
    assert same is not None
    assert (same.state, same.revision) == ("suspended", account.revision)
    assert before == stored == await control.vault.fetch(account.id, "password")
    assert control.logins.tries.last_login(account.id) is None
    result, _ = await run_test(control, password="")
    assert (result["ok"], result["failed_at"], result["password"]) == (False, "login", "stored")
    assert LIVE.masked(f"x {PASSWORD}") == "x ***"


async def test_typed_passwords_are_no_way_to_guess(control: Control, sandbox: Sandbox) -> None:
    for number in range(MOST):
        result, _ = await run_test(control, password=f"guess-number-{number}")
        assert result["failed_at"] == "login"
    with pytest.raises(ControlError, match="too many passwords"):
        await run_test(control, password=PASSWORD)
    assert sandbox.refused_logins == MOST
    result, _ = await run_test(control)
    assert result["ok"]


async def test_an_account_without_a_password_takes_none_for_a_test(control: Control) -> None:
    await registry.run(control, "account.set", {"account": ADDRESS, "auth": "none"})
    with pytest.raises(ControlError, match="without a password"):
        await run_test(control, password="some-password")
