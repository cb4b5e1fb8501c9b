"""HAProxy in front of the relay: it announces the clients, by PROXY v1 and v2, with TLS passed through."""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.listener import entrance
from relay.net.server_tls import server_context
from relay.telemetry import get_logger
from tests.peers.certificates import write_certificates
from tests.wire.door import OpenDoor, open_door

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = [pytest.mark.interop, pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")]
LIMIT_S = 20
CLIENT = "127.0.0.7"  # whom the relay must hear of; HAProxy itself comes from 127.0.0.1
ADDRESSES = {"proxy_networks": (ip_network("127.0.0.1"),), "allowed_networks": (ip_network("127.0.0.0/8"),)}


@asynccontextmanager
async def balanced(folder: Path, door: OpenDoor, *server: str, check: bool = False) -> AsyncIterator[int]:
    """HAProxy in front of `door`; the port it listens on."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        lines = [
            "global",
            "  maxconn 100",
            "defaults",
            "  mode tcp",
            "  timeout connect 5s",
            "  timeout client 20s",
            "  timeout server 20s",
            "listen smtp",
            f"  bind fd@{listening.fileno()}",
            *(["  option smtpchk EHLO health.example"] if check else []),
            f"  server relay 127.0.0.1:{door.listener.port} {' '.join(server)}",
        ]
        (folder / "haproxy.cfg").write_text("\n".join(lines) + "\n")
        process = await asyncio.create_subprocess_exec(
            *(str(HAPROXY), "-db", "-q", "-f", str(folder / "haproxy.cfg")), pass_fds=(listening.fileno(),)
        )
        try:
            yield listening.getsockname()[1]
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def send(port: int, trust: ssl.SSLContext | None = None) -> None:
    own: dict[str, Any] = {"local_hostname": "app.example", "timeout": LIMIT_S, "source_address": (CLIENT, 0)}
    client = smtplib.SMTP_SSL(context=trust, **own) if trust is not None else smtplib.SMTP(**own)
    client._host = "localhost"  # type: ignore[attr-defined]  # whose certificate it is
    assert client.connect("127.0.0.1", port)[0] == 220
    with client:
        client.sendmail("app@example.com", ["ann@example.org"], b"Subject: x\r\n\r\nhello\r\n")


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
async def test_the_relay_hears_who_the_client_is(option: str, tmp_path: Path) -> None:
    async with open_door(tmp_path, **ADDRESSES) as door, balanced(tmp_path, door, option) as port:
        await asyncio.to_thread(send, port)
        assert door.messages[-1].client == CLIENT


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
async def test_implicit_tls_goes_through_it(option: str, tmp_path: Path) -> None:
    certificates = write_certificates(tmp_path)
    context = server_context(certificates.chain, certificates.key)
    trust = ssl.create_default_context(cafile=str(certificates.ca))
    async with (
        open_door(tmp_path, tls_context=context, tls="implicit", **ADDRESSES) as door,
        balanced(tmp_path, door, option) as port,
    ):
        await asyncio.to_thread(send, port, trust)
        assert door.messages[-1].client == CLIENT


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
async def test_health_checks_are_answered(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def note(event: str, **keys: Any) -> None:
        if event == "session.closed":
            ended.put_nowait(keys)

    monkeypatch.setattr(get_logger(), "info", note)
    async with (
        open_door(tmp_path, **ADDRESSES) as door,
        balanced(tmp_path, door, option, "check", "inter", "100ms", check=True) as port,
    ):
        for _ in range(3):
            async with asyncio.timeout(LIMIT_S):
                closed = await ended.get()
            assert (closed["client"], closed["reason"]) == ("127.0.0.1", "quit")
        await asyncio.to_thread(send, port)
        assert door.messages[-1].client == CLIENT


async def test_without_a_header_the_balancer_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "HEADER_S", 0.3)
    async with open_door(tmp_path, **ADDRESSES) as door, balanced(tmp_path, door) as port:
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
            await asyncio.to_thread(send, port)
        assert not door.messages
