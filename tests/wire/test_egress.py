"""The way out: proxies that behave, refuse, stall and half-answer; source address, IP version, happy eyeballs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.config.proxy import parse_proxy
from relay.net.dial import DialFailed, dial, trusted
from relay.net.https import dial_failure, https_client
from relay.net.way import DIRECT, Way
from tests.peers.certificates import Certificates, write_certificates
from tests.peers.proxies import ScriptedProxy, running_proxy

SCHEMES = ("http", "socks5")
LOGIN = "relay:pa ss/@wörd"


class Greeted(asyncio.Protocol):
    """`said`: the first line that the other end sent."""

    def __init__(self) -> None:
        self.said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if b"\r\n" in self._data and not self.said.done():
            self.said.set_result(self._data)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"), "mail.example")


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hello\r\n")
    await writer.drain()
    writer.close()


@pytest.fixture
async def greeting() -> AsyncIterator[int]:
    """The port of a server that speaks first."""
    async with await asyncio.start_server(_greet, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def through(proxy: ScriptedProxy, **more: object) -> Way:
    return Way(parse_proxy(proxy.url), **more)  # type: ignore[arg-type]


async def said(host: str, port: int, way: Way) -> bytes:
    transport, protocol = await dial(Greeted, host, port, timeout_s=5, way=way)
    try:
        async with asyncio.timeout(5):
            return await protocol.said
    finally:
        transport.abort()


async def failure(way: Way, host: str = "mail.example", port: int = 587, timeout_s: float = 5) -> DialFailed:
    with pytest.raises(DialFailed) as failed:
        await dial(asyncio.Protocol, host, port, timeout_s=timeout_s, way=way)
    assert "pa ss" not in str(failed.value)
    return failed.value


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_name_that_only_the_proxy_knows(scheme: str, greeting: int) -> None:
    async with running_proxy(scheme) as proxy:
        proxy.resolves["mail.example"] = "127.0.0.1"
        assert await said("mail.example", greeting, through(proxy)) == b"220 hello\r\n"
        assert proxy.asked == [f"mail.example:{greeting}"]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_proxy_wants_a_login(scheme: str, greeting: int) -> None:
    login = LOGIN if scheme == "http" else "relay:pa ss/@word"
    async with running_proxy(scheme, login=login) as proxy:
        assert await said("127.0.0.1", greeting, through(proxy)) == b"220 hello\r\n"
        assert proxy.logins == [login]
        naked = Way(parse_proxy(f"{scheme}://127.0.0.1:{proxy.port}"))
        wrong = Way(parse_proxy(f"{scheme}://relay:pa%20ss1@127.0.0.1:{proxy.port}"))
        for way in (naked, wrong):
            assert (await failure(way)).reason == "proxy-auth"


async def test_a_password_that_socks_cannot_carry_is_not_shown() -> None:
    async with running_proxy("socks5", login=LOGIN) as proxy:
        failed = await failure(through(proxy))
        assert failed.reason == "proxy-auth"
        assert "wörd" not in str(failed)
        assert failed.__cause__ is None  # its text would hold it


async def test_a_greeting_in_one_segment_with_the_proxys_answer_is_not_lost() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server, running_proxy("http") as proxy:
        proxy.glued = b"220 glued\r\n"
        assert await said("127.0.0.1", server.sockets[0].getsockname()[1], through(proxy)) == b"220 glued\r\n"


ANSWERS = [
    (b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n", "proxy-auth"),
    (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nlong", "proxy-refused"),
    (b"HTTP/1.0 405 Method Not Allowed\r\n\r\n", "proxy-refused"),
    (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "proxy-upstream"),
    (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "proxy-upstream"),
    (b"HTTP/1.1 301 Moved\r\nLocation: http://evil.example/\r\n\r\n", "proxy-refused"),
    (b"HTTP/1.1 200 Conn", "proxy-protocol"),
    (b"HTTP/1.1 200 OK\r\nX: y\r\n", "proxy-protocol"),
    (b"220 mail.example ESMTP\r\n", "proxy-protocol"),
    (b"", "proxy-protocol"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, "proxy-protocol"),
]


@pytest.mark.parametrize(("answer", "reason"), ANSWERS, ids=[repr(answer[:20]) for answer, _ in ANSWERS])
async def test_every_answer_of_an_http_proxy_has_its_condition(answer: bytes, reason: str) -> None:
    async with running_proxy("http") as proxy:
        proxy.fault = answer
        failed = await failure(through(proxy))
        assert failed.reason == reason
        assert f"http://127.0.0.1:{proxy.port}" in failed.detail


SOCKS_ANSWERS = [
    (b"\x05\xff", "proxy-auth"),
    (b"\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00", "proxy-upstream"),
    (b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "proxy-refused"),
    (b"\x05\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "proxy-upstream"),
    (b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "proxy-upstream"),
    (b"\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00", "proxy-refused"),
    (b"\x05\x00\x05\x00\x00\x03\x04\xff\xfe\xfd\xfc\x00\x01", "proxy-protocol"),
    (b"\x05\x00\x05\x00\x00\x07", "proxy-protocol"),
    (b"\x05\x00\x05\x00", "proxy-protocol"),
    (b"\x04\x5a", "proxy-protocol"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "proxy-protocol"),
    (b"\x05", "proxy-protocol"),
    (b"", "proxy-protocol"),
]


@pytest.mark.parametrize(("answer", "reason"), SOCKS_ANSWERS, ids=[repr(answer[:6]) for answer, _ in SOCKS_ANSWERS])
async def test_every_answer_of_a_socks_proxy_has_its_condition(answer: bytes, reason: str) -> None:
    async with running_proxy("socks5") as proxy:
        proxy.fault = answer
        assert (await failure(through(proxy))).reason == reason


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_never_answers(scheme: str) -> None:
    async with running_proxy(scheme) as proxy:
        proxy.stalls = True
        failed = await failure(through(proxy), timeout_s=0.2)
        assert failed.reason == "proxy-protocol"
        assert "did not answer in time" in failed.detail


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_proxy_there(scheme: str) -> None:
    async with running_proxy(scheme) as proxy:
        way = through(proxy)
    assert (await failure(way)).reason == "proxy-unreachable"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_nobody_listens_behind_the_proxy(scheme: str, greeting: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]
    async with running_proxy(scheme) as proxy:
        assert (await failure(through(proxy), "127.0.0.1", closed)).reason == "proxy-upstream"


async def test_internal_hosts_are_reached_without_the_proxy(greeting: int) -> None:
    async with running_proxy("http") as proxy:
        way = through(proxy, exceptions=("127.0.0.0/8", "corp.example"))
        assert await said("127.0.0.1", greeting, way) == b"220 hello\r\n"
        assert proxy.connections == 0
        assert way.proxy_for("mail.corp.example") is None
        assert way.proxy_for("notcorp.example") is not None


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_tls_is_with_the_host_itself(scheme: str, certificates: Certificates) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.chain, certificates.key)
    async with (
        await asyncio.start_server(_greet, "127.0.0.1", 0, ssl=context) as server,
        running_proxy(scheme) as proxy,
    ):
        port = server.sockets[0].getsockname()[1]
        proxy.resolves |= {"mail.example": "127.0.0.1", "other.example": "127.0.0.1"}
        tls = await trusted(str(certificates.ca))
        way = through(proxy)
        transport, protocol = await dial(Greeted, "mail.example", port, timeout_s=5, tls=tls, way=way)
        assert await protocol.said == b"220 hello\r\n"
        transport.abort()
        with pytest.raises(DialFailed) as wrong:
            await dial(Greeted, "other.example", port, timeout_s=5, tls=tls, way=way)
        assert (wrong.value.reason, wrong.value.in_tls) == ("certificate-name", True)
        with pytest.raises(DialFailed) as stranger:
            await dial(Greeted, "mail.example", port, timeout_s=5, tls=await trusted(None), way=way)
        assert stranger.value.reason == "certificate-invalid"
        own = Way(way.proxy, ca_file=certificates.ca)  # trusted besides the system's
        transport, _ = await dial(Greeted, "mail.example", port, timeout_s=5, tls=await trusted(None, own), way=own)
        transport.abort()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_https_goes_the_same_way(scheme: str, certificates: Certificates) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.chain, certificates.key)
    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server,
        running_proxy(scheme, login="relay:secret-of-proxy") as proxy,
    ):
        proxy.resolves["mail.example"] = "127.0.0.1"
        url = f"https://mail.example:{server.sockets[0].getsockname()[1]}/"
        async with await https_client(through(proxy), timeout_s=5, ca_file=certificates.ca) as client:
            assert (await client.get(url)).text == "ok"
            with pytest.raises(Exception) as plain:
                await client.get(url.replace("https:", "http:"))
            assert type(plain.value).__name__ == "UnsupportedProtocol"
        assert proxy.connections == 1
        naked = Way(parse_proxy(f"{scheme}://127.0.0.1:{proxy.port}"))
        async with await https_client(naked, timeout_s=5, ca_file=certificates.ca) as client:
            with pytest.raises(Exception) as refused:
                await client.get(url)
        found = dial_failure(refused.value)
        assert found is not None
        assert found.reason == "proxy-auth"


async def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    for path in (tmp_path / "none.pem", tmp_path / "missing.pem"):
        with pytest.raises(DialFailed) as failed:
            await https_client(DIRECT, timeout_s=5, ca_file=path)
        assert failed.value.reason == "certificate-invalid"


# Addresses


@contextmanager
def deaf_at(host: str) -> Iterator[int]:
    """A port that takes no connection and refuses none: what a firewall does, on loopback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as deaf:
        deaf.bind((host, 0))
        deaf.listen(0)
        knocks = []
        for _ in range(5):  # a full backlog drops what comes
            knock = socket.socket(family)
            knock.setblocking(False)
            knock.connect_ex(deaf.getsockname())
            knocks.append(knock)
        try:
            yield deaf.getsockname()[1]
        finally:
            for knock in knocks:
                knock.close()


def two_addresses(monkeypatch: pytest.MonkeyPatch, six: int, four: int) -> None:
    async def addresses(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", six, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", four)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)


async def test_ipv6_that_is_refused_costs_nothing(monkeypatch: pytest.MonkeyPatch, greeting: int) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as gone:
        closed = gone.getsockname()[1]
    two_addresses(monkeypatch, closed, greeting)
    began = asyncio.get_running_loop().time()
    assert await said("two.example", 587, DIRECT) == b"220 hello\r\n"
    assert asyncio.get_running_loop().time() - began < 0.2


async def test_ipv6_that_never_answers_costs_the_attempt_delay(monkeypatch: pytest.MonkeyPatch, greeting: int) -> None:
    with deaf_at("::1") as deaf:
        two_addresses(monkeypatch, deaf, greeting)
        began = asyncio.get_running_loop().time()
        assert await said("two.example", 587, DIRECT) == b"220 hello\r\n"
        assert 0.2 < asyncio.get_running_loop().time() - began < 1.5  # RFC 8305 5: 250 ms


async def test_one_version_of_ip_alone(monkeypatch: pytest.MonkeyPatch, greeting: int) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as gone:
        closed = gone.getsockname()[1]
    two_addresses(monkeypatch, closed, greeting)
    assert await said("two.example", 587, Way(ip="4")) == b"220 hello\r\n"
    assert (await failure(Way(ip="6"))).reason == "connection-refused"
    assert "::1" in (await failure(Way(ip="6"))).detail


async def test_the_source_address(greeting: int) -> None:
    async with running_proxy("http") as proxy:
        assert await said("127.0.0.1", greeting, through(proxy, source=("127.0.0.9",))) == b"220 hello\r\n"
        assert proxy.from_hosts == ["127.0.0.9"]
    elsewhere = await failure(Way(source=("192.0.2.1",)), "127.0.0.1", greeting)
    assert elsewhere.reason == "source-address"
    assert "192.0.2.1" in elsewhere.detail
    other = await failure(Way(source=("::1",)), "127.0.0.1", greeting)
    assert other.reason == "dns-failure"
    assert "IPv6" in other.detail
