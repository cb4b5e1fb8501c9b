"""What the log says of a refusal: who, what, and what an administrator may do about it, in one line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from relay.accounts import clients as client_store
from relay.listener import auth_replies, dialogue, replies
from relay.mail.errors import StorageFull
from relay.mail.header import HeaderTooLarge, MailLoop
from tests.wire.door import open_door

Logged = list[dict[str, Any]]
QUIET = {"IDLE", "TOO_SLOW", "STOPPING", "TOO_MANY_ERRORS"}  # never logged as refusals: the session's end says why


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    """The refusals, in order."""
    found: Logged = []

    class Log:
        def info(self, event: str, **keys: Any) -> None:
            if event == "transaction.rejected":
                found.append(keys)

    monkeypatch.setattr(dialogue, "log", Log())
    return found


async def refused(folder: Path, command: bytes, *before: bytes, **client: Any) -> str:
    async with open_door(folder) as door:
        if client:
            await door.store.database.write(
                lambda connection: client_store.add_client(
                    connection, "erp", networks=["127.0.0.0/8"], now_ms=1, **client
                )
            )
            await door.directory.reload()
        talker = await door.client()
        for one in before:
            assert (await talker.say(one)).startswith("250")
        return await talker.say(command)


@pytest.mark.parametrize(
    ("command", "code", "shown"),
    [
        (b"MAIL FROM:root\r\n", "501 5.5.4", "root"),
        (b"MAIL FROM:<a..b@example.com>\r\n", "501 5.1.7", "<a..b@example.com>"),
        (b"MAIL FROM:<root>\r\n", "501 5.1.7", "<root>"),
        (b"MAIL FROM: <app@example.com> FOO=1\r\n", "555 5.5.4", "<app@example.com> FOO=1"),
        ("MAIL FROM:<é@example.com>\r\n".encode(), "553 5.6.7", "<\\xe9@example.com>"),
        (b"MAIL FROM:<" + b"x" * 300 + b"@example.com>\r\n", "501 5.1.7", "<" + "x" * 99 + "..."),
    ],
)
async def test_a_malformed_sender_is_shown(
    command: bytes, code: str, shown: str, logged: Logged, tmp_path: Path
) -> None:
    reply = await refused(tmp_path, command)
    assert reply.startswith(code)
    assert reply.isascii()
    assert len(reply) < 510  # RFC 5321 4.5.3.1.5
    [keys] = logged
    assert keys["sender"] == shown
    assert keys["to_do"]
    assert shown in reply or keys["reply"].partition(": ")[2] in shown


@pytest.mark.parametrize("given", [b"<root>", b"<>", b"<@a:b@example.com>", b"<x%y@example.com>", b"ann@example.org"])
async def test_a_malformed_recipient_is_shown_with_its_sender(given: bytes, logged: Logged, tmp_path: Path) -> None:
    reply = await refused(tmp_path, b"RCPT TO:%b\r\n" % given, b"MAIL FROM:<app@example.com>\r\n")
    assert given.decode() in reply
    [keys] = logged
    assert (keys["sender"], keys["recipient"]) == ("app@example.com", given.decode())
    assert keys["to_do"]


async def test_the_remedy_names_the_client_entry(logged: Logged, tmp_path: Path) -> None:
    await refused(tmp_path, b"MAIL FROM:<two@example.com>\r\n", senders=["app@example.com"])
    await refused(tmp_path / "2", b"MAIL FROM:app@example.com\r\n", senders=["app@example.com"])
    await refused(tmp_path / "3", b"MAIL FROM:<nobody@example.com>\r\n")
    assert "`relay client set erp --sender two@example.com`" in logged[0]["to_do"]
    assert logged[1]["to_do"] == "`relay client set erp --tolerate +no-brackets`"
    assert logged[2]["to_do"].startswith("`relay account add nobody@example.com`")


async def test_a_remedy_can_be_copied_into_a_shell_whatever_the_sender_says(logged: Logged, tmp_path: Path) -> None:
    evil = '`reboot`$HOME|x&y;"@example.com'.replace(";", "").replace('"', "")
    await refused(tmp_path, f"MAIL FROM:<{evil}>\r\n".encode())
    command = logged[0]["to_do"].split("`, or `")[0].removeprefix("`")
    assert shlex.split(command) == ["relay", "account", "add", evil]
    assert "'" in command


def every_refusal() -> list[tuple[str, replies.Reply]]:
    constants = [(name, value) for module in (replies, auth_replies) for name, value in vars(module).items()]
    made = [
        replies.too_large(1),
        replies.larger_than_a_day(1, "erp"),
        replies.day_spent("erp"),
        replies.network_not_allowed("192.0.2.1"),
        replies.no_account(""),
        replies.no_account("a@b.example"),
        replies.not_your_sender("a@b.example", "erp", entry=True),
        replies.not_your_sender("", "192.0.2.1", entry=False),
        replies.not_your_author("a@b.example", "erp"),
        replies.not_this_author("a@b.example"),
        replies.not_your_recipient("a@b.example", "erp"),
        replies.line_limit(1),
        *(replies.reply_to(error) for error in (HeaderTooLarge(), MailLoop(51), StorageFull(), ValueError())),
        *(
            replies.malformed(replies.Malformed(fault), b"x", sender=sender)
            for fault in replies.Fault
            for sender in (True, False)
        ),
    ]
    return [
        *(one for one in constants if isinstance(one[1], replies.Reply) and one[0] not in QUIET),
        *((str(one), one) for one in made),
    ]


@pytest.mark.parametrize(("name", "reply"), every_refusal())
def test_every_no_has_a_remedy_of_one_line(name: str, reply: replies.Reply) -> None:
    remedy = replies.remedy_of(reply)
    assert bool(remedy) is not reply.positive
    assert remedy.isprintable()
    assert len(remedy) < 400
    assert len(reply.to_wire()) < 512
