"""`account test --imap`: each step is told, a failure has cause and numbered remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.config.settings import ImapDefaults, RelaySettings
from relay.control import registry
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from tests.peers.certificates import Certificates, write_certificates
from tests.peers.scripted_imap import ScriptedImap, running_imap
from tests.store import lay_store

ADDRESS, PASSWORD = "ann@example.com", "s3cret-of-the-mailbox"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def imap(certificates: Certificates) -> AsyncIterator[ScriptedImap]:
    async with running_imap(certificates) as running:
        running.takes = lambda login, secret: (login, secret) == (ADDRESS, PASSWORD)
        yield running


@pytest.fixture
async def control(tmp_path: Path, imap: ScriptedImap, certificates: Certificates) -> AsyncIterator[Control]:
    settings = RelaySettings(data_dir=lay_store(tmp_path / "data"), imap=ImapDefaults(host="localhost", port=imap.port))
    async with open_control(settings) as opened:
        arguments = {"address": ADDRESS, "host": "mail.example", "trust": str(certificates.ca), "password": PASSWORD}
        await registry.run(opened, "account.add", arguments)
        yield opened


async def run_test(control: Control) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    told: list[Mapping[str, Any]] = []
    result = await registry.run(control.asked_by("tester", told.append), "account.test_imap", {"account": ADDRESS})
    assert PASSWORD not in repr((result, told))
    return result, told


async def test_a_mailbox_is_opened_step_by_step_and_left_as_it_was(control: Control, imap: ScriptedImap) -> None:
    result, told = await run_test(control)
    assert result["ok"]
    assert (result["messages"], result["sent"]) == (3, "Gesendete Objekte & mehr")
    assert [step["step"] for step in told] == ["connect", "tls", "login", "inbox", "folders"]
    assert "sent mail goes to Gesendete Objekte & mehr" in told[-1]["detail"]
    assert [command.split(b" ")[0] for command in imap.commands if not command.startswith(b"CAP")] == [
        b"AUTHENTICATE",
        b"EXAMINE",  # never SELECT: it would take \Recent away
        b"LIST",
        b"LOGOUT",
    ]
    shown = await registry.run(control, "account.show", {"account": ADDRESS})
    assert shown["imap"] == {"host": "localhost", "port": imap.port, "tls": "implicit", "login": ADDRESS}


async def test_a_refused_login_has_a_cause_and_a_remedy(control: Control, imap: ScriptedImap) -> None:
    imap.takes = lambda login, secret: False
    result, told = await run_test(control)
    assert (result["ok"], result["failed_at"]) == (False, "login")
    assert result["remedy"][0] == f"Store the right password: relay account set-password {ADDRESS}"
    assert any("IMAP is switched on" in step for step in result["remedy"])
    assert told[-1] == {"step": "login", "ok": False, "detail": "NO [AUTHENTICATIONFAILED] wrong"}
    assert len(imap.logins) == 1


@pytest.mark.parametrize(
    ("says", "cause"),
    [(b"{tag} NO [NONEXISTENT] gone\r\n", "INBOX could not be opened"), (b"nonsense\r\n", "does not speak IMAP")],
)
async def test_a_mailbox_that_does_not_open(control: Control, imap: ScriptedImap, says: bytes, cause: str) -> None:
    imap.says["EXAMINE"] = says
    result, _ = await run_test(control)
    assert (result["ok"], result["failed_at"]) == (False, "inbox")
    assert cause in result["cause"]


async def test_an_account_without_a_login_has_no_mailbox(control: Control) -> None:
    await registry.run(control, "account.set", {"account": ADDRESS, "auth": "none"})
    with pytest.raises(ControlError):
        await run_test(control)
