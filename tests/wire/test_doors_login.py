"""AUTH at the front door, octet by octet (RFC 4954): who is offered it, how it ends, what it changes."""

from __future__ import annotations

import asyncio
import smtplib
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from relay.accounts.clients import add_client
from relay.accounts.passwords import hash_password
from relay.listener import authentication
from relay.listener.authentication import Authentication
from relay.net.server_tls import server_context
from relay.telemetry import get_logger
from tests.peers.certificates import Certificates, write_certificates
from tests.wire.door import OpenDoor, Talker, open_door
from tests.wire.test_doors import sends_a_mail, starttls, trusting

LOOPS = ("uvloop",)
LOGIN, PASSWORD = "erp-7", "very-secret"
MAIL = b"MAIL FROM:<app@example.com>\r\n"
OPEN = {"auth_without_tls": True}


@cache
def hashed(password: str = PASSWORD) -> str:
    return hash_password(password)


def plain(login: str = LOGIN, password: str = PASSWORD, identity: str = "") -> bytes:
    return b64encode(f"{identity}\0{login}\0{password}".encode())


def word(text: str) -> bytes:
    return b64encode(text.encode())


@asynccontextmanager
async def login_door(folder: Path, *clients: dict[str, Any], **settings: Any) -> AsyncIterator[OpenDoor]:
    """A door at which the client `erp` may log in, or `clients` may; without TLS unless the settings say so."""
    entries = clients or ({"name": "erp", "networks": [], "auth": "login"},)

    def register(connection: Connection) -> None:
        for entry in entries:
            secret = {"login": LOGIN, "password_hash": hashed()} if entry["auth"] == "login" else {}
            add_client(connection, now_ms=1, **(secret | entry))

    async with open_door(folder, **settings) as door:
        await door.store.database.write(register)
        await door.directory.reload()
        yield door


async def capabilities(talker: Talker) -> list[str]:
    return [line[4:] for line in (await talker.say(b"EHLO app.example\r\n")).splitlines()[1:]]


async def test_auth_is_offered_only_where_a_client_can_use_it(tmp_path: Path) -> None:
    certificates = write_certificates(tmp_path)
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, **OPEN) as door:
        assert not [line for line in await capabilities(await door.client()) if line.startswith("AUTH")]
    for name in ("tls", "open", "any"):
        (tmp_path / name).mkdir()
    async with login_door(tmp_path / "tls", tls_context=context) as door:
        talker = await door.client()
        assert not [line for line in await capabilities(talker) if line.startswith("AUTH")]
        assert (await talker.say(b"AUTH PLAIN " + plain() + b"\r\n")).startswith("538 5.7.11")
        talker = await starttls(door, certificates)
        assert (await capabilities(talker))[-2:] == ["AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN"]
        assert (await talker.say(b"AUTH PLAIN " + plain() + b"\r\n")).startswith("235 2.7.0")
    async with login_door(tmp_path / "open", **OPEN) as door:
        assert (await capabilities(await door.client()))[-2:] == ["AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN"]
    printer = {"name": "printer", "networks": ["127.0.0.1"], "auth": "accept-any"}
    async with login_door(tmp_path / "any", printer) as door:
        assert (await capabilities(await door.client()))[-2:] == ["AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN"]


async def test_without_tls_a_password_is_not_asked_for(tmp_path: Path) -> None:
    async with login_door(tmp_path) as door:
        talker = await door.client()
        assert (await talker.say(b"AUTH PLAIN " + plain() + b"\r\n")).startswith("502 5.5.1")


PLAIN = [b"AUTH PLAIN " + plain() + b"\r\n"]
WAYS = {
    "plain": [(PLAIN[0], "235 2.7.0")],
    "plain, lower case": [(b"auth plain  " + plain() + b" \r\n", "235 2.7.0")],
    "plain, asked": [(b"AUTH PLAIN\r\n", "334 "), (plain() + b"\r\n", "235 2.7.0")],
    "plain, as itself": [(b"AUTH PLAIN " + plain(identity=LOGIN) + b"\r\n", "235 2.7.0")],
    "login": [
        (b"AUTH LOGIN\r\n", "334 VXNlcm5hbWU6"),
        (word(LOGIN) + b"\r\n", "334 UGFzc3dvcmQ6"),
        (word(PASSWORD) + b"\r\n", "235 2.7.0"),
    ],
    "login, name at once": [
        (b"AUTH LOGIN " + word(LOGIN) + b"\r\n", "334 UGFzc3dvcmQ6"),
        (word(PASSWORD) + b"\r\n", "235 2.7.0"),
    ],
    "after a cancelled one": [(b"AUTH LOGIN\r\n", "334"), (b"*\r\n", "501 5.7.0"), (PLAIN[0], "235")],
    "after bad base64": [(b"AUTH PLAIN a\r\n", "501 5.5.2"), (PLAIN[0], "235")],
    "after half of it": [(b"AUTH PLAIN " + word("ann") + b"\r\n", "501 5.5.2"), (PLAIN[0], "235")],
    "after another mechanism": [(b"AUTH CRAM-MD5\r\n", "504 5.5.4"), (PLAIN[0], "235")],
    "after none": [(b"AUTH\r\n", "501 5.5.4"), (PLAIN[0], "235")],
    "after a wrong one": [(b"AUTH PLAIN " + plain(password="x") + b"\r\n", "535 5.7.8"), (PLAIN[0], "235")],
    "after an empty one": [(b"AUTH PLAIN =\r\n", "501 5.5.2"), (PLAIN[0], "235")],
    "after no password": [(b"AUTH PLAIN " + plain(password="") + b"\r\n", "535 5.7.8"), (PLAIN[0], "235")],
    "after acting for another": [(b"AUTH PLAIN " + plain(identity="boss") + b"\r\n", "535 5.7.8"), (PLAIN[0], "235")],
    "after commands as answers": [
        (b"AUTH LOGIN\r\n", "334"),
        (b"RSET\r\n", "334"),
        (b"NOOP\r\n", "535"),
        (PLAIN[0], "235"),
    ],
    "after a long name": [
        (b"AUTH LOGIN " + b"YWFh" * 3000 + b"\r\n", "334"),
        (b"*\r\n", "501 5.7.0"),
        (PLAIN[0], "235"),
    ],
    "after a long answer": [(b"AUTH PLAIN\r\n", "334"), (b"YWFh" * 3000 + b"\r\n", "501 5.5.2"), (PLAIN[0], "235")],
    "after too long an answer": [
        (b"AUTH PLAIN\r\n", "334"),
        (b"YWFh" * 30_000 + b"\r\n", "500 5.5.6"),
        (PLAIN[0], "235"),
    ],
    "after too long a name": [(b"AUTH PLAIN " + b"YWFh" * 3100 + b"\r\n", "500 5.5.2"), (PLAIN[0], "235")],
}


@pytest.mark.parametrize("way", WAYS)
async def test_ways_to_log_in(way: str, tmp_path: Path) -> None:
    async with login_door(tmp_path, **OPEN) as door:
        talker = await door.client()
        assert (await talker.say(MAIL)).startswith("550 5.7.1")  # of no client's network
        for said, reply in WAYS[way]:
            assert (await talker.say(said)).startswith(reply)
        assert (await talker.say(PLAIN[0])).startswith("503 5.5.1")
        await sends_a_mail(talker)
        assert door.messages[-1].client == "erp"


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
async def test_a_password_may_have_umlauts_in_either_charset(charset: str, tmp_path: Path) -> None:
    password = "höchst geheim"
    erp = {"name": "erp", "networks": [], "auth": "login", "password_hash": hashed(password)}
    async with login_door(tmp_path, erp, **OPEN) as door:
        said = b64encode(f"\0{LOGIN}\0{password}".encode(charset))
        assert (await (await door.client()).say(b"AUTH PLAIN " + said + b"\r\n")).startswith("235")


async def test_the_answer_may_come_octet_by_octet(tmp_path: Path) -> None:
    async with login_door(tmp_path, **OPEN) as door:
        talker = await door.client()
        dialogue = b"AUTH LOGIN\r\n" + word(LOGIN) + b"\r\n" + word(PASSWORD) + b"\r\n"
        await talker.send(*(dialogue[n : n + 1] for n in range(len(dialogue))))
        assert [(await talker.reply())[:3] for _ in range(3)] == ["334", "334", "235"]
        again = await door.client()
        await again.send(dialogue + b"NOOP\r\n")
        assert [(await again.reply())[:3] for _ in range(4)] == ["334", "334", "235", "250"]


async def test_auth_has_its_place(tmp_path: Path) -> None:
    async with login_door(tmp_path, {"name": "erp", "networks": ["127.0.0.0/8"], "auth": "login"}, **OPEN) as door:
        talker = await door.connect()
        await talker.reply()
        assert (await talker.say(PLAIN[0])).startswith("503 5.5.1")
        assert (await talker.say(b"HELO app.example\r\n")).startswith("250")
        assert (await talker.say(MAIL)).startswith("530 5.7.0")
        assert (await talker.say(PLAIN[0])).startswith("235")
        assert (await talker.say(MAIL)).startswith("250")
        assert (await talker.say(PLAIN[0])).startswith("503 5.5.1")


async def test_a_new_tls_session_forgets_the_login(tmp_path: Path) -> None:
    certificates = write_certificates(tmp_path)
    context = server_context(certificates.chain, certificates.key)
    async with login_door(tmp_path, tls_context=context, **OPEN) as door:
        talker = await door.client()
        assert (await talker.say(PLAIN[0])).startswith("235")
        secured = await starttls_of(talker, certificates)
        assert (await secured.say(MAIL)).startswith("550 5.7.1")
        assert (await secured.say(PLAIN[0])).startswith("235")
        await sends_a_mail(secured)


async def starttls_of(talker: Talker, certificates: Certificates) -> Talker:
    assert (await talker.say(b"STARTTLS\r\n")).startswith("220")
    await talker.writer.start_tls(trusting(certificates), server_hostname="localhost")
    assert (await talker.say(b"EHLO app.example\r\n")).startswith("250")
    return talker


SAID = [
    [(b"AUTH PLAIN " + plain("who", "ever") + b"\r\n", "235")],
    [(b"AUTH PLAIN\r\n", "334"), (b"this is not base64!\r\n", "235")],
    [(b"AUTH LOGIN\r\n", "334"), (b"\r\n", "334"), (b"\r\n", "235")],
    [(b"AUTH LOGIN\r\n", "334"), (b"*\r\n", "501 5.7.0"), (b"AUTH LOGIN eA==\r\n", "334"), (b"eA==\r\n", "235")],
]


@pytest.mark.parametrize("number", range(len(SAID)))
async def test_accept_any_accepts_whatever_is_said(number: int, tmp_path: Path) -> None:
    printer = {"name": "printer", "networks": ["127.0.0.1"], "auth": "accept-any"}
    async with login_door(tmp_path, printer) as door:
        talker = await door.client()
        for said, reply in SAID[number]:
            assert (await talker.say(said)).startswith(reply)
        await sends_a_mail(talker)
        assert door.messages[-1].client == "printer"


async def test_accept_any_need_not_log_in(tmp_path: Path) -> None:
    printer = {"name": "printer", "networks": ["127.0.0.1"], "auth": "accept-any"}
    async with login_door(tmp_path, printer) as door:
        await sends_a_mail(await door.client())


async def test_a_login_counts_within_its_networks_only(tmp_path: Path) -> None:
    erp = {"name": "erp", "networks": ["10.0.0.0/8"], "auth": "login"}
    async with login_door(tmp_path, erp, **OPEN) as door:
        talker = await door.client()
        assert (await talker.say(PLAIN[0])).startswith("535 5.7.8")


async def test_three_failures_end_the_session(tmp_path: Path) -> None:
    async with login_door(tmp_path, **OPEN) as door:
        talker = await door.client()
        for _ in range(2):
            assert (await talker.say(b"AUTH PLAIN " + plain("nobody") + b"\r\n")).startswith("535 5.7.8")
        assert (await talker.say(b"AUTH PLAIN " + plain(password="no") + b"\r\n")).startswith("421 4.7.0")
        assert await talker.rest() == b""
        await sends_a_mail_logged_in(door)


async def sends_a_mail_logged_in(door: OpenDoor) -> None:
    talker = await door.client()
    assert (await talker.say(PLAIN[0])).startswith("235")
    await sends_a_mail(talker)


async def test_ten_failures_of_a_login_from_an_address_close_it_for_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    monkeypatch.setattr(authentication, "verify_password", lambda stored, password: verified.append(password))
    now = [0.0]
    async with login_door(tmp_path, **OPEN) as door:
        own = Authentication(door.directory, clock=lambda: now[0])
        assert door.listener._door is not None
        door.listener._door.authentication = own
        talkers = [await door.client() for _ in range(20)]
        replies = await asyncio.gather(*(talker.say(PLAIN[0]) for talker in talkers))
        assert {reply[:9] for reply in replies} == {"421 4.7.0", "535 5.7.8"}
        assert 10 <= len(verified) <= 13  # three more may be under way with the tenth
        assert (await (await door.client()).say(PLAIN[0])).startswith("421 4.7.0")
        monkeypatch.undo()
        now[0] += authentication.ADDRESS_WINDOW_S
        await sends_a_mail_logged_in(door)
        own.close()


async def test_the_memory_of_failures_is_bounded() -> None:
    failures = authentication._Failures(lambda: 0.0)
    for number in range(5000):
        failures.add(f"10.0.{number >> 8}.{number & 255}", "erp")
    for _ in range(100):
        failures.add("10.0.0.1", "erp")
    assert len(failures._times) == authentication._MOST_ADDRESSES
    assert failures.too_many("10.0.0.1")
    assert failures.too_many("10.0.0.1", "erp")
    assert not failures.too_many("10.0.0.1", "another")
    assert not failures.too_many("10.0.0.2")


@pytest.mark.usefixtures("costly_passwords")
async def test_an_unknown_login_costs_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed.cache_clear()
    stored = []
    monkeypatch.setattr(authentication, "verify_password", lambda hashed, password: stored.append(hashed))
    async with login_door(tmp_path, **OPEN) as door:
        talker = await door.client()
        assert (await talker.say(b"AUTH PLAIN " + plain("nobody") + b"\r\n")).startswith("535 5.7.8")
        assert (await talker.say(b"AUTH PLAIN " + plain() + b"\r\n")).startswith("535 5.7.8")
    assert [entry[:31] for entry in stored] == ["$argon2id$v=19$m=65536,t=3,p=4$"] * 2
    assert stored[1] == hashed()
    hashed.cache_clear()


async def test_no_password_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    for level in ("debug", "info", "warning", "error", "exception"):
        monkeypatch.setattr(get_logger(), level, lambda event, **keys: lines.append(f"{event} {keys}"))
    async with login_door(tmp_path, **OPEN) as door:
        talker = await door.client()
        for said in (
            b"AUTH PLAIN " + plain(password="wrong-secret") + b"\r\n",
            b"AUTH LOGIN\r\n",
            word(LOGIN) + b"\r\n",
        ):
            await talker.say(said)
        assert (await talker.say(word(PASSWORD) + b"\r\n")).startswith("235")
        assert (await talker.say(b"QUIT\r\n")).startswith("221")
        await talker.rest()
    text = "\n".join(lines)
    assert "session.authenticated" in text
    for secret in (PASSWORD, "wrong-secret", word(PASSWORD).decode(), plain(password="wrong-secret").decode()):
        assert secret not in text


async def test_who_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    async with login_door(tmp_path, **OPEN) as door:
        for half in (b"AUTH LOGIN\r\n", b"AUTH PLAIN\r\nYWF", b"AUTH LOGIN " + b"YWFh" * 1000, PLAIN[0]):
            talker = await door.client()
            await talker.send(half)
            talker.close()
        async with asyncio.timeout(10):
            while door.listener.connections:
                await asyncio.sleep(0.01)
        await sends_a_mail_logged_in(door)


async def test_a_listener_that_stops_ends_an_exchange(tmp_path: Path) -> None:
    async with login_door(tmp_path, **OPEN) as door:
        talker = await door.client()
        assert (await talker.say(b"AUTH LOGIN\r\n")).startswith("334")
        door.listener.stop_accepting()
        assert (await talker.reply()).startswith("421 4.3.2")
        assert await door.listener.drain(5)


async def test_an_idle_exchange_is_closed(tmp_path: Path) -> None:
    async with login_door(tmp_path, idle_timeout_s=0.5, **OPEN) as door:
        talker = await door.client()
        assert (await talker.say(b"AUTH LOGIN\r\n")).startswith("334")
        assert (await talker.reply()).startswith("421 4.4.2")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_smtplib_logs_in(mechanism: str, tmp_path: Path) -> None:
    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="app.example", timeout=10) as client:
            client.ehlo()
            client.user, client.password = LOGIN, PASSWORD
            client.auth(mechanism, client.auth_plain if mechanism == "PLAIN" else client.auth_login)
            client.sendmail("app@example.com", ["ann@example.org"], b"Subject: x\r\n\r\nhello\r\n")

    async with login_door(tmp_path, **OPEN) as door:
        await asyncio.to_thread(send, door.listener.port)
        assert door.messages[-1].client == "erp"
