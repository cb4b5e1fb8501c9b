"""Every kind of front door: TLS required, implicit and old, a new certificate, a Unix socket, a balancer in front."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay.config.settings import ListenerSettings
from relay.listener import entrance
from relay.listener.certificate import ServerTls
from relay.listener.server import Listener
from relay.net.server_tls import server_context
from relay.telemetry import get_logger
from tests.peers.certificates import Certificates, write_certificates
from tests.wire.door import DEADLINE_S, HOST, OpenDoor, Talker, open_door

LOOPS = ("asyncio", "uvloop")
MAIL = b"MAIL FROM:<app@example.com>\r\n"
BODY = b"From: app@example.com\r\nDate: d\r\nMessage-ID: <m@b>\r\nSubject: s\r\n\r\nhello\r\n"

Logged = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return write_certificates(tmp_path)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    """Events of level info and warning, with their keys."""
    lines: Logged = []
    for level in ("info", "warning", "exception"):
        monkeypatch.setattr(get_logger(), level, lambda event, **keys: lines.append((event, keys)))
    return lines


def trusting(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates.ca))


async def secured(door: OpenDoor, certificates: Certificates, first: bytes = b"") -> Talker:
    """A connection under TLS; `first` is said before the handshake."""
    talker = await door.connect()
    if first:
        await talker.send(first)
    async with asyncio.timeout(DEADLINE_S):
        await talker.writer.start_tls(trusting(certificates), server_hostname="localhost")
    return talker


async def until(done: Callable[[], bool]) -> None:
    """Wait for a state that has no event of its own, under a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.005)


def another(door: OpenDoor, settings: ListenerSettings) -> Listener:
    """One more listener over the store of `door`."""
    return Listener(settings, door.directory, door.store.queue, instance_id="i-2", hostname=HOST)


async def sends_a_mail(talker: Talker) -> None:
    assert (await talker.say(b"EHLO app.example\r\n")).startswith("250")
    await talker.begin()
    assert (await talker.say(BODY + b".\r\n")).startswith("250 2.0.0 Ok: queued as ")


# -- TLS ----------------------------------------------------------------------------------------------------


async def test_where_tls_is_required_it_comes_before_mail(tmp_path: Path, certificates: Certificates) -> None:
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context, tls="required") as door:
        talker = await door.connect()
        await talker.reply()
        assert "250 STARTTLS" in await talker.say(b"EHLO app.example\r\n")
        assert await talker.say(MAIL) == "530 5.7.0 must issue a STARTTLS command first"
        assert (await talker.say(b"NOOP\r\n")).startswith("250")
        assert (await talker.say(b"STARTTLS\r\n")).startswith("220")
        await talker.writer.start_tls(trusting(certificates), server_hostname="localhost")
        await sends_a_mail(talker)


async def test_an_implicit_door_speaks_tls_from_the_first_octet(tmp_path: Path, certificates: Certificates) -> None:
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context, tls="implicit") as door:
        talker = await secured(door, certificates)
        assert await talker.reply() == f"220 {HOST} ESMTP relay"
        assert "STARTTLS" not in await talker.say(b"EHLO app.example\r\n")
        assert (await talker.say(b"STARTTLS\r\n")).startswith("503 5.5.1")
        await sends_a_mail(talker)
        inline = door.messages[-1].content.inline
        assert inline is not None
        assert b"with ESMTPS id" in inline.partition(b";")[0].replace(b"\r\n\t", b" ")
        big = BODY + (b"x" * 76 + b"\r\n") * 20000
        await talker.begin()
        assert (await talker.say(big + b".\r\n")).startswith("250")
        assert door.content() == big
        assert (await talker.say(b"QUIT\r\n")).startswith("221")
        assert await talker.rest() == b""
        await until(lambda: door.listener.connections == 0)


async def test_who_talks_before_the_greeting_of_an_implicit_door_is_turned_away(
    tmp_path: Path, certificates: Certificates
) -> None:
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context, tls="implicit") as door:

        def early() -> bytes:
            """The command in one segment with the last of the handshake: the server has no ticket to wait for."""
            client = trusting(certificates)
            client.maximum_version = ssl.TLSVersion.TLSv1_3
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client.wrap_bio(incoming, outgoing, server_hostname="localhost")
            with socket.create_connection(("127.0.0.1", door.listener.port), DEADLINE_S) as connection:
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        connection.sendall(outgoing.read())
                        incoming.write(connection.recv(65536))
                tls.write(b"EHLO early\r\n")
                connection.sendall(outgoing.read())
                while True:
                    try:
                        return tls.read(1000)
                    except ssl.SSLWantReadError:
                        incoming.write(connection.recv(65536))

        assert (await asyncio.to_thread(early)).startswith(b"554 5.5.1 wait for the greeting")


async def test_plain_talk_at_an_implicit_door_is_one_line_in_the_log(
    tmp_path: Path, certificates: Certificates, logged: Logged
) -> None:
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context, tls="implicit") as door:
        talker = await door.connect()
        await talker.send(b"EHLO app.example\r\n")
        assert b"220 " not in await talker.rest()
        gone = await door.connect()
        gone.close()
        await until(lambda: len([event for event, _ in logged if event == "session.tls_failed"]) == 2)
        first, second = (keys for event, keys in logged if event == "session.tls_failed")
        assert (first["client"], first["reason"]) == ("127.0.0.1", "wrong version number")
        assert "speaks no TLS" in first["to_do"]
        assert second["reason"] == "connection lost"
        assert "not implicit" in second["to_do"]
        assert not [event for event, _ in logged if event == "daemon.fault"]
        await until(lambda: door.listener.connections == 0)
        await sends_a_mail_after_greeting(await secured(door, certificates))


async def sends_a_mail_after_greeting(talker: Talker) -> None:
    assert (await talker.reply()).startswith("220 ")
    await sends_a_mail(talker)


async def test_a_handshake_has_its_time_and_counts_as_a_connection(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context, tls="implicit", max_connections_per_client=2) as door:
        silent = [await door.connect() for _ in range(2)]
        await until(lambda: door.listener.connections == 2)
        assert await (await door.connect()).rest() == b""  # too many: nothing can be said without TLS
        silent[0].close()
        await until(lambda: door.listener.connections == 1)
        monkeypatch.setattr(entrance, "HANDSHAKE_S", 0.2)
        late = await door.connect()
        assert await late.rest() == b""
        monkeypatch.undo()
        await sends_a_mail_after_greeting(await secured(door, certificates))
        silent[1].close()
        await until(lambda: door.listener.connections <= 1)


async def test_a_listener_that_stops_ends_handshakes_under_way(tmp_path: Path, certificates: Certificates) -> None:
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context, tls="implicit") as door:
        silent = await door.connect()
        greeted = await secured(door, certificates)
        await greeted.reply()
        await until(lambda: door.listener.connections == 2)
        door.listener.stop_accepting()
        assert (await greeted.reply()).startswith("421 4.3.2")
        assert await silent.rest() == b""
        assert await door.listener.drain(DEADLINE_S)


async def s_client(port: int, *options: str) -> str:
    """What `openssl s_client` says of the connection."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-brief", "-connect", f"127.0.0.1:{port}", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await process.communicate()
    return errors.decode()


def version(said: str) -> str:
    return next((line.split()[-1] for line in said.splitlines() if "Protocol version" in line), "")


OLD = ("-cipher", "DEFAULT:@SECLEVEL=0")
VERSIONS = {"-tls1": "TLSv1", "-tls1_1": "TLSv1.1", "-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("kind", ["starttls", "implicit"])
@pytest.mark.parametrize("minimum", ["1.0", "1.1", "1.2", "1.3"])
async def test_a_door_takes_its_minimum_version_and_none_below(
    minimum: str, kind: str, tmp_path: Path, certificates: Certificates
) -> None:
    context = server_context(certificates.chain, certificates.key, minimum=minimum)
    async with open_door(tmp_path, tls_context=context, tls=kind) as door:
        starttls = () if kind == "implicit" else ("-starttls", "smtp")
        said = await asyncio.gather(*(s_client(door.listener.port, option, *OLD, *starttls) for option in VERSIONS))
    found = dict(zip(VERSIONS, map(version, said), strict=True))
    lowest = ["1.0", "1.1", "1.2", "1.3"].index(minimum)
    assert found == {option: name if n >= lowest else "" for n, (option, name) in enumerate(VERSIONS.items())}


async def test_a_new_certificate_counts_from_the_next_handshake_on(
    tmp_path: Path, certificates: Certificates, logged: Logged
) -> None:
    now = [0.0]
    tls = ServerTls(certificates.chain, certificates.key, clock=lambda: now[0])
    async with open_door(tmp_path, tls_contexts=tls.context) as door:
        served = await starttls(door, certificates)
        chain, key = certificates.chain.read_bytes(), certificates.key.read_bytes()

        (tmp_path / "new").mkdir()
        new = write_certificates(tmp_path / "new")
        certificates.chain.write_bytes(new.chain.read_bytes())
        certificates.key.write_bytes(new.key.read_bytes())
        await starttls(door, certificates)  # not looked at yet
        now[0] += 10
        await starttls(door, new)
        assert [keys["detail"] for event, keys in logged if event == "listener.certificate"] == ["read again"]

        logged.clear()
        for broken in (chain, b"no certificate", None):  # another key's, nonsense, none at all
            if broken is None:
                certificates.chain.unlink()
            else:
                certificates.chain.write_bytes(broken)
            for _ in range(3):
                now[0] += 10
                await starttls(door, new)
        warned = [keys for event, keys in logged if event == "listener.certificate"]
        assert len(warned) == 3
        assert all("stays in use" in keys["to_do"] for keys in warned)

        certificates.chain.write_bytes(chain)
        certificates.key.write_bytes(key)
        now[0] += 10
        await starttls(door, certificates)
        await sends_a_mail(served)


async def starttls(door: OpenDoor, certificates: Certificates) -> Talker:
    talker = await door.client()
    assert (await talker.say(b"STARTTLS\r\n")).startswith("220")
    await talker.writer.start_tls(trusting(certificates), server_hostname="localhost")
    assert (await talker.say(b"EHLO app.example\r\n")).startswith("250")
    return talker


async def test_a_failed_starttls_is_one_line_in_the_log(
    tmp_path: Path, certificates: Certificates, logged: Logged
) -> None:
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context) as door:
        talker = await door.client()
        assert (await talker.say(b"STARTTLS\r\n")).startswith("220")
        await talker.send(b"this is no client hello\r\n")
        await talker.rest()
        await until(lambda: door.listener.connections == 0)
        (failed,) = [keys for event, keys in logged if event == "session.tls_failed"]
        assert (failed["client"], failed["reason"]) == ("127.0.0.1", "wrong version number")
        assert ("session.closed", "tls") in [(event, keys.get("reason")) for event, keys in logged]


# -- Unix sockets -------------------------------------------------------------------------------------------


async def test_a_unix_socket_is_a_door(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    async with open_door(tmp_path, path=path, path_mode="0660") as door:
        assert path.stat().st_mode & 0o777 == 0o660
        assert door.listener.port == 0
        talker = Talker(*await asyncio.open_unix_connection(path))
        await sends_a_mail_after_greeting(talker)
        assert door.messages[-1].client == "127.0.0.1"
        talker.writer.write_eof()
        assert await talker.rest() == b""
        door.listener.stop_accepting()
        assert not path.exists()


async def test_a_unix_socket_can_have_tls(tmp_path: Path, certificates: Certificates) -> None:
    path = tmp_path / "smtp.sock"
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, path=path, tls_context=context, tls="implicit"):
        reader, writer = await asyncio.open_unix_connection(
            path, ssl=trusting(certificates), server_hostname="localhost"
        )
        await sends_a_mail_after_greeting(Talker(reader, writer))


async def test_a_dead_socket_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    async with open_door(tmp_path, path=path) as door:
        await sends_a_mail_after_greeting(Talker(*await asyncio.open_unix_connection(path)))
        rival = another(door, ListenerSettings(path=path))
        with pytest.raises(OSError) as living:
            await rival.start()
        assert living.value.errno == errno.EADDRINUSE
        await sends_a_mail_after_greeting(Talker(*await asyncio.open_unix_connection(path)))
        path.unlink()
        path.write_text("somebody else's")
        door.listener.stop_accepting()
        with pytest.raises(OSError) as file:
            await another(door, ListenerSettings(path=path)).start()
        assert file.value.errno == errno.EEXIST
    assert path.read_text() == "somebody else's"


# -- inherited sockets --------------------------------------------------------------------------------------


async def test_a_socket_can_be_inherited(tmp_path: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(tmp_path / "given.sock"))
    local.listen()
    local.setblocking(False)
    async with open_door(tmp_path) as door:
        for given in (listening, local):
            other = another(door, ListenerSettings())
            await other.start(given)
            address = other.sockets[0].getsockname()
            streams = (
                await asyncio.open_unix_connection(address)
                if given is local
                else await asyncio.open_connection(*address)
            )
            await sends_a_mail_after_greeting(Talker(*streams))
            other.stop_accepting()
            assert await other.drain(DEADLINE_S)
    assert (tmp_path / "given.sock").exists()  # whoever made it removes it
