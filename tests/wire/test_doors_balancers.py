"""Balancers in front of a door: PROXY v1 and v2, who may announce whom, and headers that are none."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.listener import entrance
from relay.net.server_tls import server_context
from tests.peers.certificates import Certificates
from tests.wire.door import DEADLINE_S, Talker, open_door
from tests.wire.test_doors import (
    Logged,
    secured,
    sends_a_mail,
    sends_a_mail_after_greeting,
    trusting,
    until,
)
from tests.wire.test_doors import certificates as certificates  # a fixture
from tests.wire.test_doors import logged as logged  # a fixture

LOOPS = ("asyncio", "uvloop")

BALANCER = {"proxy_networks": (ip_network("127.0.0.0/8"),)}


EVERYBODY = {"allowed_networks": (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("fc00::/7"))}


V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(source: str, *, command: int = 1, rest: bytes = b"") -> bytes:
    """A header of version 2 for a stream over IPv4."""
    addresses = socket.inet_aton(source) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 4711, 25) + rest
    return V2 + bytes([0x20 | command, 0x11]) + struct.pack("!H", len(addresses)) + addresses


V6 = (
    V2
    + bytes([0x21, 0x21])
    + struct.pack("!H", 36)
    + socket.inet_pton(socket.AF_INET6, "fd00::7")
    + socket.inet_pton(socket.AF_INET6, "::1")
    + struct.pack("!HH", 1, 2)
)


GOOD = {
    "v1": (b"PROXY TCP4 10.1.2.3 127.0.0.1 4711 25\r\n", "10.1.2.3"),
    "v1-ipv6": (b"PROXY TCP6 fd00::7 ::1 4711 25\r\n", "fd00::7"),
    "v1-mapped": (b"PROXY TCP6 ::ffff:10.1.2.3 ::1 4711 25\r\n", "10.1.2.3"),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v1-unknown-with-more": (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", "127.0.0.1"),
    "v2": (v2("10.1.2.3"), "10.1.2.3"),
    "v2-ipv6": (V6, "fd00::7"),
    "v2-with-more": (v2("10.1.2.3", rest=b"\x01\x00\x02h2" + b"\x04\x04\x00" + b"\0" * 1024), "10.1.2.3"),
    "v2-local": (v2("10.1.2.3", command=0), "127.0.0.1"),
    "v2-local-empty": (V2 + b"\x20\x00\x00\x00", "127.0.0.1"),
    "v2-unix": (V2 + b"\x21\x31" + struct.pack("!H", 216) + b"/a".ljust(216, b"\0"), "127.0.0.1"),
}


@pytest.mark.parametrize("cut", ["whole", "octets"])
@pytest.mark.parametrize("header", GOOD)
async def test_a_balancer_announces_the_client(header: str, cut: str, tmp_path: Path) -> None:
    octets, source = GOOD[header]
    async with open_door(tmp_path, **BALANCER, **EVERYBODY) as door:
        talker = await door.connect()
        await talker.send(*([octets] if cut == "whole" else [octets[n : n + 1] for n in range(len(octets))]))
        await sends_a_mail_after_greeting(talker)
        assert door.messages[-1].client == source
        inline = door.messages[-1].content.inline
        assert inline is not None
        assert source.encode() in inline.partition(b"by relay")[0]


@pytest.mark.parametrize("header", ["v1", "v2", "v2-ipv6", "v2-with-more"])
async def test_a_balancer_in_front_of_implicit_tls(header: str, tmp_path: Path, certificates: Certificates) -> None:
    octets, source = GOOD[header]
    context = server_context(certificates.chain, certificates.key)
    async with open_door(tmp_path, tls_context=context, tls="implicit", **BALANCER, **EVERYBODY) as door:
        await sends_a_mail_after_greeting(await secured(door, certificates, octets))
        assert door.messages[-1].client == source


async def test_header_and_client_hello_in_one_segment(tmp_path: Path, certificates: Certificates) -> None:
    context = server_context(certificates.chain, certificates.key)

    def talk(port: int) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(certificates).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            first = GOOD["v1"][0]
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(first + outgoing.read())
                    first = b""
                    incoming.write(connection.recv(65536))
            connection.sendall(outgoing.read())
            while True:
                try:
                    return tls.read(1000)
                except ssl.SSLWantReadError:
                    incoming.write(connection.recv(65536))

    async with open_door(tmp_path, tls_context=context, tls="implicit", **BALANCER, **EVERYBODY) as door:
        assert (await asyncio.to_thread(talk, door.listener.port)).startswith(b"220 ")


BAD = {
    "no header": b"EHLO app.example\r\n",
    "almost": b"PROXX TCP4 10.1.2.3 127.0.0.1 4711 25\r\n",
    "no space": b"PROXYTCP4 10.1.2.3 127.0.0.1 4711 25\r\n",
    "datagrams": V2 + b"\x21\x12" + struct.pack("!H", 12) + bytes(12),
    "bad address": b"PROXY TCP4 10.1.2.300 127.0.0.1 4711 25\r\n",
    "wrong family": b"PROXY TCP4 fd00::7 ::1 4711 25\r\n",
    "no ports": b"PROXY TCP4 10.1.2.3 127.0.0.1\r\n",
    "bare LF": b"PROXY TCP4 10.1.2.3 127.0.0.1 4711 25\n",
    "endless": b"PROXY TCP4 " + b"1" * 2000,
    "long v2": V2 + b"\x21\x11\xff\xff" + bytes(65535),
    "short v2": V2 + b"\x21\x11" + struct.pack("!H", 4) + bytes(4),
    "version 3": V2 + b"\x31\x11" + struct.pack("!H", 12) + bytes(12),
    "command 7": V2 + b"\x27\x11" + struct.pack("!H", 12) + bytes(12),
    "no v2": V2[:-1] + b"X" + b"\x21\x11" + struct.pack("!H", 12) + bytes(12),
    "nothing but an end": b"",
    "half": b"PROXY TCP4 10.1",
}


@pytest.mark.parametrize("header", BAD)
async def test_a_bad_header_ends_the_connection_without_a_greeting(
    header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(entrance, "HEADER_S", 0.3)
    async with open_door(tmp_path, **BALANCER, **EVERYBODY) as door:
        talker = await door.connect()
        await talker.send(BAD[header])
        try:
            assert await talker.rest() == b""
        except ConnectionResetError:  # what we did not read
            pass
        await until(lambda: door.listener.connections == 0)
        (refused,) = [keys for event, keys in logged if event == "listener.refused"]
        assert refused["client"] == "127.0.0.1"
        assert "PROXY" in refused["detail"]
        assert not [event for event, _ in logged if event in ("daemon.fault", "session.closed")]


async def test_nobody_but_a_balancer_may_announce(tmp_path: Path) -> None:
    away = {"proxy_networks": (ip_network("10.0.0.0/8"),)}
    async with open_door(tmp_path, **away, **EVERYBODY) as door:
        talker = await door.connect()
        await talker.send(GOOD["v1"][0] + b"EHLO app.example\r\n")
        assert (await talker.reply()).startswith(("554 5.5.1", "220 "))
        rest = await door.connect()
        assert (await rest.reply()).startswith("220 ")
        assert (await rest.say(GOOD["v1"][0])).startswith("500 5.5.2")
        await sends_a_mail(rest)


async def test_who_is_announced_is_who_is_let_in_or_not(tmp_path: Path) -> None:
    narrow = {"allowed_networks": (ip_network("10.1.0.0/16"),), "max_connections_per_client": 1}
    async with open_door(tmp_path, **BALANCER, **narrow) as door:
        stranger, health = await door.connect(), await door.connect()
        assert (await stranger.say(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 25\r\n")).startswith(
            "554 5.7.1 no access from 192.0.2.1"
        )
        assert (await health.say(b"PROXY UNKNOWN\r\n")).startswith("554 5.7.1 no access from 127.0.0.1")
        first, second, other = [await door.connect() for _ in range(3)]
        assert (await first.say(GOOD["v1"][0])).startswith("220 ")
        assert (await second.say(GOOD["v1"][0])).startswith("421 4.7.0 too many connections from this client")
        assert (await other.say(v2("10.1.9.9"))).startswith("220 ")


async def test_at_a_unix_socket_the_balancer_is_127_0_0_1(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    async with open_door(tmp_path, path=path, **BALANCER, **EVERYBODY) as door:
        talker = Talker(*await asyncio.open_unix_connection(path))
        await talker.send(GOOD["v1"][0])
        await sends_a_mail_after_greeting(talker)
        assert door.messages[-1].client == "10.1.2.3"


async def test_silent_balancers_are_bounded(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections=3, **BALANCER, **EVERYBODY) as door:
        silent = [await door.connect() for _ in range(3)]
        await until(lambda: door.listener.connections == 3)
        assert await (await door.connect()).rest() == b""
        silent[0].close()
        await until(lambda: door.listener.connections == 2)
        assert (await (await door.connect()).say(GOOD["v1"][0])).startswith("220 ")
