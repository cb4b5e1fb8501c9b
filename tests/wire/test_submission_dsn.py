"""What an application asked about notices goes to an upstream that offers DSN, and to no other (RFC 3461 5.2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relay.mail.dsn import NO_RECIPIENT_REQUEST, MessageRequest, RecipientRequest
from relay.mail.outcome import Accepted
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.wire.carrying import BODY, LOGIN, PASSWORD, carry, lane, mail

WITH_DSN = ("SIZE 10000000", "8BITMIME", "DSN")
REQUEST = MessageRequest("HDRS", "QQ314159")
REQUESTS = (
    RecipientRequest("SUCCESS,FAILURE", "rfc822;Bob@Example.COM"),
    NO_RECIPIENT_REQUEST,
    RecipientRequest("NEVER", ""),
    RecipientRequest("", r"utf-8;b\x{FC}cher@example.org"),
)
NAMES = ("a@example.org", "b@example.org", "c@example.org", "d@example.org")


def server(**options: object) -> ScriptedUpstream:
    return ScriptedUpstream(tls="none", accounts={LOGIN: PASSWORD}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pipelining", [True, False])
async def test_requests_go_to_an_upstream_that_offers_dsn(pipelining: bool, tmp_path: Path) -> None:
    asking = replace(mail(1, *NAMES), request=REQUEST, requests=REQUESTS)
    async with server(extensions=WITH_DSN, pipelining=pipelining) as upstream:
        source = await carry(upstream, tmp_path, lane(asking))
        assert all(isinstance(outcome, Accepted) for outcome in source.of(1))
        message = await upstream.next_message()
        assert message.parameters == f"SIZE={len(BODY)} RET=HDRS ENVID=QQ314159"
        assert message.recipients == NAMES
        assert message.recipient_parameters == (
            "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@Example.COM",
            "",
            "NOTIFY=NEVER",
            r"ORCPT=utf-8;b\x{FC}cher@example.org",
        )


async def test_they_are_left_out_where_dsn_is_not_offered(tmp_path: Path) -> None:
    asking = replace(mail(1, *NAMES), request=REQUEST, requests=REQUESTS)
    async with server() as upstream:
        await carry(upstream, tmp_path, lane(asking))
        message = await upstream.next_message()
        assert message.parameters == f"SIZE={len(BODY)}"
        assert message.recipient_parameters == ("", "", "", "")


async def test_mail_that_asks_nothing_is_the_same_with_and_without_dsn(tmp_path: Path) -> None:
    async with server(extensions=WITH_DSN) as upstream:
        await carry(upstream, tmp_path, lane(mail(1, *NAMES)))
        assert upstream.lines()[-7:-2] == [
            f"MAIL FROM:<{LOGIN}> SIZE={len(BODY)}",
            *(f"RCPT TO:<{name}>" for name in NAMES),
        ]


@pytest.mark.parametrize(
    "asking",
    [
        {"request": MessageRequest("", "QQ314159")},
        {"requests": (RecipientRequest("DELAY", ""),)},
        {"request": MessageRequest("FULL", ""), "requests": (NO_RECIPIENT_REQUEST,)},
    ],
)
async def test_each_part_goes_out_alone(asking: dict[str, object], tmp_path: Path) -> None:
    async with server(extensions=("DSN",)) as upstream:
        await carry(upstream, tmp_path, lane(replace(mail(1), **asking)))  # type: ignore[arg-type]
        message = await upstream.next_message()
        said = " ".join(filter(None, [message.parameters, *message.recipient_parameters]))
        assert said in ("ENVID=QQ314159", "NOTIFY=DELAY", "RET=FULL")


async def test_a_value_that_is_no_word_any_more_is_no_command(tmp_path: Path) -> None:
    asking = replace(
        mail(1),
        request=MessageRequest("FULL", "a\r\nRSET"),
        requests=(RecipientRequest("NEVER", "rfc822;a b\r\nRCPT TO:<x@y>"),),
    )
    async with server(extensions=("DSN",)) as upstream:
        await carry(upstream, tmp_path, lane(asking))
        message = await upstream.next_message()
        assert (message.parameters, message.recipient_parameters) == ("RET=FULL", ("NOTIFY=NEVER",))
        assert "RSET" not in upstream.lines()
