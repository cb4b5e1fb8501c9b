"""Every answer of an HTTP API, and every way to have none: what is reported, and what that means for the account."""

from __future__ import annotations

import asyncio
import contextlib
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from relay.credentials.oauth.errors import TokenRefused, TokenUnavailable
from relay.diagnosis import diagnose
from relay.dispatch.verdict import Rest, Suspend, decide
from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Stage, Unreachable
from relay.queue.model import State
from relay.submission.http.api import Answer
from relay.submission.http.gmail import Gmail
from relay.telemetry.redaction import LIVE, mask
from tests.peers.api_server import ApiServer, Fault
from tests.wire.api_carrying import APIS, Tokens, account_at, api_transport, carry_to
from tests.wire.carrying import HASTY_S, LOGIN, lane, mail

LOOPS = ("uvloop",)  # what the daemon runs on

GOOD = b"From: app@example.com\r\nTo: ann@example.org\r\n\r\nx\r\n"


def graph(code: str, words: str = "words") -> Any:
    return {"error": {"code": code, "message": words}}


def gmail(reason: str, words: str = "words") -> Any:
    return {"error": {"code": 400, "message": words, "errors": [{"reason": reason, "message": words}], "status": "X"}}


async def outcome_of(api: ApiServer, kind: str, folder: Path, *faults: Fault, **options: Any) -> Outcome:
    api.order(*faults)
    return (await carry_to(api, kind, folder, lane(mail(content=GOOD)), **options)).only


def consequence(outcome: Outcome, kind: str) -> tuple[str, State, object]:
    assert isinstance(outcome, Refused | Unreachable | InDoubt)
    diagnosis = diagnose(outcome, provider="m365" if kind == "graph" else "gmail")
    verdict = decide(outcome, diagnosis, in_doubt="retry", partly=False)
    return diagnosis.id, verdict.state, type(verdict.lane)


BOUNCED, HELD_BACK, LATER = State.BOUNCED, State.QUEUED, State.DEFERRED
REFUSALS = [
    ("graph", 400, graph("ErrorInvalidMimeContent"), "graph-bad-content", BOUNCED, type(None)),
    ("graph", 400, graph("ErrorInvalidRecipients"), "graph-invalid-recipients", BOUNCED, type(None)),
    ("graph", 400, graph("SomethingNew"), "graph-bad-request", BOUNCED, type(None)),
    ("graph", 400, graph("ErrorMessageSizeExceeded"), "graph-too-large", BOUNCED, type(None)),
    ("graph", 403, graph("ErrorAccessDenied"), "graph-access-denied", HELD_BACK, Suspend),
    ("graph", 403, graph("SomethingNew"), "graph-access-denied", HELD_BACK, Suspend),
    ("graph", 403, graph("ErrorSendAsDenied"), "graph-send-as-denied", BOUNCED, type(None)),
    ("graph", 404, graph("MailboxNotEnabledForRESTAPI"), "graph-no-mailbox", HELD_BACK, Suspend),
    ("graph", 413, b"<html>too large</html>", "graph-too-large", BOUNCED, type(None)),
    ("graph", 429, graph("ApplicationThrottled"), "graph-throttled", HELD_BACK, Rest),
    ("graph", 429, graph("ErrorExceededMessageLimit"), "graph-message-limit", HELD_BACK, Rest),
    ("graph", 500, graph("ErrorInternalServerError"), "graph-internal-error", LATER, None),
    ("graph", 502, b"", "graph-internal-error", LATER, None),
    ("graph", 503, graph("serviceNotAvailable"), "graph-unavailable", HELD_BACK, Rest),
    ("graph", 507, graph("ErrorQuotaExceeded"), "graph-mailbox-full", HELD_BACK, Rest),
    ("gmail", 400, gmail("invalidArgument", "Recipient address required"), "gmail-api-recipient", BOUNCED, type(None)),
    ("gmail", 400, gmail("failedPrecondition"), "gmail-api-precondition", HELD_BACK, Suspend),
    ("gmail", 400, gmail("invalidArgument"), "gmail-api-bad-request", BOUNCED, type(None)),
    ("gmail", 403, gmail("insufficientPermissions"), "gmail-api-scope", HELD_BACK, Suspend),
    ("gmail", 403, gmail("accessNotConfigured"), "gmail-api-not-enabled", HELD_BACK, Suspend),
    ("gmail", 403, gmail("domainPolicy"), "gmail-api-domain-policy", HELD_BACK, Suspend),
    ("gmail", 403, gmail("userRateLimitExceeded"), "gmail-api-rate", HELD_BACK, Rest),
    ("gmail", 403, gmail("dailyLimitExceeded"), "gmail-api-day", HELD_BACK, Rest),
    ("gmail", 429, gmail("rateLimitExceeded"), "gmail-api-rate", HELD_BACK, Rest),
    ("gmail", 413, b"", "gmail-api-too-large", BOUNCED, type(None)),
    ("gmail", 500, gmail("backendError"), "gmail-api-internal-error", LATER, None),
    ("gmail", 503, gmail("backendError"), "gmail-api-unavailable", HELD_BACK, Rest),
]


@pytest.mark.parametrize(("kind", "status", "body", "cause", "state", "lane_does"), REFUSALS)
async def test_each_refusal_has_its_cause_and_consequence(
    tmp_path: Path, kind: str, status: int, body: Any, cause: str, state: State, lane_does: object
) -> None:
    async with ApiServer() as api:
        outcome = await outcome_of(api, kind, tmp_path, Fault(status, body))
    assert isinstance(outcome, Refused)
    found, becomes, acts = consequence(outcome, kind)
    assert (found, becomes) == (cause, state)
    assert lane_does is None or acts is lane_does
    assert f"HTTP {status}" in outcome.reply.text
    assert "request 5f6c-test" in outcome.reply.text


@pytest.mark.parametrize("kind", APIS)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
async def test_the_account_rests_as_long_as_it_was_asked_to(tmp_path: Path, kind: str, status: int, name: str) -> None:
    async with ApiServer() as api:
        outcome = await outcome_of(api, kind, tmp_path, Fault(status, b"", {name: "77"}))
    assert isinstance(outcome, Refused)
    diagnosis = diagnose(outcome)
    assert (diagnosis.retry, diagnosis.pause, diagnosis.pause_for_s) == (True, True, 77)


async def test_a_date_says_how_long_too(tmp_path: Path) -> None:
    async with ApiServer() as api:
        until = formatdate(1_700_000_090, usegmt=True)
        api.order(Fault(429, b"", {"Retry-After": until}))
        carrier = api_transport(api, tmp_path)
        for apis in (carrier,):
            apis._now_s = lambda: 1_700_000_000.0
        source = lane(mail(content=GOOD))
        await carrier.carry(account_at(api, "graph"), source)
        await carrier.close()
    assert isinstance(source.only, Refused)
    assert source.only.retry_after_s == 90


def test_gmail_says_until_when_in_words() -> None:
    words = "User-rate limit exceeded.  Retry after 2026-11-24T10:00:30.123Z"
    body = b'{"error":{"message":"%s","errors":[{"reason":"rateLimitExceeded"}]}}' % words.encode()
    outcome = Gmail(now_s=lambda: 1_795_514_400.0).outcome(Answer(429, body))
    assert isinstance(outcome, Refused)
    assert outcome.retry_after_s == 30
    nonsense = body.replace(b"11-24", b"99-99")
    assert isinstance(odd := Gmail(now_s=lambda: 0.0).outcome(Answer(429, nonsense)), Refused)
    assert odd.retry_after_s is None


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("graph", 200, b""),
        ("graph", 200, b"<html>sign in to this network</html>"),
        ("graph", 204, b""),
        ("gmail", 200, b"<html>sign in to this network</html>"),
        ("gmail", 200, {"id": ""}),
        ("gmail", 200, b"[" * 60_000),
        ("gmail", 202, {"id": "18c"}),
    ],
)
async def test_another_yes_than_it_should_be_is_a_doubt(tmp_path: Path, kind: str, status: int, body: Any) -> None:
    async with ApiServer() as api:
        fault = Fault(status, b"" if status == 204 else body, content_type="text/html")
        outcome = await outcome_of(api, kind, tmp_path, fault)
    assert isinstance(outcome, InDoubt)
    assert outcome.reason == "protocol-error"


@pytest.mark.parametrize("kind", APIS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(tmp_path: Path, kind: str, status: int) -> None:
    async with ApiServer() as api, ApiServer() as elsewhere:
        place = {"Location": f"{elsewhere.url}/v1.0/me/sendMail"}
        outcome = await outcome_of(api, kind, tmp_path, Fault(status, b"", place))
        assert elsewhere.tokens == []
    assert isinstance(outcome, Unreachable)
    assert consequence(outcome, kind) == ("protocol-error", HELD_BACK, Rest)


@pytest.mark.parametrize("kind", APIS)
async def test_half_an_answer_leaves_a_doubt(tmp_path: Path, kind: str) -> None:
    async with ApiServer() as api:
        outcome = await outcome_of(api, kind, tmp_path, Fault(500, b'{"error":', cut="answer"))
    assert isinstance(outcome, InDoubt)


@pytest.mark.parametrize("kind", APIS)
async def test_a_connection_that_ends_before_the_body_is_no_doubt(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "content"
    file.write_bytes(GOOD + b"x" * 78 + b"\r\n" + (b"x" * 78 + b"\r\n") * 30_000)
    async with ApiServer() as api:
        api.order(Fault(cut="request"))
        source = await carry_to(api, kind, tmp_path, lane(mail(content=file)))
        assert isinstance(source.only, Unreachable)
        assert (source.only.stage, source.only.reason) == (Stage.DATA, "connection-lost")
        assert source.dots == []


@pytest.mark.parametrize("kind", APIS)
async def test_an_answer_before_the_body_counts(tmp_path: Path, kind: str) -> None:
    async with ApiServer() as api:
        outcome = await outcome_of(api, kind, tmp_path, Fault(413, b"", early=True))
    assert isinstance(outcome, Refused)
    assert outcome.reply.code == 552


async def test_a_yes_before_everything_was_sent_is_none(tmp_path: Path) -> None:
    file = tmp_path / "content"
    file.write_bytes(GOOD + (b"x" * 78 + b"\r\n") * 300_000)

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"id":"18c"}')
        await writer.drain()
        await reader.read(100_000)
        writer.transport.abort()

    async with ApiServer() as api:
        server = await asyncio.start_server(hasty, "127.0.0.1", 0, ssl=api._context)
        port = server.sockets[0].getsockname()[1]
        source = await carry_to(api, "gmail", tmp_path, lane(mail(content=file)), port=port)
        server.close()
    assert isinstance(source.only, InDoubt | Unreachable)
    assert source.dots == []


@pytest.mark.parametrize("kind", APIS)
async def test_an_endless_answer_is_cut(tmp_path: Path, kind: str) -> None:
    async with ApiServer() as api:
        outcome = await outcome_of(api, kind, tmp_path, Fault(500, b"x" * 1_000_000))
    assert isinstance(outcome, Refused)
    assert len(outcome.reply.text) < 1000


@pytest.mark.parametrize("kind", APIS)
async def test_the_words_of_an_answer_cannot_harm(tmp_path: Path, kind: str) -> None:
    mask("a-secret-token-of-ours")
    words = "one\r\ntwo \x1b[31m a-secret-token-of-ours " + "z" * 5000
    body = graph("Bad\r\nCode", words) if kind == "graph" else gmail("Bad\r\nCode", words)
    async with ApiServer() as api:
        outcome = await outcome_of(api, kind, tmp_path, Fault(500, body))
    assert isinstance(outcome, Refused)
    assert outcome.reply.text.isprintable()
    assert "a-secret-token-of-ours" not in outcome.reply.text
    assert LIVE.masked("a-secret-token-of-ours") != "a-secret-token-of-ours"


@pytest.mark.parametrize("kind", APIS)
async def test_a_refused_token_is_replaced_once(tmp_path: Path, kind: str) -> None:
    tokens = Tokens()
    async with ApiServer() as api:
        api.takes_token = lambda token: token == "token-2"
        source = await carry_to(api, kind, tmp_path, lane(mail(content=GOOD)), tokens)
        assert isinstance(source.only, Accepted)
        assert api.tokens == ["token-1", "token-2"]
    assert tokens.seconds == ["good"]


@pytest.mark.parametrize("kind", APIS)
async def test_two_refused_tokens_stop_the_account(tmp_path: Path, kind: str) -> None:
    tokens = Tokens()
    async with ApiServer() as api:
        api.takes_token = lambda token: False
        outcome = (await carry_to(api, kind, tmp_path, lane(mail(content=GOOD)), tokens)).only
        assert api.tokens == ["token-1", "token-2"]
    assert tokens.seconds == ["failed"]
    assert isinstance(outcome, Refused)
    assert outcome.stage is Stage.AUTH
    cause = "graph-token-refused" if kind == "graph" else "gmail-api-token-refused"
    assert consequence(outcome, kind) == (cause, HELD_BACK, Suspend)


async def test_who_may_not_try_again_does_not(tmp_path: Path) -> None:
    tokens = Tokens(other=None)
    async with ApiServer() as api:
        api.takes_token = lambda token: False
        outcome = (await carry_to(api, "graph", tmp_path, lane(mail(content=GOOD)), tokens)).only
        assert api.tokens == ["token-1"]
    assert isinstance(outcome, Refused)


async def test_without_a_token_nothing_is_asked(tmp_path: Path) -> None:
    async with ApiServer() as api:
        refused = Tokens(fails=TokenRefused("invalid_grant"))
        outcome = (await carry_to(api, "graph", tmp_path, lane(mail(content=GOOD)), refused)).only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.AUTH, "invalid-grant")
        busy = Tokens(fails=TokenUnavailable("busy", 9))
        outcome = (await carry_to(api, "graph", tmp_path, lane(mail(content=GOOD)), busy)).only
        assert isinstance(outcome, Unreachable)
        assert (outcome.reason, outcome.retry_after_s) == ("token-unavailable", 9)
        assert api.connections == 0


@pytest.mark.parametrize(("kind", "limit"), [("graph", "graph_request_bytes"), ("gmail", "gmail_message_bytes")])
async def test_what_is_too_large_is_not_offered(tmp_path: Path, kind: str, limit: str) -> None:
    most = 4096 * 3 // 4 if kind == "graph" else 4096
    note = b"Bcc: <ann@example.org>\r\n"
    head = b"From: app@example.com\r\nSubject: x\r\n\r\n"
    fits = head + b"x" * (most - len(head) - len(note) - 2) + b"\r\n"
    async with ApiServer() as api:
        source = await carry_to(
            api,
            kind,
            tmp_path,
            lane(mail(1, content=fits), mail(2, content=fits[:-2] + b"x\r\n")),
            settings={limit: 4096},
        )
        assert len(api.asked) == 1
    [accepted], [refused] = source.of(1), source.of(2)
    assert isinstance(accepted, Accepted)
    assert isinstance(refused, Refused)
    assert (refused.stage, refused.reply.code) == (Stage.MAIL, 552)
    cause = "graph-too-large" if kind == "graph" else "gmail-api-too-large"
    assert consequence(refused, kind) == (cause, BOUNCED, type(None))


async def test_graph_names_the_mailbox_only_for_an_app(tmp_path: Path) -> None:
    async with ApiServer() as api:
        await carry_to(api, "graph", tmp_path, lane(mail(content=GOOD)), login="o'hara/x?y@example.com")
        await carry_to(api, "graph", tmp_path, lane(mail(content=GOOD)), auth="oauth-code")
        assert (await api.next_mail()).mailbox == "o'hara/x?y@example.com"
        assert api.asked == [("/v1.0/users/o%27hara%2Fx%3Fy@example.com/sendMail", 202), ("/v1.0/me/sendMail", 202)]


@pytest.mark.parametrize("kind", APIS)
async def test_the_envelope_decides_who_gets_it(tmp_path: Path, kind: str) -> None:
    content = (
        b"From: app@example.com\r\nTo: ann@example.org, redirected@example.org\r\nCc: other@example.org\r\n\r\nx\r\n"
    )
    async with ApiServer() as api:
        source = await carry_to(
            api, kind, tmp_path, lane(mail(1, "ann@example.org", "hidden@example.org", content=content))
        )
        found = await api.next_mail()
    assert found.recipients == ("ann@example.org", "hidden@example.org")
    assert found.content == b"From: app@example.com\r\nTo: <ann@example.org>\r\n\r\nx\r\n"
    [accepted, _] = source.of(1)
    assert isinstance(accepted, Accepted)
    assert "1 only in the envelope: added as Bcc" in accepted.reply.text
    assert "2 not in the envelope: taken out of To and Cc" in accepted.reply.text


@pytest.mark.parametrize("kind", APIS)
@pytest.mark.parametrize(
    ("author", "becomes"),
    [
        ("app@example.com", "app@example.com"),
        ("other@example.com", "other@example.com"),
        ("eve@example.com", "app@example.com"),
    ],
)
async def test_the_author_is_one_the_account_speaks_for(tmp_path: Path, kind: str, author: str, becomes: str) -> None:
    content = f"From: A <{author}>\r\nTo: ann@example.org\r\n\r\nx\r\n".encode()
    async with ApiServer() as api:
        await carry_to(api, kind, tmp_path, lane(mail(content=content)))
        assert f"From: A <{becomes}>\r\n".encode() in (await api.next_mail()).content


async def test_signed_mail_keeps_its_body_to_the_octet(tmp_path: Path) -> None:
    body = (
        b'Content-Type: multipart/signed; protocol="application/pgp-signature"; boundary=b\r\n\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\nsoft=20line=\r\n break \t\r\n..dot\r\n--b\r\n"
        b"Content-Type: application/pgp-signature\r\n\r\nsig\r\n--b--\r\n"
    )
    async with ApiServer() as api:
        await carry_to(
            api, "graph", tmp_path, lane(mail(content=b"From: app@example.com\r\nTo: eve@example.org\r\n" + body))
        )
        found = (await api.next_mail()).content
    assert found == b"From: app@example.com\r\n" + body.replace(b"\r\n..", b"\r\n.")


@pytest.mark.parametrize("kind", APIS)
async def test_a_login_is_tried_without_a_mail(tmp_path: Path, kind: str) -> None:
    told: list[str] = []
    async with ApiServer() as api:
        carrier = api_transport(api, tmp_path)
        found = await carrier.probe(account_at(api, kind), lambda step, words: told.append(step))
        assert isinstance(found, Accepted)
        assert told == ["connect", "tls", "auth"]
        api.takes_token = lambda token: False
        told.clear()
        found = await carrier.probe(account_at(api, kind), lambda step, words: told.append(step))
        assert isinstance(found, Refused)
        assert (found.stage, told) == (Stage.AUTH, ["connect", "tls"])
        api.order(Fault(403, graph("ErrorAccessDenied")))
        assert isinstance(await carrier.probe(account_at(api, kind), lambda *_: None), Refused)
        api.order(Fault(400, gmail("failedPrecondition")))
        assert isinstance(await carrier.probe(account_at(api, "gmail"), lambda *_: None), Refused)
        assert api.mails.empty()
        await carrier.close()


async def test_a_standstill_within_the_body_ends(tmp_path: Path) -> None:
    file = tmp_path / "content"
    file.write_bytes(GOOD + (b"x" * 78 + b"\r\n") * 300_000)
    deaf: list[asyncio.StreamWriter] = []

    async def listens_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        deaf.append(writer)
        await reader.read(100)
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    async with ApiServer() as api:
        server = await asyncio.start_server(listens_no_more, "127.0.0.1", 0, ssl=api._context)
        port = server.sockets[0].getsockname()[1]
        source = await carry_to(api, "gmail", tmp_path, lane(mail(content=file)), stage_s=HASTY_S, port=port)
        assert isinstance(source.only, Unreachable)
        assert source.only.reason == "stage-timeout"
        for writer in deaf:
            writer.transport.abort()
        server.close()


async def test_an_idle_client_is_closed(tmp_path: Path) -> None:
    async with ApiServer() as api:
        carrier = api_transport(api, tmp_path, idle_s=0.05)
        source = lane(mail(content=GOOD))
        await carrier.carry(account_at(api, "graph"), source)
        async with asyncio.timeout(5):
            while carrier._clients._kept or carrier._clients._closing:
                await asyncio.sleep(0.01)
        await carrier.close()


async def test_an_unusable_file_of_authorities_is_said(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    async with ApiServer() as api:
        source = await carry_to(api, "graph", tmp_path, lane(mail(content=GOOD)), settings={"api_ca_file": bad})
    assert isinstance(source.only, Unreachable)
    assert (source.only.stage, source.only.reason) == (Stage.TLS, "certificate-invalid")


async def test_no_token_is_in_what_is_reported(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError):
        mask("token-1")
    async with ApiServer() as api:
        outcome = await outcome_of(api, "graph", tmp_path, Fault(400, graph("x", "Bearer token-1 is bad")))
    assert "token-1" not in repr(outcome)
    assert LOGIN not in "".join(api.tokens)
