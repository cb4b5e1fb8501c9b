"""relay sendmail at a door: what it says there, what its exit status tells the caller, which door it takes."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import io
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.cli import nearest_door, sendmail, tree
from relay.cli.submitting import Server
from tests.wire.door import DEADLINE_S, OpenDoor, open_door

MAIL = b"From: <app@example.com>\nTo: ann@example.org\nSubject: hello\n\nIt works.\n"


COMPLETE = b"From: <app@example.com>\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@app.example>\r\n\r\n"


async def run(door: OpenDoor, *argv: str, content: bytes = MAIL) -> int:
    server = ("--server", f"127.0.0.1:{door.listener.port}")
    return await asyncio.to_thread(sendmail.sendmail, [*server, *argv], io.BytesIO(content))


async def test_a_mail_is_accepted(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        assert await run(door, "-t", "-i", "-f", "app@example.com", "bob@example.org") == 0
        [message] = door.messages
        assert message.reverse_path == "app@example.com"
        assert [it.recipient for it in message.deliveries] == ["bob@example.org", "ann@example.org"]
        assert door.content().startswith(b"From: <app@example.com>\r\nTo: ann@example.org\r\nSubject: hello\r\n")
        assert door.content().endswith(b"\r\n\r\nIt works.\r\n")


async def test_a_mail_is_accepted_at_a_unix_socket(tmp_path: Path) -> None:
    async with open_door(tmp_path / "data", path=tmp_path / "door") as door:
        argv = ["--server", str(tmp_path / "door"), "-f", "app@example.com", "ann@example.org"]
        assert await asyncio.to_thread(sendmail.sendmail, argv, io.BytesIO(MAIL)) == 0
        assert len(door.messages) == 1


async def test_every_octet_arrives_wherever_the_content_is_cut(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for offset in range(-4, 3):
            body = b"x" * (65_536 + offset - len(COMPLETE)) + b"\r\n.\r\n..\r\nmiddle.\r\n.\r\n"
            content = COMPLETE + body + b"\xc3\xbc" * 30_000 + b"\r\n."
            assert await run(door, "-i", "-fapp@example.com", "a@example.org", content=content) == 0
            assert door.content() == content + b"\r\n"
            assert door.messages[-1].eight_bit


async def test_the_sender_is_the_user_at_this_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user = f"{getpass.getuser()}@{socket.gethostname()}"
    async with open_door(tmp_path) as door:
        assert await run(door, "a@example.org") == 77
        assert f"<{user}>: no account may send as this address" in capsys.readouterr().err
        assert await run(door, "-f", "billing", "a@example.org") == 77
        assert f"<billing@{socket.gethostname()}>: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["-f", "nobody@example.com", "a@example.org"], 77, "`relay client try 127.0.0.1 nobody@example.com a@ex"),
        (["-f", "app@example.com", "a@[10.0.0.1]"], 67, "<a@[10.0.0.1]>: 553 5.1.3"),
        (["-f", "app@example.com", "a@example.org", "-t"], 65, "552 5.3.4 "),
        (["-f", "a..b@example.com", "a@example.org"], 65, "5.1.7 "),
    ],
)
async def test_a_refusal_is_one_line_with_the_reply_and_what_to_do(
    argv: list[str], status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_door(tmp_path, max_message_bytes=5000) as door:
        content = MAIL + (b"x" * 70 + b"\n") * 100 if status == 65 else MAIL
        assert await run(door, *argv, content=content) == status
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("relay: ")
        assert "; " in line
        assert words in line
        assert door.messages == []


async def test_a_recipient_that_is_refused_keeps_nothing_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_door(tmp_path) as door:
        assert await run(door, "-f", "app@example.com", "a@[10.0.0.1]", "b@example.org") == 67
        [message] = door.messages
        assert [it.recipient for it in message.deliveries] == ["b@example.org"]
        assert "the other recipients get the mail" in capsys.readouterr().err


async def test_more_recipients_than_the_door_takes_are_sent_in_turns(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_recipients=2) as door:
        recipients = [f"r{number}@example.org" for number in range(5)]
        assert await run(door, "-f", "app@example.com", *recipients) == 0
        assert [[it.recipient for it in message.deliveries] for message in door.messages] == [
            recipients[:2],
            recipients[2:4],
            recipients[4:],
        ]


async def test_an_address_outside_ascii_asks_for_smtputf8(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        assert await run(door, "-f", "app@example.com", "jürgen@example.org") == 0
        [message] = door.messages
        assert message.smtputf8
        assert [it.recipient for it in message.deliveries] == ["jürgen@example.org"]


async def test_the_full_name_of_an_author_who_is_missing(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for name, expected in (
            ('Ann "A" B', b'From: "Ann \\"A\\" B" <app@example.com>\r\n'),
            ("Jürgen", b"From: =?utf-8?q?J=C3=BCrgen?= <app@example.com>\r\n"),
        ):
            assert await run(door, "-F", name, "-f", "app@example.com", "a@example.org", content=b"\nhi\n") == 0
            assert expected in door.content()


class Scripted:
    """Answers each command by its first word; `heard` are the command lines."""

    def __init__(self, **replies: str) -> None:
        self.heard: list[str] = []
        self.replies = {
            "CONNECT": "220 hi",
            "EHLO": "250-x\n250 DSN",
            "DATA": "354 go",
            "DOT": "250 2.0.0 ok",
        } | replies

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(name: str) -> None:
            writer.write(self.replies.get(name, "250 2.0.0 ok").replace("\n", "\r\n").encode() + b"\r\n")

        say("CONNECT")
        while line := (await reader.readline()).decode().strip():
            self.heard.append(line)
            verb = line.split()[0].upper()
            say(verb)
            if verb == "DATA" and self.replies["DATA"].startswith("354"):
                await reader.readuntil(b"\r\n.\r\n")
                say("DOT")
            if verb == "QUIT" or self.replies.get(verb, "").startswith("421"):
                break
        writer.close()

    @contextlib.asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator[Scripted]:
        async with await asyncio.start_unix_server(self.serve, path):
            yield self


async def at_unix(path: Path, *argv: str) -> int:
    return await asyncio.to_thread(
        sendmail.sendmail, ["--server", str(path), "-f", "", *(argv or ("a@b.example",))], io.BytesIO(MAIL)
    )


async def test_notifications_are_asked_for_where_the_door_offers_them(tmp_path: Path) -> None:
    asked = ("-N", "failure,delay", "-R", "hdrs", "-V", "id=1", "a@b.example")
    async with Scripted().at(tmp_path / "s") as server:
        assert await at_unix(tmp_path / "s", *asked) == 0
    assert "MAIL FROM:<> RET=HDRS ENVID=id+3D1" in server.heard
    assert "RCPT TO:<a@b.example> NOTIFY=DELAY,FAILURE" in server.heard
    async with Scripted(EHLO="250 x").at(tmp_path / "t") as server:
        assert await at_unix(tmp_path / "t", *asked) == 0
    assert "MAIL FROM:<>" in server.heard
    assert "RCPT TO:<a@b.example>" in server.heard


@pytest.mark.parametrize(
    ("replies", "status"),
    [
        ({}, 0),
        ({"EHLO": "500 what"}, 0),
        ({"CONNECT": "554 5.7.1 no access from you"}, 77),
        ({"CONNECT": "421 4.7.0 too many connections"}, 75),
        ({"CONNECT": "HTTP/1.1 400 Bad Request"}, 69),
        ({"MAIL": "451 4.3.0 later"}, 75),
        ({"MAIL": "550 5.7.1 not you"}, 77),
        ({"MAIL": "530 5.7.0 STARTTLS first"}, 77),
        ({"MAIL": "552 too big"}, 65),
        ({"MAIL": "550 5.5.1 whatever"}, 69),
        ({"RCPT": "550 5.1.1 nobody"}, 67),
        ({"RCPT": "550 5.7.1 not there"}, 77),
        ({"RCPT": "450 4.2.1 later"}, 75),
        ({"RCPT": "452 4.5.3 too many"}, 75),
        ({"RCPT": "421 4.3.2 bye"}, 75),
        ({"DATA": "451 4.3.0 later"}, 75),
        ({"DATA": "554 5.5.1 no"}, 69),
        ({"DOT": "452 4.3.1 full"}, 75),
        ({"DOT": "554 5.6.0 bad content"}, 65),
        ({"DOT": "550 5.7.1 bad From"}, 77),
        ({"DOT": "554 5.4.6 loop"}, 69),
    ],
    ids=str,
)
async def test_the_exit_status_tells_the_caller_what_to_do(
    replies: dict[str, str], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Scripted(**replies).at(tmp_path / "s"):
        assert await at_unix(tmp_path / "s") == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(status)
    assert all("; " in line for line in lines)


async def test_nobody_gets_it_when_one_must_be_tried_again(tmp_path: Path) -> None:
    async with Scripted(RCPT="450 4.2.1 later").at(tmp_path / "s") as server:
        assert await at_unix(tmp_path / "s", "a@b.example", "c@d.example") == 75
    assert "DATA" not in server.heard


def test_no_relay_is_try_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sendmail.sendmail(["--server", str(tmp_path / "none"), "a@example.org"], io.BytesIO(MAIL)) == 75
    assert "start it (relay serve)" in capsys.readouterr().err


def test_what_hangs_up_is_try_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def hang_up() -> None:
            listening.accept()[0].close()

        other = threading.Thread(target=hang_up)
        other.start()
        assert sendmail.sendmail(["--server", f"127.0.0.1:{port}", "a@example.org"], io.BytesIO(MAIL)) == 75
        other.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("DATA_DIR", "/nowhere", Server()),
        ("LISTENER__PORT", "2626", Server(port=2626)),
        ("LISTENER__HOST", "0.0.0.0", Server()),
        ("LISTENER__HOST", "::", Server(host="::1")),
        ("LISTENER__PATH", "/run/relay/door", Server(path="/run/relay/door")),
        ("LISTENERS", '[{"port": 2626, "tls": "implicit"}, {"port": 2727}]', Server(port=2727)),
        ("LISTENERS", '[{"port": 2626}, {"path": "/run/d"}]', Server(path="/run/d")),
        ("LISTENERS", '[{"port": 465, "tls": "implicit"}]', Server()),
        ("LISTENERS", "[{", Server()),
        ("LISTENER__PRT", "1", Server()),
        ("LISTENER__PORT", "many", Server()),
    ],
)
def test_the_door_is_the_settings_first_one(
    setting: str, value: str, expected: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RELAY_{setting}", value)
    assert nearest_door.nearest_door() == expected


def test_the_door_is_read_from_a_file_that_only_its_owner_may_write(folder: Path) -> None:
    (folder / "relay.env").write_text("RELAY_LISTENER__PORT=2626\n")
    assert nearest_door.nearest_door() == Server(port=2626)
    (folder / "relay.env").chmod(0o666)
    assert nearest_door.nearest_door() == Server()
    (folder / "relay.env").unlink()
    (folder / "relay.env").mkdir()
    assert nearest_door.nearest_door() == Server()
    assert str(Server(host="::1", port=25)) == "[::1]:25"


async def process(*command: str, stdin: bytes) -> tuple[int, bytes, bytes]:
    started = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(Path(tree.__file__).parents[2])},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await started.communicate(stdin)
    return started.returncode or 0, out, err


def link(folder: Path) -> str:
    """`sendmail`, a link to what `make` installs as `relay`."""
    program = folder / "relay"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom relay.__main__ import main\nsys.exit(main())\n")
    program.chmod(0o755)
    (folder / "sendmail").symlink_to(program)
    return str(folder / "sendmail")


async def test_a_link_of_that_name_is_sendmail(tmp_path: Path) -> None:
    async with open_door(tmp_path / "data") as door:
        server = ("--server", f"127.0.0.1:{door.listener.port}")
        status, out, err = await process(link(tmp_path), *server, "-t", "-fapp@example.com", stdin=MAIL)
        assert (status, out, err) == (0, b"", b"")
        assert len(door.messages) == 1


async def test_bs_carries_a_dialogue(tmp_path: Path) -> None:
    async with open_door(tmp_path / "data") as door:
        server = ("--server", f"127.0.0.1:{door.listener.port}")
        dialogue = (
            b"EHLO app.example\r\nMAIL FROM:<app@example.com>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n"
            b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n"
        )
        status, out, err = await process(sys.executable, "-m", "relay", "sendmail", *server, "-bs", stdin=dialogue)
        assert (status, err) == (0, b"")
        assert out.startswith(b"220 ")
        assert b"250 2.0.0 Ok: queued as " in out
        assert out.splitlines()[-1].startswith(b"221 ")
        assert door.content().endswith(b"\r\n\r\n.\r\n")


async def test_bs_says_nothing_before_the_greeting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE_S)

        def door() -> tuple[bytes, bytes]:
            """What comes within 0.3 s of silence, and what comes behind a greeting in two pieces."""
            with listening.accept()[0] as session:
                session.settimeout(0.3)
                early = b""
                try:
                    early = session.recv(100)
                except TimeoutError:
                    session.sendall(b"220 slow")
                session.settimeout(DEADLINE_S)
                session.sendall(b" ESMTP\r\n")
                late = session.recv(100)
                session.sendall(b"221 2.0.0 Bye\r\n")
                return early, late

        serving = asyncio.create_task(asyncio.to_thread(door))
        server = ("--server", f"127.0.0.1:{listening.getsockname()[1]}")
        status, out, _ = await process(sys.executable, "-m", "relay", "sendmail", *server, "-bs", stdin=b"QUIT\r\n")
        assert await serving == (b"", b"QUIT\r\n")
        assert (status, out) == (0, b"220 slow ESMTP\r\n221 2.0.0 Bye\r\n")


async def test_bs_without_a_relay_says_so_in_smtp(tmp_path: Path) -> None:
    status, out, err = await process(
        sys.executable, "-m", "relay", "sendmail", "--server", str(tmp_path / "none"), "-bs", stdin=b""
    )
    assert status == 75
    assert out.startswith(b"421 4.3.2 ")
    assert b"no answer from the relay" in err


async def test_it_loads_neither_settings_nor_typer(tmp_path: Path) -> None:
    program = "import sys; from relay.cli import tree; tree.run(['sendmail', '--server', sys.argv[1], 'a@b.example']); "
    async with Scripted().at(tmp_path / "s"):
        _, out, _ = await process(
            sys.executable, "-c", program + "print(*sys.modules)", str(tmp_path / "s"), stdin=MAIL
        )
    loaded = set(out.decode().split())
    assert "smtplib" in loaded
    assert not loaded & {"typer", "pydantic", "sqlalchemy", "asyncio", "cryptography", "tempfile", "dataclasses"}
