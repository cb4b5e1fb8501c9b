"""Dialogues of real devices, replayed: each one ends as its script says, with the options of its client entry.

A script (`devices/*.txt`) reads from top to bottom:

    # what it is, and where its dialogue was reported
    client: OPTION=VALUE     of its client entry (`relay.accounts.model.Client`); lists take commas, `map` FROM=TO
    segments: octets         everything is sent in segments of one octet
    C: LINE                  sent with CRLF;  C~ OCTETS: sent as they are
    S: 250                   how the next reply must begin
    connect | hang up | half close
    accepted: SENDER -> RECIPIENT...      in the end; or: nothing
    not yet: WHY             the relay does not let it in so far
    stored: OCTETS | lacks: OCTETS        what its content, in wire form, does or does not hold

Escapes in what is sent or stored are those of Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.front import add_client
from tests.wire.door import OpenDoor, Talker, open_door

SCRIPTS = sorted((Path(__file__).parent / "devices").glob("*.txt"))
LISTS = {"tolerate", "senders", "recipients"}


@dataclass
class Script:
    """What a file says, in order."""

    client: dict[str, Any] = field(default_factory=dict)
    steps: list[tuple[str, bytes]] = field(default_factory=list)
    octet_by_octet: bool = False
    accepted: str = ""
    stored: list[bytes] = field(default_factory=list)
    lacks: list[bytes] = field(default_factory=list)
    not_yet: str = ""


def _octets(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def _option(script: Script, text: str) -> None:
    name, _, value = text.partition("=")
    if name == "map":
        pattern, _, address = value.partition("=")
        script.client.setdefault("sender_map", []).append((pattern, address))
    else:
        script.client[name] = value.split(",") if name in LISTS else value


def read_script(path: Path) -> Script:
    """Read a script; ValueError names a line that is none."""
    script = Script()
    for line in path.read_text().splitlines():
        word, _, rest = line.partition(":")
        rest = rest.removeprefix(" ")
        if not line or line.startswith("#"):
            continue
        if line.startswith("C~ "):
            script.steps.append(("send", _octets(line[3:])))
        elif word == "C":
            script.steps.append(("send", _octets(rest) + b"\r\n"))
        elif word == "S":
            script.steps.append(("reply", rest.encode()))
        elif line in ("connect", "hang up", "half close"):
            script.steps.append((line, b""))
        elif line == "segments: octets":
            script.octet_by_octet = True
        elif word == "client":
            _option(script, rest)
        elif word == "accepted":
            script.accepted = rest
        elif word == "not yet":
            script.not_yet = rest
        elif word in ("stored", "lacks"):
            getattr(script, word).append(_octets(rest))
        else:
            raise ValueError(f"{path.name}: {line}")
    return script


def test_there_are_ten_devices_and_each_says_where_it_was_reported() -> None:
    assert len(SCRIPTS) >= 10
    for path in SCRIPTS:
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert re.match(r"# (Reported|Source)", head[-1]), path.name
        assert read_script(path).accepted, path.name


def _case(path: Path) -> Any:
    reason = read_script(path).not_yet
    marks = [pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)] if reason else []
    return pytest.param(path, marks=marks, id=path.stem)


@pytest.mark.parametrize("path", [_case(path) for path in SCRIPTS])
async def test_the_dialogue_of_a_device_ends_as_its_script_says(path: Path, tmp_path: Path) -> None:
    script = read_script(path)
    async with open_door(tmp_path) as door:
        if script.client:
            await add_client(door, networks=["127.0.0.0/8"], **script.client)
        await _replay(script, door)
        if script.accepted == "nothing":
            assert door.messages == []
            return
        [message] = door.messages
        recipients = " ".join(delivery.recipient for delivery in message.deliveries)
        assert f"{message.reverse_path} -> {recipients}" == script.accepted
        wire = message.content.inline
        assert wire is not None
        for octets in script.stored:
            assert octets in wire, (octets, wire)
        for octets in script.lacks:
            assert octets not in wire, (octets, wire)


async def _replay(script: Script, door: OpenDoor) -> None:
    talker = await door.connect()
    for act, octets in script.steps:
        match act:
            case "connect":
                assert await talker.rest() == b""
                talker.close()
                talker = await door.connect()
            case "send":
                await talker.send(*_segments(octets) if script.octet_by_octet else (octets,))
            case "reply":
                reply = await talker.reply()
                assert reply.encode().startswith(octets), (octets, reply)
            case "half close":
                talker.writer.write_eof()
            case _:
                await _hang_up(talker)
    talker.close()


def _segments(octets: bytes) -> list[bytes]:
    return [octets[i : i + 1] for i in range(len(octets))]


async def _hang_up(talker: Talker) -> None:
    """Close, and wait until the other side has seen it."""
    talker.writer.write_eof()
    assert await talker.rest() == b""
