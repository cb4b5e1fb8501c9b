"""Real programs that log in at the front door: as a client with a password, and where anything is accepted."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from relay.net.server_tls import server_context
from tests.peers.certificates import write_certificates
from tests.wire.door import open_door
from tests.wire.test_doors_login import LOGIN, OPEN, PASSWORD, login_door

pytestmark = pytest.mark.interop
LIMIT_S = 20
ENVELOPE = ("--from", "app@example.com", "--to", "ann@example.org")
PRINTER = {"name": "printer", "networks": ["127.0.0.1"], "auth": "accept-any"}
CONTENT = b"Subject: x\n\nhello\n"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


async def run(*command: str, stdin: bytes = b"") -> tuple[int, str]:
    """Exit status and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "LANG": "C"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate(stdin)
    return process.returncode or 0, output.decode(errors="replace")


def swaks(port: int, password: str, *options: str) -> tuple[str, ...]:
    server = ("swaks", "--server", "127.0.0.1", "--port", str(port), "--ehlo", "app.example")
    return (*server, *ENVELOPE, "--auth-user", LOGIN, "--auth-password", password, *options)


@needs("swaks")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_swaks_logs_in(mechanism: str, tmp_path: Path) -> None:
    async with login_door(tmp_path, **OPEN) as door:
        status, said = await run(*swaks(door.listener.port, PASSWORD, "--auth", mechanism))
        assert status == 0, said
        assert door.messages[-1].client == "erp"
        status, said = await run(*swaks(door.listener.port, "wrong", "--auth", mechanism))
        assert status == 28, said  # swaks: authentication failed
        assert "535 5.7.8" in said
        assert len(door.messages) == 1


@needs("swaks")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_swaks_says_anything_where_anything_is_accepted(mechanism: str, tmp_path: Path) -> None:
    async with login_door(tmp_path, PRINTER) as door:
        status, said = await run(*swaks(door.listener.port, "whatever", "--auth", mechanism))
        assert status == 0, said
        assert door.messages[-1].client == "printer"


@needs("swaks")
async def test_swaks_that_insists_is_let_down_where_nobody_logs_in(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        status, _ = await run(*swaks(door.listener.port, PASSWORD, "--auth"))
        assert status == 28
        status, said = await run(*swaks(door.listener.port, PASSWORD, "--auth-optional"))
        assert status == 0, said


@needs("msmtp")
@pytest.mark.parametrize("mechanism", ["plain", "login"])
async def test_msmtp_logs_in(mechanism: str, tmp_path: Path) -> None:
    async with login_door(tmp_path, **OPEN) as door:
        status, said = await run(
            *("msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={door.listener.port}", "--tls=off"),
            *(f"--auth={mechanism}", f"--user={LOGIN}", f"--passwordeval=echo {PASSWORD}"),
            *("--domain=app.example", "--from=app@example.com", "--", "ann@example.org"),
            stdin=CONTENT,
        )
        assert status == 0, said
        assert door.messages[-1].client == "erp"


@needs("curl")
@pytest.mark.parametrize("kind", ["starttls", "required", "implicit"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_curl_logs_in_under_tls(mechanism: str, kind: str, tmp_path: Path) -> None:
    certificates = write_certificates(tmp_path)
    context = server_context(certificates.chain, certificates.key)
    (tmp_path / "mail").write_bytes(CONTENT.replace(b"\n", b"\r\n"))
    async with login_door(tmp_path, tls_context=context, tls=kind) as door:
        scheme = "smtps" if kind == "implicit" else "smtp"
        status, said = await run(
            *("curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", str(certificates.ca)),
            *("--url", f"{scheme}://localhost:{door.listener.port}/app.example", "--user", f"{LOGIN}:{PASSWORD}"),
            *("--login-options", f"AUTH={mechanism}", "--mail-from", "app@example.com"),
            *("--mail-rcpt", "ann@example.org", "--upload-file", str(tmp_path / "mail")),
        )
        assert status == 0, said
        assert door.messages[-1].client == "erp"
