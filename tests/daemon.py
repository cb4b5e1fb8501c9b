"""The relay as its users run it: `relay serve` in a process of its own, driven by its commands and read by its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Self

from relay.diagnosis.explanation import explain
from tests import forkserver

REPOSITORY = Path(__file__).parents[1]
START_S = 20.0
STOP_S = 40.0
LINE_BYTES = 1 << 20
MISFORMED = "misformed:"


def misformed(event: Mapping[str, Any]) -> str:
    """What is wrong with the advice in a line of the log; "": nothing."""
    remedy, to_do = event.get("remedy"), event.get("to_do")
    if remedy is not None and (not remedy or explain(remedy).id != remedy):
        return f"{MISFORMED} {event['event']}: {remedy!r} is no entry of the catalogue"
    if to_do is not None and (" " not in to_do or explain(to_do).id == to_do):
        return f"{MISFORMED} {event['event']}: {to_do!r} is not for people"
    return ""


class RelayDaemon:
    """One daemon on the data folder `data`, which outlives it: start again after `stop` or `kill` to go on.

    `settings` are environment variables (RELAY_…). Every line of its log is in `events`, oldest first, over all starts.
    It and its commands are forked from a process that has the program imported (tests/forkserver.py). `fresh`: the
    daemon is a `python -m relay`, as tests of memory, of arguments and environment in /proc, or of a start's time want.
    """

    def __init__(self, data: Path, settings: Mapping[str, str] | None = None, *, fresh: bool = False) -> None:
        self.data = data
        self.fresh = fresh
        self._can_fork = forkserver.AVAILABLE and type(self).command is RelayDaemon.command
        self.port = 0
        self.events: list[dict[str, Any]] = []
        self.other_output: list[str] = []
        self._settings = dict(settings or {})
        self._process: asyncio.subprocess.Process | forkserver.Forked | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._news = asyncio.Condition()

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        assert self._process is not None
        return self._process.pid

    def command(self, *arguments: str) -> list[str]:
        """The process that runs `relay ARGUMENTS`."""
        return [sys.executable, "-m", "relay", *arguments]

    def environment(self) -> dict[str, str]:
        """What the daemon and its commands see: the settings and PATH, nothing of ours."""
        base = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(REPOSITORY),
            "RELAY_DATA_DIR": str(self.data),
            "RELAY_LISTENER__PORT": str(self.port),
            "RELAY_CONSOLE__ENABLED": "no",
            "RELAY_LOG__FORMAT": "json",
        }
        return base | self._settings

    async def process(self, *arguments: str, stdin: int) -> asyncio.subprocess.Process | forkserver.Forked:
        """Start `relay ARGUMENTS` with pipes for what it says."""
        if self._can_fork and not (self.fresh and arguments == ("serve",)):
            with open(os.devnull, "rb") as nothing:
                given = nothing.fileno() if stdin == subprocess.DEVNULL else stdin
                return await forkserver.run(arguments, env=self.environment(), cwd=self.data.parent, stdin=given)
        return await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            env=self.environment(),
            cwd=self.data.parent,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=LINE_BYTES,
        )

    async def start(self) -> None:
        """Start it and return once its front door is open; the same port each time. RuntimeError shows why not."""
        self._process = await self.process("serve", stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        seen = len(self.events)
        self._readers = [
            asyncio.create_task(self._read(stream), name="daemon output")
            for stream in (self._process.stdout, self._process.stderr)
        ]
        ready = asyncio.create_task(self.event("daemon.ready", since=seen, timeout_s=START_S))
        ended = asyncio.create_task(self._process.wait())
        await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not ready.done() or ready.exception() is not None:
            ready.cancel()
            await self.kill()
            raise RuntimeError(f"relay serve did not start: {self.other_output[-20:]} {self.events[-20:]}")
        self.port = int(ready.result()["port"])

    async def stop(self) -> int:
        """SIGTERM; its exit status once it is gone (killed after 40 s)."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """SIGKILL; returns once it is gone."""
        return await self._end(signal.SIGKILL)

    async def crash(self) -> int:
        """SIGABRT, as a failed assertion of a library sends it: dumps core where that is not forbidden."""
        return await self._end(signal.SIGABRT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; only while it runs."""
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(self.pid, number)

    async def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit status once it has ended by itself; TimeoutError if it does not."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            status = await self._process.wait()
            await asyncio.gather(*self._readers)
        return status

    def prove(self) -> None:
        """AssertionError when a line of its log was not as docs/logs.md has it."""
        wrong = [line for line in self.other_output if line.startswith(MISFORMED)]
        assert wrong == []

    async def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self.signal(number)
        try:
            return await self.wait()
        except TimeoutError:
            self._process.kill()
            return await self.wait()
        finally:
            self._process = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self.prove()

    async def event(self, name: str, *, since: int = 0, timeout_s: float = 10, **keys: object) -> dict[str, Any]:
        """The first log event `name` at or after index `since` of `events` that has these `keys`, waited for.

        TimeoutError names the events there were instead.
        """
        try:
            async with asyncio.timeout(timeout_s), self._news:
                while True:
                    for found in self.events[since:]:
                        if found.get("event") == name and keys.items() <= found.items():
                            return found
                    await self._news.wait()
        except TimeoutError:
            seen = [(found.get("event"), found.get("reply")) for found in self.events[since:]]
            raise TimeoutError(f"no {name} {keys} in {timeout_s} s; there were {seen[-20:]}") from None

    async def cli(self, *arguments: str, stdin: str = "", check: bool = True) -> CompletedProcess[str]:
        """Run `relay ARGUMENTS` as a process beside the daemon. `check`: AssertionError unless its status is 0."""
        with tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            process = await self.process(*arguments, stdin=given.fileno())
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(60):
            output, errors = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
        done = CompletedProcess(arguments, process.returncode or 0, output.decode(), errors.decode())
        assert not check or done.returncode == 0, f"relay {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    async def add_account(self, address: str, password: str, *options: str) -> None:
        """An account with a sender of the same address; `options` go to `relay account add`."""
        await self.cli("account", "add", address, "--password-file", "-", *options, stdin=password)
        if (await self.cli("sender", "which", address, check=False)).returncode != 0:
            await self.cli("sender", "add", address, address)

    async def submit(self, sender: str, recipients: Sequence[str], content: bytes) -> None:
        """Hand in `content` (CRLF lines, not stuffed) as smtplib does; smtplib's exceptions when it is refused."""

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", self.port, local_hostname="app.example", timeout=30) as client:
                client.sendmail(sender, list(recipients), content)

        await asyncio.to_thread(send)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            text = line.decode("utf-8", "replace").rstrip()
            try:
                event = json.loads(text)
            except ValueError:
                self.other_output.append(text)
                continue
            if wrong := misformed(event):
                self.other_output.append(wrong)
            async with self._news:
                self.events.append(event)
                self._news.notify_all()
