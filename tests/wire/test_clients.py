"""What a client entry says, at the front door: whose mail, from whom, to whom, how much, and what is repaired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from relay.accounts import clients as client_store
from relay.accounts import store as accounts
from relay.accounts.passwords import hash_password
from tests.wire.door import OpenDoor, Talker, open_door

ACCOUNT = "app@example.com"
END = b"\r\n.\r\n"

Knowing = Callable[..., AbstractAsyncContextManager[OpenDoor]]


@pytest.fixture
def knowing(tmp_path: Path) -> Knowing:
    """A door that knows one client, `erp` at 127.0.0.0/8, with the options given; `policy` is of both senders."""

    @asynccontextmanager
    async def run(policy: str = "keep", **options: Any) -> AsyncIterator[OpenDoor]:
        async with open_door(tmp_path) as door:

            def register(connection: Connection) -> None:
                for sender in ("app@example.com", "two@example.com"):
                    accounts.add_sender(connection, sender, door.account_id, now_ms=1, from_policy=policy)  # type: ignore[arg-type]
                client_store.add_client(connection, "erp", networks=["127.0.0.0/8"], now_ms=1, **options)

            await door.store.database.write(register)
            await door.directory.reload()
            yield door

    return run


async def sent(talker: Talker, header: str, sender: str = ACCOUNT, to: Sequence[str] = ("ann@example.org",)) -> str:
    """The reply to the final dot of a mail, or the first refusal."""
    for command in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in to), "DATA"):
        reply = await talker.say(f"{command}\r\n".encode())
        if not reply.startswith(("250", "354")):
            return reply
    return await talker.say(header.encode() + b"\r\n\r\nbody" + END)


async def test_the_header_decides_whose_mail_it_is(knowing: Knowing) -> None:
    async with knowing(identity="header", senders=["two@example.com"]) as door:
        talker = await door.client()
        reply = await sent(talker, "From: Billing <two@example.com>", "www-data@host")
        assert reply.startswith("250 2.0.0 Ok: queued as ")
        [message] = door.messages
        assert message.reverse_path == ACCOUNT
        assert message.original_path == "www-data@host"
        assert (await sent(talker, "From: app@example.com", "www-data@host")).startswith("550 5.7.1 <app@example.com>")
        assert (await sent(talker, "From: x@elsewhere.example", "root@localhost")).startswith("550 5.7.1")
        assert (await sent(talker, "From: two@example.com, app@example.com", "a@b")).startswith("550 5.7.1")
        assert (await sent(talker, "Subject: no author", "a@b")).startswith("550 5.7.1")
        spoofed = "Sender: two@example.com\r\nFrom: Boss <app@example.com>"
        assert (await sent(talker, spoofed, "a@b")).startswith("550 5.7.1 <app@example.com>")
        assert (await sent(talker, "From: nobody:;\r\nSender: two@example.com", "a@b")).startswith("550 5.7.1")
        assert len(door.messages) == 1


async def test_a_map_turns_local_senders_into_real_ones(knowing: Knowing) -> None:
    mapping = [("root@localhost", "two@example.com"), ("@host", ACCOUNT)]
    async with knowing(identity="map", sender_map=mapping) as door:
        talker = await door.client()
        assert (await sent(talker, "Subject: a", "root@localhost")).startswith("250")
        assert (await sent(talker, "Subject: b", "cron@host")).startswith("250")
        assert [message.reverse_path for message in door.messages] == ["two@example.com", ACCOUNT]
        assert (await sent(talker, "Subject: c", "root@elsewhere")).startswith("550 5.7.1 <root@elsewhere>")


async def test_senders_are_checked_in_the_header_too(knowing: Knowing) -> None:
    async with knowing(senders=[ACCOUNT]) as door:
        talker = await door.client()
        assert (await sent(talker, "From: boss@example.com")).startswith("550 5.7.1 <boss@example.com>")
        assert (await sent(talker, f"From: {ACCOUNT}\r\nSender: two@example.com")).startswith("550 5.7.1")
        assert (await sent(talker, f"From: {ACCOUNT}", "two@example.com")).startswith("550 5.7.1")
        assert (await sent(talker, f"From: The App <{ACCOUNT}>")).startswith("250")
        assert len(door.messages) == 1


async def test_rewrite_makes_the_author_the_account(knowing: Knowing) -> None:
    async with knowing("rewrite") as door:
        talker = await door.client()
        assert (await sent(talker, "From: Scanner 3 <scan@intern.example>\r\nSubject: x")).startswith("250")
        content = door.content().decode()
        assert f"From: Scanner 3 <{ACCOUNT}>" in content
        assert "Reply-To: Scanner 3 <scan@intern.example>" in content
        assert "X-Original-From: Scanner 3 <scan@intern.example>" in content
        assert (await sent(talker, f"From: App <{ACCOUNT}>\r\nSubject: y")).startswith("250")
        assert "X-Original-From" not in door.content().decode()


@pytest.mark.parametrize(
    "header",
    [
        "From: Scanner 3 <scan@intern.example>",
        "From: Boss <two@example.com>",  # another sender of the relay, which is not the client's
        "From: two@example.com, boss@bank.example\r\nSender: ceo@bank.example",
        "From: two@example.com\r\nFrom: boss@bank.example",
        "From: Scanner without an address",
        "from : two@example.com",
        "FROM\t:two@example.com\r\nSENDER : ceo@bank.example",
        "Subject: no author at all",
    ],
)
async def test_a_client_bound_to_a_sender_may_say_what_it_likes_where_its_author_is_rewritten(
    knowing: Knowing, header: str
) -> None:
    async with knowing("rewrite", senders=[ACCOUNT]) as door:
        assert (await sent(await door.client(), f"{header}\r\nX-Last: 1")).startswith("250")
        fields = door.content().decode().partition("\r\n\r\n")[0].splitlines()
        names = [field.partition(":")[0].strip().lower() for field in fields]
        assert names.count("from") == 1
        assert fields[names.index("from")].endswith((f"<{ACCOUNT}>", f" {ACCOUNT}"))
        assert "sender" not in names


async def test_rewriting_lets_no_client_use_another_sender(knowing: Knowing) -> None:
    async with knowing("rewrite", senders=[ACCOUNT]) as door:
        talker = await door.client()
        assert (await sent(talker, f"From: {ACCOUNT}", "two@example.com")).startswith("550 5.7.1 <two@example.com>")


async def test_where_the_header_decides_it_must_name_a_sender_of_the_client_though_it_is_rewritten(
    knowing: Knowing,
) -> None:
    async with knowing("rewrite", senders=["two@example.com"], identity="header") as door:
        talker = await door.client()
        assert (await sent(talker, f"From: {ACCOUNT}", "www@host")).startswith(f"550 5.7.1 <{ACCOUNT}>")
        assert (await sent(talker, f"From: Boss <{ACCOUNT}>\r\nSender: two@example.com", "www@host")).startswith("250")
        assert f"From: Boss <{ACCOUNT}>" in door.content().decode()


async def test_refuse_takes_only_the_accounts_own_authors(knowing: Knowing) -> None:
    async with knowing("refuse") as door:
        talker = await door.client()
        assert (await sent(talker, "From: scan@intern.example")).startswith("550 5.7.1 <scan@intern.example>")
        assert (await sent(talker, "From: two@example.com")).startswith("250")


async def test_recipients_are_allowed_and_denied(knowing: Knowing) -> None:
    async with knowing(recipients=["@example.org", "@*.example.net"], denied=["boss@example.org"]) as door:
        talker = await door.client()
        await talker.say(b"MAIL FROM:<app@example.com>\r\n")
        for recipient, code in {
            "ann@example.org": "250",
            "a@sub.example.net": "250",
            "a@example.net": "550 5.7.1",
            "boss@example.org": "550 5.7.1",
            "x@elsewhere.example": "550 5.7.1",
        }.items():
            assert (await talker.say(f"RCPT TO:<{recipient}>\r\n".encode())).startswith(code), recipient


async def test_capture_sends_all_to_one_address(knowing: Knowing) -> None:
    async with knowing(capture="test@example.com") as door:
        talker = await door.client()
        assert (await sent(talker, "Subject: x", to=("ann@example.org", "bob@example.org"))).startswith("250")
        [message] = door.messages
        assert [delivery.recipient for delivery in message.deliveries] == ["test@example.com"]
        assert "ann@example.org" in door.content().decode().partition("\r\n\r\n")[0]
        assert "bob@example.org" in door.content().decode().partition("\r\n\r\n")[0]


async def test_rates_answer_with_a_temporary_no(knowing: Knowing) -> None:
    async with knowing(messages_per_minute=2, recipients_per_minute=3, bytes_per_day=2000) as door:
        talker = await door.client()
        await talker.say(b"MAIL FROM:<app@example.com>\r\n")
        replies = [await talker.say(b"RCPT TO:<r%d@example.org>\r\n" % number) for number in range(4)]
        assert [reply[:3] for reply in replies] == ["250", "250", "250", "450"]
        await talker.say(b"RSET\r\n")
        assert (await talker.say(b"MAIL FROM:<app@example.com>\r\n")).startswith("250")
        await talker.say(b"RSET\r\n")
        assert (await talker.say(b"MAIL FROM:<app@example.com>\r\n")).startswith("450 4.7.0")


async def test_the_day_of_a_client(knowing: Knowing) -> None:
    async with knowing(bytes_per_day=2000) as door:
        talker = await door.client()
        too_large = "552 5.3.4 larger than the 2000 octets that this client (erp) may send in a day"
        assert (await talker.say(b"MAIL FROM:<app@example.com> SIZE=2001\r\n")).startswith(too_large)
        assert (await sent(talker, "Subject: undeclared\r\n\r\n" + "x" * 72 + "\r\n" * 1000)).startswith(too_large)
        assert (await sent(talker, "Subject: a\r\n\r\n" + "xx\r\n" * 300)).startswith("250")
        assert (await talker.say(b"MAIL FROM:<app@example.com> SIZE=1900\r\n")).startswith("452 4.7.0")
        assert (await sent(talker, "Subject: b\r\n\r\n" + "xx\r\n" * 300)).startswith("452 4.7.0")
        assert len(door.messages) == 1


async def test_recipients_without_a_domain_get_the_clients(knowing: Knowing) -> None:
    options = {"tolerate": ["bare-recipients", "no-brackets"], "default_domain": "example.org"}
    async with knowing(**options) as door:
        talker = await door.client()
        await talker.say(b"MAIL FROM:app@example.com\r\n")
        assert (await talker.say(b"RCPT TO:ann\r\n")).startswith("250")
        assert (await talker.say(b"RCPT TO:<bob>\r\n")).startswith("250")
        assert (await talker.say(b"RCPT TO:<a@b@c>\r\n")).startswith("5")
        await talker.say(b"DATA\r\n")
        assert (await talker.say(b"Subject: x\r\n\r\nbody" + END)).startswith("250")
        assert [d.recipient for d in door.messages[0].deliveries] == ["ann@example.org", "bob@example.org"]


async def test_bare_line_ends_are_refused_where_the_client_may_not_send_them(knowing: Knowing) -> None:
    async with knowing(tolerate=["no-bare-lf"]) as door:
        talker = await door.client()
        await talker.begin()
        assert (await talker.say(b"Subject: x\n\nbody" + END)).startswith("554 5.6.0")
        await talker.begin()
        assert (await talker.say(b"Subject: x\r\n\r\nbody" + END)).startswith("250")


async def test_long_lines_are_re_encoded(knowing: Knowing) -> None:
    async with knowing(tolerate=["long-lines"]) as door:
        talker = await door.client()
        await talker.begin()
        line = b"<td>" * 50_000
        assert (await talker.say(b"Subject: x\r\n\r\n" + line + END)).startswith("250")
        content = door.content()
        assert max(map(len, content.split(b"\r\n"))) <= 998
        import email
        import email.policy

        parsed = email.message_from_bytes(content, policy=email.policy.SMTP)
        assert parsed.get_payload(decode=True).rstrip(b"\r\n") == line  # type: ignore[union-attr]
        await talker.begin()
        short = b"Subject: y\r\n\r\nshort"
        assert (await talker.say(short + END)).startswith("250")
        assert b"quoted-printable" not in door.content()


async def test_raw_text_beyond_ascii_gets_its_charset(knowing: Knowing) -> None:
    async with knowing(tolerate=["raw-8bit"], charset="iso-8859-1") as door:
        talker = await door.client()
        await talker.begin()
        assert (await talker.say("Subject: Grüße\r\n\r\nStraße".encode("latin-1") + END)).startswith("250")
        header = door.content().partition(b"\r\n\r\n")[0]
        assert header.isascii()
        assert b"=?iso-8859-1?" in header.lower()
        assert b"MIME-Version: 1.0" in header
        assert door.messages[0].eight_bit


async def test_a_client_that_must_log_in_is_told_so(knowing: Knowing) -> None:
    async with knowing(auth="login", login="erp", password_hash=hash_password("correct horse")) as door:
        talker = await door.client()
        assert (await talker.say(b"MAIL FROM:<app@example.com>\r\n")).startswith("530 5.7.0")


async def test_repairs_are_named_in_the_log(knowing: Knowing, capfd: pytest.CaptureFixture[str]) -> None:
    async with knowing() as door:
        talker = await door.client()
        await talker.begin()
        assert (await talker.say(b"Subject: x\n\nbody" + END)).startswith("250")
        assert b"Date: " in door.content()


async def test_a_map_lets_nobody_write_as_another(knowing: Knowing) -> None:
    options = {"identity": "map", "sender_map": [("*", ACCOUNT)], "senders": [ACCOUNT]}
    async with knowing(**options) as door:
        talker = await door.client()
        reply = await sent(talker, "From: Boss <boss@example.com>\r\nSender: ceo@bank.example", "www@host")
        assert reply.startswith("250")
        header = door.content().decode().partition("\r\n\r\n")[0]
        assert f"From: Boss <{ACCOUNT}>" in header
        assert "Sender: ceo" not in header
        assert (await sent(talker, f"From: boss@example.com, {ACCOUNT}", "www@host")).startswith("550 5.7.1")


async def test_refuse_looks_at_the_author_as_it_leaves(knowing: Knowing) -> None:
    async with knowing("refuse", identity="map", sender_map=[("*", ACCOUNT)]) as door:
        talker = await door.client()
        assert (await sent(talker, "From: Boss <boss@example.com>", "www@host")).startswith("550 5.7.1 <boss@")
        assert (await sent(talker, f"From: {ACCOUNT}", "www@host")).startswith("250")


async def test_replies_are_ascii(knowing: Knowing) -> None:
    async with knowing(senders=[ACCOUNT]) as door:
        reply = await sent(await door.client(), "From: é@example.com")
        assert reply.startswith("550 5.7.1")
        assert reply.isascii()
