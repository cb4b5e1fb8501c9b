"""`relay sendmail` in this process: its options, what it makes of standard input, what it says to a front door."""

from __future__ import annotations

import io
import os
import tracemalloc

import pytest

from relay.cli import sendmail, tree
from relay.cli.stdin_mail import BadMail, Mail, read_mail


def read(content: bytes, *, dot_ends: bool = True, extract: bool = False, author: str = "") -> Mail:
    return read_mail(io.BytesIO(content), dot_ends=dot_ends, extract=extract, author=author)


# -- the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-t -i", {"extract": True, "dot_ends": False}),
        ("-ti", {"extract": True, "dot_ends": False}),
        ("-oi -t", {"extract": True, "dot_ends": False}),
        ("-oi -f a@example.com x@example.org", {"sender": "a@example.com", "recipients": ["x@example.org"]}),
        ("-fa@example.com -- x@example.org", {"sender": "a@example.com", "recipients": ["x@example.org"]}),
        ("-r a@example.com x@example.org", {"sender": "a@example.com"}),
        ("x@example.org -f a@example.com", {"sender": "a@example.com", "recipients": ["x@example.org"]}),
        ("-F Backup x@example.org", {"full_name": "Backup"}),
        ("-bm -odb -oem -om -O DeliveryMode=b -B8BITMIME -v -U -em -G -n -L tag -X log -C cf x@example.org", {}),
        ("-N never x@example.org", {"notify": "NEVER"}),
        ("-N success,delay -R hdrs -V a+b x@example.org", {"notify": "DELAY,SUCCESS", "ret": "HDRS", "envid": "a+2Bb"}),
        ("-N sometimes -R some x@example.org", {"notify": "", "ret": ""}),
        ("-bs", {"mode": "s"}),
        ("-q", {"mode": ""}),
        ("-q15m", {"mode": ""}),
        ("-bi", {"mode": ""}),
        ("-i -- -t@example.org -q", {"extract": False, "mode": "m", "recipients": ["-t@example.org", "-q"]}),
        ("a@example.org,b@example.org", {"recipients": ["a@example.org", "b@example.org"]}),
        ("--server 10.1.2.3:25 x@example.org", {"server": "10.1.2.3:25"}),
    ],
)
def test_options_mean_what_they_mean_to_postfix(line: str, expected: dict[str, object]) -> None:
    command = sendmail.parse(line.split())
    assert {name: getattr(command, name) for name in expected} == expected


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["-Z", "x@example.org"],
        ["-f"],
        ["-bd"],
        ["-bp"],
        ["-bv", "x@example.org"],
        ["--server", "host:port", "x@example.org"],
        ["--server", ":25", "x@example.org"],
        ["-f", "a@example.com\r\nRCPT TO:<b@example.org>", "x@example.org"],
        ["-f", "a@example.com, b@example.com", "x@example.org"],
        ["x@example.org\nDATA"],
        ["", "x@example.org"],
        ["-F", "a\nBcc: b@example.org", "x@example.org"],
        ["-t"],
    ],
)
def test_wrong_usage_is_status_64_and_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert sendmail.sendmail(argv, io.BytesIO()) == 64
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("relay: ")
    assert "; see `relay sendmail --help`" in line


@pytest.mark.parametrize("argv", [["-q"], ["-q30m"], ["-bi"], ["-I"], ["-bh"]])
def test_what_the_daemon_does_by_itself_is_done(argv: list[str]) -> None:
    assert sendmail.sendmail(argv, io.BytesIO()) == 0


def test_help_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.run(["--help"]) == 0
    assert "sendmail" in capsys.readouterr().out
    assert tree.run(["sendmail", "--help"]) == 0
    assert "--server HOST:PORT|PATH" in capsys.readouterr().out


# -- standard input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_content", "expected"),
    [
        (b"A: 1\n\nx\n", b"A: 1\r\n\r\nx\r\n"),
        (b"A: 1\r\n\r\nx\r\n", b"A: 1\r\n\r\nx\r\n"),
        (b"A: 1\r\n\nx", b"A: 1\r\n\r\nx\r\n"),
        (b"A: 1\n\nx\n.\ny\n", b"A: 1\r\n\r\nx\r\n"),
        (b"A: 1\n\nx\n.", b"A: 1\r\n\r\nx\r\n"),
        (b"A: 1\n\n.x\n..\n", b"A: 1\r\n\r\n.x\r\n..\r\n"),
        (b".\n", b""),
        (b"", b""),
        (b"just text\n", b"just text\r\n"),
        (b"From root Mon Jan 1 00:00:00 2026\n>From uucp\nA: 1\n\nFrom here\n", b"A: 1\r\n\r\nFrom here\r\n"),
        (b"A: 1\nBcc: x@example.org,\n y@example.org\nB: 2\n\nBcc: z\n", b"A: 1\r\nB: 2\r\n\r\nBcc: z\r\n"),
    ],
)
def test_a_mail_becomes_true_lines(given_content: bytes, expected: bytes) -> None:
    mail = read(given_content)
    assert mail.file.read() == expected
    assert mail.size == len(expected)


def test_a_lone_dot_is_content_with_i() -> None:
    assert read(b"A: 1\n\nx\n.\ny\n", dot_ends=False).file.read() == b"A: 1\r\n\r\nx\r\n.\r\ny\r\n"


@pytest.mark.parametrize("offset", [-2, -1, 0, 1])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_long_line_is_kept_whole_wherever_it_is_cut(offset: int, end: bytes) -> None:
    line = b"x" * (65_536 + offset)
    assert read(b"A: 1\n\n" + line + end + b"." + end + b"y").file.read() == b"A: 1\r\n\r\n" + line + b"\r\n"
    assert read(b"A: 1\n\n" + line + b".\nz\n").file.read() == b"A: 1\r\n\r\n" + line + b".\r\nz\r\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"To: a@example.org\n", ["a@example.org"]),
        (b'To: "Ann, A." <a@example.org>, b@example.org\n', ["a@example.org", "b@example.org"]),
        (b"to: a@example.org\nCC:\n b@example.org,\n\tc@example.org\nBcc: d@example.org\n", list("abcd")),
        (b"To: a@example.org; b@example.org\n", list("ab")),
        (b"To: Team: a@example.org, b@example.org;\n", list("ab")),
        (b"To: undisclosed-recipients:;\nBcc: a@example.org\n", ["a@example.org"]),
        (b"To: a@example.org\nResent-From: x@example.org\nResent-To: b@example.org\n", ["b@example.org"]),
        (b"To: J\xfcrgen <a@example.org>\n", ["a@example.org"]),
        (b"To: =?utf-8?q?J=C3=BCrgen?= <a@example.org> (boss)\n", ["a@example.org"]),
        (b"To : a@example.org\n", ["a@example.org"]),
        (b"Reply-To: x@example.org\nX-To: y@example.org\nTo: root\n", ["root"]),
    ],
)
def test_recipients_come_from_the_header(header: bytes, expected: list[str]) -> None:
    whole = [it if len(it) > 1 else f"{it}@example.org" for it in expected]
    mail = read(header + b"Subject: x\n\nTo: body@example.org\n", extract=True)
    assert list(mail.recipients) == whole
    assert b"bcc" not in mail.file.read().lower()
    assert read(header).recipients == ()


def test_a_from_is_added_only_where_there_is_none() -> None:
    assert read(b"A: 1\n\n", author='"B" <b@c>').file.read() == b'From: "B" <b@c>\r\nA: 1\r\n\r\n'
    assert read(b"FROM: x\n\n", author='"B" <b@c>').file.read() == b"FROM: x\r\n\r\n"


def test_a_header_without_end_is_bad_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadMail):
        read(b"A: " + b"x" * 200_000)
    assert sendmail.sendmail(["x@example.org"], io.BytesIO(b"A: 1\n" * 50_000)) == 65
    assert "larger than 102400 octets" in capsys.readouterr().err


def test_memory_stays_bounded_whatever_comes() -> None:
    class Endless(io.RawIOBase):
        left = 40 << 20

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            size = min(len(buffer), self.left)
            buffer[:size] = b"x" * size
            self.left -= size
            return size

    tracemalloc.start()
    try:
        with read_mail(io.BufferedReader(Endless()), dot_ends=True, extract=False, author="").file as file:
            assert file.seek(0, os.SEEK_END) == (40 << 20) + 2
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
