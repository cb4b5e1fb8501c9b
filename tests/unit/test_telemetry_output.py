"""How log lines get out: together, in order, never mixed, and past a reader that is slow or gone."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from relay.telemetry import flush
from relay.telemetry.output import Output
from tests.unit.test_telemetry_logging import ROOT, Lines, log
from tests.unit.test_telemetry_logging import start as start  # a fixture


async def _written(lines: Lines, count: int) -> None:
    async with asyncio.timeout(5):
        while len(lines.raw()) < count:
            await asyncio.sleep(0)


async def test_lines_wait_a_little_for_each_other_and_go_out_together(start: Callable[..., Lines]) -> None:
    lines = start()
    for number in range(100):
        log.info("session.opened", attempt=number)
    assert lines.raw() == []
    await _written(lines, 1)
    assert [event["attempt"] for event in lines.events()] == list(range(100))
    log.info("session.closed")
    flush()
    assert len(lines.raw()) == 101


async def test_a_warning_waits_for_nothing_and_takes_along_what_was_held(start: Callable[..., Lines]) -> None:
    lines = start()
    log.info("session.opened")
    log.warning("storage.full")
    assert [event["event"] for event in lines.events()] == ["session.opened", "storage.full"]


async def test_a_turn_that_logs_much_does_not_hold_it_all(start: Callable[..., Lines]) -> None:
    lines = start()
    for number in range(10_000):
        log.info("session.opened", attempt=number)
    assert len(lines.raw()) > 9_000
    await _written(lines, 10_000)
    assert [event["attempt"] for event in lines.events()] == list(range(10_000))


def test_nothing_is_lost_when_a_loop_ends_before_its_turn(start: Callable[..., Lines]) -> None:
    lines = start()

    async def last_words(number: int) -> None:
        log.info("session.opened", attempt=number)

    for number in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(last_words(number))
        loop.close()
    log.info("session.closed", attempt=3)
    assert [event["attempt"] for event in lines.events()] == [0, 1, 2, 3]


def test_at_the_end_of_the_process_everything_is_out() -> None:
    program = """
import asyncio
from relay.config.settings import LogSettings
from relay.telemetry import configure, get_logger
async def main():
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
    for number in range(20):
        get_logger().info("session.opened", attempt=number)
    await asyncio.Event().wait()
configure(LogSettings())
try:
    asyncio.new_event_loop().run_until_complete(main())
except RuntimeError:
    pass
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [json.loads(line)["attempt"] for line in ran.stdout.splitlines()] == list(range(20))


async def test_threads_and_the_loop_never_share_a_line(start: Callable[..., Lines]) -> None:
    lines = start()

    def speak(name: str) -> None:
        for number in range(200):
            log.info("session.opened", client=name, attempt=number, reply="x" * 200)

    threads = [threading.Thread(target=speak, args=(f"thread-{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200):
        log.info("session.opened", client="loop", attempt=number)
        if number % 10 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
    flush()
    by_name: dict[object, list[object]] = {}
    for event in lines.events():
        by_name.setdefault(event["client"], []).append(event["attempt"])
    assert by_name == {name: list(range(200)) for name in ("loop", "thread-0", "thread-1", "thread-2")}


def pipe(*, size: int = 4096) -> tuple[int, int]:
    """A pipe that holds little, and whose writing end does not block."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
    os.set_blocking(writer, False)
    return reader, writer


def dropped(count: int) -> bytes:
    return b"dropped %d\n" % count


async def test_a_full_pipe_gets_the_rest_later_in_order() -> None:
    reader, writer = pipe()
    output = Output(writer, dropped)
    sent = b"".join(b"%05d %s\n" % (number, b"x" * 93) for number in range(500))
    for line in sent.splitlines(keepends=True):
        output.write(line)
    await asyncio.sleep(0)
    received = bytearray()
    os.set_blocking(reader, False)
    async with asyncio.timeout(5):
        while len(received) < len(sent):
            try:
                received += os.read(reader, 1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0.001)
    assert bytes(received) == sent
    os.close(reader)
    os.close(writer)


def test_flush_waits_for_a_slow_reader() -> None:
    reader, writer = pipe()
    received = bytearray()

    def read() -> None:
        while octets := os.read(reader, 1 << 16):
            received.extend(octets)

    thread = threading.Thread(target=read)
    thread.start()
    output = Output(writer, dropped)
    for number in range(3000):
        output.write(b"%05d %s\n" % (number, b"x" * 93))
    output.flush()
    os.close(writer)
    thread.join(5)
    assert received == b"".join(b"%05d %s\n" % (number, b"x" * 93) for number in range(3000))
    os.close(reader)


async def test_nobody_reads_whole_lines_are_dropped_and_counted() -> None:
    reader, writer = pipe()
    output = Output(writer, dropped)
    line = b"x" * 1023 + b"\n"
    for _ in range(3000):
        output.write(line)
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
    received = bytearray()
    thread = threading.Thread(target=lambda: [received.extend(o) for o in iter(lambda: os.read(reader, 1 << 16), b"")])
    thread.start()
    await asyncio.to_thread(output.flush)
    output.write(line)
    await asyncio.to_thread(output.flush)
    os.close(writer)
    await asyncio.to_thread(thread.join, 5)
    lines = bytes(received).splitlines(keepends=True)
    (notice,) = [found for found in lines if found != line]
    whole = len(lines) - 1
    assert notice == b"dropped %d\n" % (3001 - whole)
    assert 1000 < whole < 1500
    os.close(reader)


def test_a_reader_that_is_gone_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = Output(writer, dropped)
    output.write(b"line\n")
    output.flush()
    os.close(writer)
    output.write(b"line\n")


def test_a_full_device_stops_nothing_and_is_told_afterwards(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    fd = os.dup(full)
    output = Output(fd, dropped)
    output.write(b"one\n")
    output.write(b"two\n")
    os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), fd)
    output.write(b"three\n")
    assert (tmp_path / "log").read_bytes() == b"dropped 2\nthree\n"
    os.close(full)
    os.close(fd)
