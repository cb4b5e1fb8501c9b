"""Dialogues for fuzzing: valid ones from a small grammar, and mutations of them. Everything comes from one `Random`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from random import Random

SENDERS = [
    b"app@example.com",
    b"two@example.com",
    b"three@example.com",
    b"APP+tag@Example.COM",
    b"nobody@example.com",
    b"",
]
PATHS = [
    b"<ann@example.org>",
    b" <ann@example.org> ",
    b"< ann@example.org >",
    b"ann@example.org",
    b"<ann>",
    b"<.ann..b.@example.org>",
    b"<@a.example,@b.example:ann@example.org>",
    b"<ann%example.net@example.org>",
    b"<example.net!ann@example.org>",
    b'<"ann b"@example.org>',
    b'<"ann\\"@example.net"@example.org>',
    b"<ann@[127.0.0.1]>",
    b"<ann@[IPv6:::1]>",
    "<änn@exämple.org> SMTPUTF8".encode(),
    b"<>",
    b"<" + b"a" * 64 + b"@example.org>",
    b"<a@" + b"b" * 250 + b">",
    b"<ann@example.org",
    b'<"ann@example.org>',
]
PARAMETERS = [
    b" SIZE=10",
    b" SIZE=99999999999",
    b" BODY=8BITMIME",
    b" BODY=7BIT",
    b" SMTPUTF8",
    b" AUTH=<>",
    b" AUTH=app+40example.com",
    b" RET=HDRS",
    b" ENVID=a+3Db",
    b" NOTIFY=SUCCESS,DELAY",
    b" NOTIFY=NEVER",
    b" ORCPT=rfc822;ann+2Bb@example.org",
    b" ORCPT=utf-8;\\x{E4}nn@example.org",
    b" FOO=bar",
    b" SIZE=1 SIZE=2",
    b" =",
]
GREETINGS = [
    b"EHLO app.example\r\n",
    b"HELO app.example\r\n",
    b"EHLO _\r\n",
    b"HELO my pc\r\n",
    b"EHLO [192.0.2.1]\r\n",
    b"HELO\r\n",
    b"ehlo " + b"x" * 300 + b"\r\n",
]
LOGINS = [
    b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n",
    b"AUTH PLAIN\r\nAHVzZXIAcGFzcw==\r\n",
    b"AUTH LOGIN\r\ndXNlcg==\r\ncGFzcw==\r\n",
    b"AUTH LOGIN dXNlcg==\r\ncGFzcw==\r\n",
    b"AUTH PLAIN =\r\n",
    b"AUTH LOGIN\r\n*\r\n",
    b"AUTH PLAIN ====\r\n",
    b"AUTH PLAIN " + b"QUFB" * 3200 + b"\r\n",
    b"AUTH CRAM-MD5\r\n",
    b"AUTH\r\n",
    b"AUTH LOGIN\r\n\xff\xfe\r\n",
]
ODDITIES = [
    b"NOOP x\r\n",
    b"RSET\r\n",
    b"HELP\r\n",
    b"VRFY ann\r\n",
    b"STARTTLS\r\n",
    b"BDAT 5 LAST\r\nhello",
    b"XCLIENT ADDR=127.0.0.1\r\n",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x80\x2e\x01\x03\x01",
    b"\n",
    b"\r",
    b"DATA x\r\n",
    b"QUIT x\r\n",
]
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b".", b"..", b"\r\n..\r\n"),
    *(b"\0", b"\x7f", b"\xff", b"\x85", b"\x1b[2J", b"\xe2\x80\xa8", b"\xc0\xaf", b"\xed\xa0\x80", "ä".encode()),
    *(b"<", b">", b'"', b"\\", b"(", b")", b"@", b":", b";", b",", b"%", b"!", b" ", b"\t", b"=", b"=?", b"?="),
    *(b"=?utf-8?q?=0D=0AX:_y?=", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"--b\r\n", b"--b--\r\n", b"A" * 1200),
]
FROMS = [
    b"From: app@example.com\r\n",
    b"From: App <app@example.com>\r\n",
    b"From: =?utf-8?B?w4Q=?= <two@example.com>\r\n",
    b"From: \xc4pp <app@example.com>\r\n",
    b'From: "M\xfcller" <two@example.com>\r\n',
    b"From: app@example.com, two@example.com\r\nSender: two@example.com\r\n",
    b"From: app@example.com\r\nFrom: two@example.com\r\n",
    b"From: Friends: app@example.com;\r\n",
    b"From: (c (c) c) app@example.com (c)\r\n",
    b'From: "app@example.com" <stranger@example.net>\r\n',
    b"From:\r\n app@example.com\r\n",
    b"From :app@example.com\r\n",
    b"From: <@a,@b:app@example.com>\r\n",
    b"From: " + b"(" * 500 + b"\r\n",
    b"From: " + b"app@example.com, " * 200 + b"\r\n",
    b"From: broken\r\n",
    b"",
]
FIELDS = [
    b"Subject: hello\r\n",
    b"Subject: h\xe9llo w\xf6rld\r\n",
    b"Subject: " + "grüße ".encode() * 40 + b"\r\n",
    b"Subject: first\r\nSubject: second\r\n",
    b"Date: Tue, 24 Nov 2026 03:09:32 +0000\r\n",
    b"Date: yesterday\r\n",
    b"Date: " + b"9" * 400 + b"\r\n",
    b"Message-ID: <1@example.com>\r\n",
    b"Message-ID: 1\r\n",
    b"Bcc: secret@example.org,\r\n other@example.org\r\n",
    b"Return-Path: <x@example.net>\r\n",
    b"To: ann@example.org\r\n",
    b"To: \xe4nn <ann@example.org>, b@example.org\r\n",
    b"Reply-To: app@example.com\r\n",
    b"Received: by us (relay i-1); now\r\n",
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n",
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n",
    b'Content-Type: multipart/signed; boundary="b"; micalg=x\r\n',
    b"Content-Type: message/rfc822\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"DKIM-Signature: v=1\r\n",
    b"no field at all\r\n",
    b" a fold at the beginning\r\n",
    b"X-Long: " + b"y" * 3000 + b"\r\n",
    b"X-Fold: a\r\n\tb\r\n c\r\n",
]
BODIES = [
    b"body\r\n",
    b".\r\n..\r\n...\r\n",
    b"bare\nline\nends\n.\nfeed\r",
    b"--b\r\nContent-Type: text/plain\r\n\r\npart\r\n--b\r\n\r\n" + b"z" * 2000 + b"\r\n--b--\r\n",
    b"l\xf6ng " * 400 + b"\r\n",
    b"x" * 70_000 + b"\r\n",
    b"y" * 1100 + b"\r\n.dot\r\n",
    (b"x" * 76 + b"\r\n") * 1500,
    b"",
]


def dialogue(chance: Random) -> list[bytes]:
    """The commands and contents of a session, mostly in a good order, each a segment of its own."""
    said = [chance.choice(GREETINGS[:2] if chance.random() < 0.8 else GREETINGS)]
    if chance.random() < 0.2:
        said.append(chance.choice(LOGINS))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if chance.random() < 0.15:
            said.append(chance.choice(ODDITIES))
        said.append(_mail(chance))
        said += [_recipient(chance) for _ in range(chance.choice((1, 1, 2, 5)))]
        said.append(b"DATA\r\n")
        said.append(content(chance) + b".\r\n")
    said.append(chance.choice((b"QUIT\r\n", b"RSET\r\n", b"")))
    return said


def content(chance: Random) -> bytes:
    """A header section and a body, each line ended, not stuffed."""
    fields = [chance.choice(FROMS), *chance.choices(FIELDS, k=chance.randint(0, 6))]
    chance.shuffle(fields)
    separator = b"\r\n" if chance.random() < 0.95 else b""
    return b"".join(fields) + separator + b"".join(chance.choices(BODIES, k=chance.choice((1, 1, 2))))


def argument(chance: Random, keyword: bytes) -> bytes:
    """What follows MAIL or RCPT."""
    path = b"<%b>" % chance.choice(SENDERS) if chance.random() < 0.6 else chance.choice(PATHS)
    return keyword + path + b"".join(chance.choices(PARAMETERS, k=chance.choice((0, 0, 0, 1, 2))))


def proxy_header(chance: Random, source: str) -> bytes:
    """What a balancer says first: version 1 or 2 of the PROXY protocol, for a client at the IPv4 address `source`."""
    if chance.random() < 0.5:
        return f"PROXY TCP4 {source} 127.0.0.1 50000 25\r\n".encode()
    addresses = IPv4Address(source).packed + IPv4Address("127.0.0.1").packed + struct.pack(">HH", 50000, 25)
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(addresses)) + addresses


def mutated(chance: Random, octets: bytes) -> bytes:
    """A little broken, in one of many ways."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        octets = chance.choice(_MUTATIONS)(chance, octets)
    return octets


def cut(chance: Random, octets: bytes) -> list[bytes]:
    """In segments."""
    pieces = []
    while octets:
        length = chance.choice((1, 2, 3, 7, 100, 4096, len(octets)))
        pieces.append(octets[:length])
        octets = octets[length:]
        if len(pieces) > 40:
            pieces.append(octets)
            break
    return pieces


def _mail(chance: Random) -> bytes:
    if chance.random() < 0.75:
        return b"MAIL FROM:<%b>\r\n" % chance.choice(SENDERS[:4])
    return b"MAIL " + argument(chance, b"FROM:") + b"\r\n"


def _recipient(chance: Random) -> bytes:
    if chance.random() < 0.75:
        return b"RCPT TO:<r%d@example.org>\r\n" % chance.randrange(5)
    return b"RCPT " + argument(chance, b"TO:") + b"\r\n"


def _flip(chance: Random, octets: bytes) -> bytes:
    if not octets:
        return octets
    at = chance.randrange(len(octets))
    return octets[:at] + bytes([octets[at] ^ 1 << chance.randrange(8)]) + octets[at + 1 :]


def _insert(chance: Random, octets: bytes) -> bytes:
    at = chance.randint(0, len(octets))
    return octets[:at] + chance.choice(TOKENS) + octets[at:]


def _delete(chance: Random, octets: bytes) -> bytes:
    at = chance.randint(0, len(octets))
    return octets[:at] + octets[at + chance.choice((1, 1, 2, 10)) :]


def _repeat(chance: Random, octets: bytes) -> bytes:
    at = chance.randint(0, len(octets))
    piece = octets[at : at + chance.choice((1, 2, 20, 200))]
    return octets[:at] + piece * chance.choice((2, 3, 50, 500)) + octets[at:]


def _truncate(chance: Random, octets: bytes) -> bytes:
    return octets[: chance.randint(0, len(octets))]


def _noise(chance: Random, octets: bytes) -> bytes:
    at = chance.randint(0, len(octets))
    return octets[:at] + chance.randbytes(chance.choice((1, 3, 30, 300))) + octets[at:]


def _line_ends(chance: Random, octets: bytes) -> bytes:
    return octets.replace(b"\r\n", chance.choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\r\n")))


_MUTATIONS: list[Callable[[Random, bytes], bytes]] = [
    _flip, _insert, _insert, _delete, _repeat, _truncate, _noise, _line_ends,
]  # fmt: skip
