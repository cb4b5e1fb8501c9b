"""What `relay demo` does: a provider in this process, a daemon and its commands beside it."""

from __future__ import annotations

import asyncio
import contextlib
import email
import json
import os
import secrets
import smtplib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from relay.control.refusal import ControlError
from relay.daemon.sandbox import Arrival, Sandbox

Tell = Callable[[str], None]

_ADDRESS = "billing@example.com"
_RECIPIENT = "customer@example.net"
_STRANGER = "stranger@example.org"
_STEP_S = 20.0


def demonstrate(tell: Tell) -> dict[str, Any]:
    """Tell each step; what was seen. Raises ControlError when it did not go as it should."""
    with tempfile.TemporaryDirectory(prefix="relay-demo-") as folder:
        try:
            return asyncio.run(_demo(Path(folder), tell))
        except TimeoutError:
            raise ControlError(
                f"a step took longer than {_STEP_S:g} seconds", "try again on a less busy machine"
            ) from None


async def _demo(folder: Path, tell: Tell) -> dict[str, Any]:
    password = secrets.token_urlsafe(18)
    sandbox = Sandbox(folder, login=_ADDRESS, password=password)
    await sandbox.start()
    try:
        tell(f"1. A sandbox provider listens on port {sandbox.port}: STARTTLS, then AUTH, or nothing.")
        async with _relay(folder) as (port, environ):
            tell(f"2. A relay listens on port {port}: plain SMTP, no login.")
            command = ["account", "add", _ADDRESS, "--provider", "custom", "--host", "127.0.0.1"]
            command += ["--port", str(sandbox.port), "--trust", str(sandbox.ca), "--password-file", "-"]
            await _command(command, password, environ, folder)
            tell(
                f"3. relay {' '.join(command[:3])} … --password-file -   stored the password, sealed with AES-256-GCM:"
            )
            sealed = not any(password.encode() in file.read_bytes() for file in (folder / "data").rglob("relay.db*"))
            tell(f"   it is {'not ' if sealed else ''}readable in the database file.")
            reply, message_id = await asyncio.to_thread(_send, port)
            tell(f"4. An application sent a plain mail from {_ADDRESS}; the relay answered: {reply}")
            async with asyncio.timeout(_STEP_S):
                arrival = await sandbox.arrivals.get()
            _tell_arrival(arrival, tell)
            refusal = await asyncio.to_thread(_send_as_stranger, port)
            tell(f"6. The same from {_STRANGER}, who has no account: {refusal}")
    finally:
        await sandbox.stop()
    authenticated = arrival.login == _ADDRESS and message_id in arrival.content.decode("utf-8", "replace")
    if not (authenticated and sealed and refusal.startswith("550 5.7.1")):
        raise ControlError("the demo did not go as it should", "run `relay check`, and report what you saw above")
    tell("Done: the mail arrived authenticated and encrypted. Nothing was left behind.")
    return {
        "reply": reply,
        "login": arrival.login,
        "tls": arrival.tls,
        "sender": arrival.reverse_path,
        "recipients": list(arrival.recipients),
        "received": _received(arrival),
        "stranger": refusal,
        "sealed": sealed,
    }


def _tell_arrival(arrival: Arrival, tell: Tell) -> None:
    tell("5. It arrived at the provider:")
    tell(f"   encrypted      {arrival.tls}")
    tell(f"   logged in as   {arrival.login}")
    tell(f"   envelope       {arrival.reverse_path} -> {', '.join(arrival.recipients)}")
    tell(f"   Received:      {_received(arrival)}")


def _received(arrival: Arrival) -> str:
    return " ".join(str(email.message_from_bytes(arrival.content)["Received"] or "").split())


@contextlib.asynccontextmanager
async def _relay(folder: Path) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """A daemon of its own with a store in `folder`; its port, and the environment its commands need."""
    ours = ("RELAY_", "SMTP_AUTH_", "IMAP_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    package = str(Path(__file__).resolve().parents[2])
    environ |= {
        "RELAY_DATA_DIR": str(folder / "data"),
        "RELAY_LISTENER__PORT": "0",
        "RELAY_CONSOLE__ENABLED": "no",
        "RELAY_LOG__FORMAT": "json",
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", "")))),
    }
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "serve"),
        env=environ,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    reading: asyncio.Task[None] | None = None
    try:
        assert daemon.stdout is not None
        async with asyncio.timeout(_STEP_S):
            port = await _ready(daemon.stdout)
        reading = asyncio.create_task(_drain(daemon.stdout))  # a full pipe would stop the daemon
        yield port, environ
    finally:
        await _end(daemon)
        if reading is not None:
            await reading


async def _ready(lines: asyncio.StreamReader) -> int:
    """The port of the front door, once it is open."""
    said: list[str] = []
    while line := await lines.readline():
        text = line.decode("utf-8", "replace").strip()
        try:
            event = json.loads(text)
        except ValueError:
            said.append(text)
            continue
        if event.get("event") == "daemon.ready":
            return int(event["port"])
    raise ControlError(
        f"the relay did not start: {said[-1] if said else 'it said nothing'}", "run `relay serve` to see why"
    )


async def _drain(lines: asyncio.StreamReader) -> None:
    while await lines.read(65_536):
        pass


async def _end(daemon: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        daemon.terminate()
    try:
        async with asyncio.timeout(_STEP_S):
            await daemon.wait()
    except TimeoutError:
        daemon.kill()
        await daemon.wait()


async def _command(arguments: list[str], secret: str, environ: dict[str, str], folder: Path) -> None:
    """Run one relay command with `secret` on its standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", *arguments),
        env=environ,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_STEP_S):
            _, complaint = await process.communicate(f"{secret}\n".encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        text = complaint.decode("utf-8", "replace").strip().removeprefix("relay: ")
        raise ControlError(f"relay {arguments[0]} {arguments[1]}: {text}", "run `relay check`")


def _send(port: int) -> tuple[str, str]:
    """As an old program would: no TLS, no login. The relay's reply to the mail, and the Message-ID it had."""
    message_id = f"<{secrets.token_hex(8)}@example.com>"
    content = (
        f"From: {_ADDRESS}\r\nTo: {_RECIPIENT}\r\nSubject: Invoice 4711\r\nMessage-ID: {message_id}\r\n\r\n"
        "Sent by a program that knows nothing of TLS or passwords.\r\n"
    )
    with smtplib.SMTP("127.0.0.1", port, timeout=_STEP_S) as client:
        client.ehlo("erp.example.com")
        client.mail(_ADDRESS)
        client.rcpt(_RECIPIENT)
        return _shown(client.data(content)), message_id


def _send_as_stranger(port: int) -> str:
    with smtplib.SMTP("127.0.0.1", port, timeout=_STEP_S) as client:
        client.ehlo("erp.example.com")
        reply = client.mail(_STRANGER)
        return _shown(reply if reply[0] >= 400 else client.rcpt(_RECIPIENT))


def _shown(reply: tuple[int, bytes]) -> str:
    return f"{reply[0]} {reply[1].decode('utf-8', 'replace')}"
