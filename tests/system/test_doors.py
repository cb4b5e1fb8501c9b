"""The daemon with several front doors, and with sockets that systemd opened."""

from __future__ import annotations

import asyncio
import json
import signal
import smtplib
import socket
import ssl
import sys
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.daemon import REPOSITORY, START_S, RelayDaemon
from tests.peers.certificates import Certificates, write_certificates
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, QUICK, at

LIMIT_S = 20


class ManyDoors(RelayDaemon):
    """A daemon whose doors are all in RELAY_LISTENERS."""

    def environment(self) -> dict[str, str]:
        environ = super().environment()
        del environ["RELAY_LISTENER__PORT"]
        return environ


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return write_certificates(tmp_path)


def mail(subject: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = APP, "ann@example.org", subject
    message.set_content("hello")
    return message


async def test_a_mail_comes_in_by_every_door(
    tmp_path: Path, upstream: ScriptedUpstream, certificates: Certificates
) -> None:
    files = {"tls_cert": str(certificates.chain), "tls_key": str(certificates.key)}
    path = tmp_path / "smtp.sock"
    doors = [
        {"port": 0},
        {"port": 0, "tls": "required", "tls_min": "1.0", **files},
        {"port": 0, "tls": "implicit", **files},
        {"path": str(path)},
    ]
    trust = ssl.create_default_context(cafile=str(certificates.ca))
    authority = tmp_path / "upstream.pem"
    upstream.authority.cert_pem.write_to_path(str(authority))
    async with ManyDoors(tmp_path / "data", QUICK | {"RELAY_LISTENERS": json.dumps(doors)}) as daemon:
        await daemon.add_account(APP, PASSWORD, *at(upstream, authority))
        ports = [event["port"] for event in daemon.events if event["event"] == "listener.started" and "port" in event]
        (doubtful,) = [event for event in daemon.events if event["event"] == "settings.doubtful"]
        assert "takes broken encryption" in doubtful["detail"]

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", ports[0], timeout=LIMIT_S) as client:
                client.send_message(mail("plain"))
            with smtplib.SMTP("localhost", ports[1], timeout=LIMIT_S) as client:
                with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                    client.send_message(mail("too early"))
                assert refused.value.smtp_code == 530
                client.starttls(context=trust)
                client.send_message(mail("required"))
            with smtplib.SMTP_SSL("localhost", ports[2], context=trust, timeout=LIMIT_S) as client:
                client.send_message(mail("implicit"))
            with smtplib.SMTP(timeout=LIMIT_S) as client:
                client.sock = socket.socket(socket.AF_UNIX)
                client.sock.settimeout(LIMIT_S)
                client.sock.connect(str(path))
                assert client.getreply()[0] == 220
                client.send_message(mail("unix"))

        await asyncio.to_thread(send)
        subjects = set()
        for _ in range(4):
            message = await upstream.next_message()
            subjects |= {line for line in message.content.split(b"\r\n") if line.startswith(b"Subject: ")}
        assert subjects == {b"Subject: plain", b"Subject: required", b"Subject: implicit", b"Subject: unix"}
    assert not path.exists()


@pytest.mark.parametrize(
    ("door", "line"),
    [
        ({"path": "{here}/file"}, "RELAY_LISTENERS: {here}/file exists and is no socket; remove it"),
        ({"path": "{here}/living"}, "RELAY_LISTENERS: somebody listens at {here}/living; stop that one"),
        ({"path": "{here}/no/folder"}, "RELAY_LISTENERS: cannot listen at {here}/no/folder: No such file"),
        (
            {"port": 0, "tls_cert": "{here}/file", "tls_key": "{here}/file"},
            "RELAY_LISTENERS: {here}/file: [SSL] PEM lib",
        ),
    ],
)
async def test_a_door_that_cannot_be_opened_stops_the_start_with_one_line(
    tmp_path: Path, door: dict[str, object], line: str
) -> None:
    (tmp_path / "file").write_text("x")
    with closing(socket.socket(socket.AF_UNIX)) as living:
        living.bind(str(tmp_path / "living"))
        living.listen()
        text = json.dumps([door]).replace("{here}", str(tmp_path))
        daemon = ManyDoors(tmp_path / "data", QUICK | {"RELAY_LISTENERS": text})
        with pytest.raises(RuntimeError):
            await daemon.start()
        said = next(line for line in daemon.other_output if line.startswith("relay: "))
        assert said.startswith("relay: " + line.replace("{here}", str(tmp_path)))


async def test_systemd_opens_the_sockets_and_hears_when_it_is_ready(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        closing(socket.socket(socket.AF_UNIX)) as local,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager,
    ):
        path = tmp_path / "given.sock"
        local.bind(str(path))
        local.listen()
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        early = socket.create_connection(tcp.getsockname(), LIMIT_S)  # before there is a daemon
        doors = [{"port": 0, "name": "smtp"}, {"path": str(tmp_path / "never.sock"), "name": "local"}]
        environ = ManyDoors(tmp_path / "data", QUICK | {"RELAY_LISTENERS": json.dumps(doors)}).environment()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.system.activate", f"{local.fileno()},{tcp.fileno()}", "local:smtp"),
            *(sys.executable, "-m", "relay", "serve"),
            env=environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            cwd=REPOSITORY,
            pass_fds=(tcp.fileno(), local.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(START_S):
                assert await loop.sock_recv(manager, 100) == b"READY=1"
            assert not (tmp_path / "never.sock").exists()
            with closing(early):
                assert (await asyncio.to_thread(early.recv, 100)).startswith(b"220 ")
            reader, writer = await asyncio.open_unix_connection(path)
            async with asyncio.timeout(LIMIT_S):
                assert (await reader.readline()).startswith(b"220 ")
            writer.close()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(START_S):
                assert await loop.sock_recv(manager, 100) == b"STOPPING=1"
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert path.exists()
