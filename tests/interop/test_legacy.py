"""Programs that hand their mail to sendmail or speak SMTP as they always did, through the relay to a provider."""

from __future__ import annotations

import getpass
import socket
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
import pytest_asyncio

from tests.daemon import RelayDaemon
from tests.interop.legacy import LEGACY, Errand, Program, make_sendmail, run
from tests.peers.script import Taken
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store
from tests.system.conftest import APP, PASSWORD, QUICK, at

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]
BODY = "Grüße vom Gerät\n.ein Punkt\n..zwei\n.\nEnde\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(accounts={APP: PASSWORD}) as scripted:
        yield scripted


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RelayDaemon]:
    folder = tmp_path_factory.mktemp("relay")
    upstream.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    async with RelayDaemon(lay_store(folder / "data"), QUICK) as daemon:
        await daemon.add_account(APP, PASSWORD, *at(upstream, folder / "ca.pem"))
        yield daemon


def parsed(taken: Taken) -> EmailMessage:
    content = taken.content.replace(b"\r\n..", b"\r\n.")
    message = message_from_bytes(content, policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    return message


def text(message: EmailMessage) -> str:
    """The body as its reader sees it; 8-bit text without a declared charset is UTF-8 here."""
    raw = message.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode().replace("\r\n", "\n").rstrip("\n") + "\n"


@pytest.mark.parametrize("program", LEGACY, ids=str)
async def test_a_programs_mail_arrives_under_its_senders_account(
    program: Program, relay: RelayDaemon, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    if program.absent():
        pytest.skip(program.absent())
    make_sendmail(tmp_path)
    recipient = f"{program.name}@example.org"
    await program.send(Errand(relay.port, APP, recipient, BODY, tmp_path))
    taken = await upstream.next_message()
    assert (taken.reverse_path, taken.recipients, taken.account) == (APP, (recipient,), APP)
    message = parsed(taken)
    assert text(message) == BODY
    assert APP in message["From"]
    assert recipient in (message["To"] or recipient)  # not every program names whom it is for
    assert message["Date"]
    assert message["Message-ID"]


async def test_a_program_hears_why_its_mail_was_refused(relay: RelayDaemon, tmp_path: Path) -> None:
    make_sendmail(tmp_path)
    for program in LEGACY:
        if program.name in ("cron", "script", "bsd-mailx", "s-nail", "php") and not program.absent():
            with pytest.raises(RuntimeError, match=r"nobody@example\.com>: no account may send as this address"):
                await program.send(Errand(relay.port, "nobody@example.com", "ann@example.org", BODY, tmp_path))


async def test_a_user_without_an_address_is_mapped_to_one(
    relay: RelayDaemon, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    sendmail = str(make_sendmail(tmp_path))
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    mapping = ("--identity", "map", "--map", f"{here}={APP}", "--tolerate", "bare-recipients")
    await relay.cli("client", "add", "scripts", "--network", "127.0.0.1", *mapping, "--default-domain", "example.com")
    try:
        errand = Errand(relay.port, here, "root", BODY, tmp_path)
        await run(errand, sendmail, "-i", "root", stdin="Subject: backup\n\ndone\n")
    finally:
        await relay.cli("client", "remove", "scripts")
    taken = await upstream.next_message()
    assert (taken.reverse_path, taken.recipients, taken.account) == (APP, ("root@example.com",), APP)
