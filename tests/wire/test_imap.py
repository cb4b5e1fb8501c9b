"""Opening mailboxes: every mechanism, TLS as strict as for mail, servers that refuse, stall, flood and lie."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relay.accounts.model import ImapServer
from relay.config.proxy import parse_proxy
from relay.credentials.errors import SecretMissing
from relay.credentials.oauth.errors import TokenRefused
from relay.diagnosis.conditions import CONDITIONS
from relay.net.way import Way, direct
from relay.submission.imap.connection import CommandRefused, ImapConnection, quoted
from relay.submission.imap.folders import folder_named
from relay.submission.imap.opening import ImapSecret, Limits, MailboxClosed, open_mailbox
from relay.submission.imap.responses import Folder, folders_of, sent_folder, status_of
from relay.submission.imap.wire import MAX_LITERAL, ImapFault, Response
from tests.peers.certificates import Certificates, write_certificates
from tests.peers.proxies import running_proxy
from tests.peers.scripted_imap import ScriptedImap, running_imap

PASSWORD = 'pass "word\\'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


def is_secret(text: str) -> ImapSecret:
    async def secret(_: ImapServer) -> str:
        return text

    return secret


async def no_second(_: ImapServer, refused: str) -> str:
    raise TokenRefused("rejected_by_server")


async def opened(
    imap: ScriptedImap,
    certificates: Certificates,
    *,
    secret: ImapSecret | str = PASSWORD,
    second: Callable[[ImapServer, str], Awaitable[str]] = no_second,
    steps: list[tuple[str, str]] | None = None,
    way: Way | None = None,
    command_s: float = 5,
    **fields: Any,
) -> ImapConnection:
    server = ImapServer(
        **{
            "account_id": 1,
            "account": "ann@example.com",
            "provider": "custom",
            "host": "localhost",
            "port": imap.port,
            "tls": imap.tls,
            "trust": str(certificates.ca),
            "login": "ann@example.com",
            "auth": "password",
            **fields,
        }
    )

    async def way_of(_: int) -> Way:
        assert way is not None
        return way

    return await open_mailbox(
        server,
        is_secret(secret) if isinstance(secret, str) else secret,
        second=second,
        way_of=direct if way is None else way_of,
        limits=Limits(5, command_s),
        on_step=lambda step, text: steps.append((step, text)) if steps is not None else None,
    )


async def closed(imap: ScriptedImap, certificates: Certificates, **given: Any) -> MailboxClosed:
    with pytest.raises(MailboxClosed) as found:
        await opened(imap, certificates, **given)
    assert found.value.reason in CONDITIONS
    assert PASSWORD not in str(found.value)
    return found.value


WAYS_IN = [
    ("AUTH=PLAIN SASL-IR", "password", PASSWORD, "PLAIN"),
    ("AUTH=PLAIN", "password", PASSWORD, "PLAIN"),
    ("AUTH=LOGIN", "password", PASSWORD, "LOGIN"),
    ("AUTH=GSSAPI", "password", PASSWORD, "LOGIN command"),
    ("", "password", "pässwörd", "LOGIN command"),
    ("AUTH=XOAUTH2 AUTH=OAUTHBEARER SASL-IR", "oauth-code", "a.token", "XOAUTH2"),
    ("AUTH=XOAUTH2", "oauth-code", "a.token", "XOAUTH2"),
    ("AUTH=OAUTHBEARER SASL-IR", "oauth-app", "a.token", "OAUTHBEARER"),
    ("AUTH=OAUTHBEARER", "oauth-app", "a.token", "OAUTHBEARER"),
]


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize(("capabilities", "auth", "secret", "how"), WAYS_IN)
async def test_every_way_in(
    tls: str, capabilities: str, auth: str, secret: str, how: str, certificates: Certificates
) -> None:
    steps: list[tuple[str, str]] = []
    offers = f"{capabilities} STARTTLS" if tls == "starttls" else capabilities
    async with running_imap(certificates, tls=tls, capabilities=offers) as imap:
        connection = await opened(imap, certificates, auth=auth, secret=secret, steps=steps)
        assert imap.logins == [(how, "ann@example.com", secret)]
        assert imap.encrypted == [True]
        assert [step for step, _ in steps] == ["connect", "tls", "login"]
        assert secret not in repr(steps)
        assert (await connection.examine(b"INBOX")).messages == 3
        folders = await connection.folders()
        assert [folder.shown for folder in folders] == ["INBOX", "Gesendete Objekte & mehr", 'lit "al']
        sent = sent_folder(folders)
        assert sent is not None
        assert sent.name == b"Gesendete Objekte &- mehr"
        await connection.logout()
        assert imap.commands[-1] == b"LOGOUT"


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (b"NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", "imap-login-refused"),
        (b"NO AUTHENTICATE failed.", "imap-login-refused"),
        (b"BAD User is authenticated but not connected.", "imap-not-allowed"),
        (b"NO [AUTHORIZATIONFAILED] not for you", "imap-not-allowed"),
        (b"NO [UNAVAILABLE] later", "imap-unavailable"),
        (b"NO [INUSE] too many", "imap-unavailable"),
    ],
)
async def test_a_refused_login_is_tried_once(refusal: bytes, reason: str, certificates: Certificates) -> None:
    async with running_imap(certificates) as imap:
        imap.takes, imap.refusal = lambda login, secret: False, refusal + b" " + PASSWORD.encode()
        found = await closed(imap, certificates)
        assert (found.step, found.reason) == ("login", reason)
        assert len(imap.logins) == 1


async def test_a_refused_token_is_replaced_once(certificates: Certificates) -> None:
    refused: list[str] = []

    async def second(_: ImapServer, token: str) -> str:
        refused.append(token)
        return "token-2"

    async with running_imap(certificates, capabilities="AUTH=XOAUTH2 SASL-IR") as imap:
        imap.takes = lambda login, secret: secret == "token-2"
        connection = await opened(imap, certificates, auth="oauth-code", secret="token-1", second=second)
        connection.wire.abort()
        assert refused == ["token-1"]
        imap.takes = lambda login, secret: False
        found = await closed(imap, certificates, auth="oauth-code", secret="token-1", second=second)
        assert found.reason == "imap-login-refused"
        assert [secret for _, _, secret in imap.logins] == ["token-1", "token-2"] * 2
        found = await closed(imap, certificates, auth="oauth-code", secret="token-1")
        assert found.reason == "imap-login-refused"
        assert len(imap.logins) == 5


async def test_nothing_is_stored_to_log_in_with(certificates: Certificates) -> None:
    async def none(_: ImapServer) -> str:
        raise SecretMissing(1, "password")

    async with running_imap(certificates) as imap:
        assert (await closed(imap, certificates, secret=none)).reason == "credential-missing"
        assert imap.logins == []


@pytest.mark.parametrize(
    ("capabilities", "auth"),
    [("AUTH=PLAIN", "oauth-code"), ("LOGINDISABLED AUTH=GSSAPI", "password"), ("LOGINDISABLED", "password")],
)
async def test_no_mechanism_fits(capabilities: str, auth: str, certificates: Certificates) -> None:
    async with running_imap(certificates, capabilities=capabilities) as imap:
        assert (await closed(imap, certificates, auth=auth, secret="t")).reason == "imap-no-mechanism"
        assert imap.logins == []


# TLS


async def test_without_starttls_no_password_goes_out(certificates: Certificates) -> None:
    async with running_imap(certificates, tls="starttls", capabilities="AUTH=PLAIN") as imap:
        assert (await closed(imap, certificates)).reason == "imap-starttls-missing"
        imap.capabilities = "AUTH=PLAIN STARTTLS"
        imap.says["STARTTLS"] = b"{tag} NO not now\r\n"
        assert (await closed(imap, certificates)).step == "tls"
        imap.says["STARTTLS"] = b"{tag} OK begin\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n"
        assert (await closed(imap, certificates)).reason == "imap-protocol"
        imap.greeting = b"* PREAUTH you are in\r\n"
        assert (await closed(imap, certificates)).reason == "imap-protocol"
        assert imap.logins == []


async def test_the_certificate_is_verified(certificates: Certificates) -> None:
    pem = certificates.chain.read_text()
    der = ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END CERTIFICATE-----") + 26])
    pin = f"sha256:{hashlib.sha256(der).hexdigest()}"
    for tls in ("implicit", "starttls"):
        async with running_imap(certificates, tls=tls, capabilities="AUTH=PLAIN STARTTLS") as imap:
            for trust, reason in (
                (None, "certificate-invalid"),
                ("sha256:" + "0" * 64, "certificate-invalid"),
                ("name:elsewhere.example", "certificate-invalid"),
            ):
                found = await closed(imap, certificates, trust=trust)
                assert (found.step, found.reason) == ("tls", reason)
            assert imap.logins == []
            (await opened(imap, certificates, trust=pin)).wire.abort()


async def test_through_a_proxy(certificates: Certificates) -> None:
    async with running_imap(certificates) as imap, running_proxy("socks5") as proxy:
        steps: list[tuple[str, str]] = []
        (await opened(imap, certificates, way=Way(parse_proxy(proxy.url)), steps=steps)).wire.abort()
        assert proxy.asked == [f"localhost:{imap.port}"]
        assert f"through proxy {proxy.url}" in steps[0][1]
        proxy.fault = b"\x05\xff"
        assert (await closed(imap, certificates, way=Way(parse_proxy(proxy.url)))).reason == "proxy-auth"


# Servers that break the rules


@pytest.mark.parametrize(
    "greeting",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"x" * 70000,
        b"* OK {9999999999}\r\n",
        b"* OK \0\r\n",
        b"* BYE go away\r\n",
        b"* OK half",
    ],
    ids=lambda greeting: repr(greeting[:12]),
)
async def test_a_greeting_that_is_none(greeting: bytes, certificates: Certificates) -> None:
    async with running_imap(certificates) as imap:
        imap.greeting = greeting
        found = await closed(imap, certificates, command_s=0.3)
        assert found.reason in ("imap-protocol", "imap-unavailable", "imap-unreachable")
        assert imap.logins == []


@pytest.mark.parametrize("stalls_at", ["greeting", "CAPABILITY", "AUTHENTICATE"])
async def test_a_server_that_stops_answering(stalls_at: str, certificates: Certificates) -> None:
    async with running_imap(certificates) as imap:
        if stalls_at == "greeting":
            imap.greeting = None
        else:
            imap.says[stalls_at] = None
        assert (await closed(imap, certificates, command_s=0.1)).reason == "imap-unreachable"


async def test_a_server_that_drips_does_not_outlast_the_command(certificates: Certificates) -> None:
    async with running_imap(certificates) as imap:
        connection = await opened(imap, certificates, command_s=0.3)
        imap.says["LIST"] = b"* OK still there\r\n"
        began = asyncio.get_running_loop().time()
        with pytest.raises(ImapFault) as fault:
            await connection.folders()
        assert fault.value.reason == "stage-timeout"
        assert asyncio.get_running_loop().time() - began < 2
        connection.wire.abort()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"* LIST () NIL {%d}\r\n" % (MAX_LITERAL + 1), "too large"),
        (b"* x\r\n" * 30000, "without end"),
        (b"+ say more\r\n", "continuation"),
        (b"zz9 OK done\r\n", "not a response"),
        (b"{tag} WHAT\r\n", "no status"),
        (b"* " + b"y" * 70000 + b"\r\n", "too long"),
    ],
    ids=["literal", "flood", "continuation", "another tag", "no status", "line"],
)
async def test_a_server_that_breaks_the_rules(answer: bytes, words: str, certificates: Certificates) -> None:
    async with running_imap(certificates) as imap:
        connection = await opened(imap, certificates)
        imap.says["LIST"] = answer
        with pytest.raises(ImapFault) as fault:
            await connection.folders()
        assert words in fault.value.detail
        connection.wire.abort()


async def test_a_server_that_asks_without_end_is_answered_a_few_times(certificates: Certificates) -> None:
    async with running_imap(certificates, capabilities="IMAP4rev1") as imap:
        imap.says["LOGIN"] = b"+ \r\n" * 50 + b"{tag} OK done\r\n"
        failure = await closed(imap, certificates, secret="p\u00e4ssw\u00f6rd")
        assert (failure.step, failure.reason) == ("login", "imap-protocol")


async def test_a_server_that_says_why_it_goes(certificates: Certificates) -> None:
    async with running_imap(certificates) as imap:
        connection = await opened(imap, certificates)
        imap.says["EXAMINE"] = b"* BYE [UNAVAILABLE] maintenance\r\n{tag} NO [NONEXISTENT] no such\r\n"
        with pytest.raises(CommandRefused) as refused:
            await connection.examine(b"INBOX")
        assert str(refused.value.status) == "NO [NONEXISTENT] no such"
        connection.wire.abort()


def test_folders_by_name_where_no_attribute_tells() -> None:
    def folder(name: bytes, *attributes: str) -> Folder:
        return Folder(name, frozenset(attributes), ".")

    assert sent_folder([folder(b"INBOX"), folder(b"INBOX.Sent")]) == folder(b"INBOX.Sent")
    assert sent_folder([folder(b"Sent"), folder(b"Sent Items")]) == folder(b"Sent Items")
    assert sent_folder([folder(b"Sent"), folder(b"x", "\\sent")]) == folder(b"x", "\\sent")
    assert sent_folder([folder(b"INBOX")]) is None
    assert folder(b"Entw&APw-rfe").shown == "Entwürfe"
    assert folder(b"&Jjo-!&ZZZ-").shown.startswith("☺!")
    assert folders_of([Response((b"* LIST nonsense",)), Response((b'* LIST () "\\\\" a',))])[0].delimiter == "\\"


def test_only_printable_ascii_is_quoted() -> None:
    assert quoted(b'a"b\\c') == b'"a\\"b\\\\c"'
    for text in (b"a\r\nb", "ü".encode(), b"\0", b"\x7f"):
        with pytest.raises(ValueError, match="not quotable"):
            quoted(text)
    assert status_of(b"OK [CAPABILITY IMAP4rev1] hi\x1b[31m") is not None
    assert "\x1b" not in str(status_of(b"NO hi\x1b[31m"))


def test_folders_are_found_by_what_people_call_them() -> None:
    def folder(name: bytes) -> Folder:
        return Folder(name, frozenset(), "/")

    listed = [folder(b"Work/Bounces"), folder(b"Bounces"), folder(b"Zur&APw-ck"), folder(b"bad\xff"), folder(b"bad\t")]
    for wanted, found in (
        ("inbox", b"INBOX"),
        ("bounces", b"Bounces"),
        ("work/bounces", b"Work/Bounces"),
        ("Zur\u00fcck", b"Zur&APw-ck"),
    ):
        named = folder_named(listed, wanted)
        assert named is not None
        assert named.name == found
    assert folder_named(listed[:1], "Bounces") == listed[0]
    assert folder_named(listed, "bad\t") is None
    assert folder_named(listed, "bad\ufffd") is None
    assert folder_named(listed, "nowhere") is None


async def test_no_login_goes_in_clear_to_a_host_that_nobody_opted_out_for(certificates: Certificates) -> None:
    async with running_imap(certificates, tls="none") as imap:
        found = await closed(imap, certificates, host="imap.example.com", tls="none")
        assert (found.step, found.reason) == ("tls", "imap-cleartext-login")
        assert (imap.connections, imap.logins) == (0, [])
