"""Each flow against a real authorization server: it ends in a token that a mail server takes, or in a clear no."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.credentials.errors import SecretMissing, SecretRefused
from relay.credentials.oauth import OAuthApp, TokenRefused, TokenUnavailable
from relay.credentials.oauth.assertions import certificate_facts, client_assertion, service_account_facts
from relay.credentials.oauth.client import AppKeys, OAuthClient
from relay.credentials.oauth.http import MAX_BODY_BYTES, HttpsPost
from relay.credentials.oauth.providers import PROVIDERS
from relay.telemetry.redaction import LIVE
from tests.peers.authority import REDIRECT, SECRET, SERVICE_ACCOUNT, Authority, Fault, running_authority, self_signed
from tests.peers.certificates import write_certificates

SMTP, IMAP = "https://outlook.office.com/SMTP.Send", "https://outlook.office.com/IMAP.AccessAsUser.All"
APP_SMTP = "https://outlook.office365.com/.default"
NONE = AppKeys(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with running_authority(tmp_path_factory.mktemp("authority")) as authority:
        yield authority


@pytest.fixture
def authority(server: Authority) -> Authority:
    server.reset()
    return server


@pytest.fixture
def client(authority: Authority) -> OAuthClient:
    return OAuthClient(HttpsPost(authority.ca))


def app_of(authority: Authority, client_id: str = "public", **more: Any) -> OAuthApp:
    given = {"provider": "microsoft", "tenant": "contoso.example", **more}
    return OAuthApp(
        client_id=client_id,
        token_url=authority.url("token"),
        authorize_url=authority.url("authorize"),
        device_url=authority.url("device"),
        **given,
    )


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


async def browse(authority: Authority, url: str) -> str:
    """What a browser would be sent to; "" when the server shows a page of its own."""

    def get() -> str:
        context = ssl.create_default_context(cafile=authority.ca)
        opener = urllib.request.build_opener(_Stay, urllib.request.HTTPSHandler(context=context))
        try:
            opener.open(url, timeout=10).close()
        except urllib.error.HTTPError as answer:
            return str(answer.headers.get("Location", ""))
        return ""

    return await asyncio.to_thread(get)


# Authorization code


async def test_a_sign_in_in_the_browser_ends_in_a_token_for_smtp_and_another_for_imap(
    authority: Authority, client: OAuthClient
) -> None:
    app = app_of(authority)
    begun = client.begin_sign_in(app, REDIRECT, ("smtp", "imap"), login_hint="ann@example.com")
    code = client.code_of(begun, await browse(authority, begun.url))
    grant = await client.exchange(app, NONE, code, begun.verifier, REDIRECT)
    assert authority.check(grant.access_token, SMTP)["sub"] == "ann@example.com"
    assert grant.refresh_token is not None
    imap = await client.refresh(app, NONE, grant.refresh_token, "imap")
    assert authority.check(imap.access_token, IMAP)
    with pytest.raises(Exception, match="insufficient_scope"):
        authority.check(imap.access_token, SMTP)


async def test_a_code_is_worth_nothing_without_its_verifier_and_works_once(
    authority: Authority, client: OAuthClient
) -> None:
    app = app_of(authority)
    begun = client.begin_sign_in(app, REDIRECT)
    code = client.code_of(begun, await browse(authority, begun.url))
    with pytest.raises(TokenRefused) as refused:
        await client.exchange(app, NONE, code, "x" * 64, REDIRECT)
    assert refused.value.error == "invalid_grant"
    await client.exchange(app, NONE, code, begun.verifier, REDIRECT)
    with pytest.raises(TokenRefused):
        await client.exchange(app, NONE, code, begun.verifier, REDIRECT)


async def test_an_answer_that_is_not_to_this_sign_in_is_refused(authority: Authority, client: OAuthClient) -> None:
    begun = client.begin_sign_in(app_of(authority), REDIRECT)
    other = client.begin_sign_in(app_of(authority), REDIRECT)
    answer = await browse(authority, other.url)
    for text in (answer, "code=abc", "", "state=%FF&code=x", "&".join(f"a{n}=1" for n in range(99))):
        with pytest.raises(TokenRefused) as refused:
            client.code_of(begun, text)
        assert refused.value.error == "state_mismatch"


async def test_a_person_who_declines_is_told_as_such(authority: Authority, client: OAuthClient) -> None:
    begun = client.begin_sign_in(app_of(authority), REDIRECT, login_hint="no@example.com")
    with pytest.raises(TokenRefused) as refused:
        client.code_of(begun, await browse(authority, begun.url))
    assert refused.value.error == "access_denied"


def test_google_is_asked_for_a_grant_that_lasts(client: OAuthClient) -> None:
    url = client.begin_sign_in(OAuthApp("google", client_id="a"), REDIRECT).url
    assert "access_type=offline" in url
    assert "prompt=consent" in url
    assert "code_challenge_method=S256" in url


# Device code


async def test_a_sign_in_on_another_device_ends_in_a_token(authority: Authority, client: OAuthClient) -> None:
    app = app_of(authority)
    shown = await client.begin_device(app, NONE)
    assert shown.verification_uri.endswith("/activate")
    authority.decide(shown.user_code)
    grant = await client.poll_device(app, NONE, shown)
    assert authority.check(grant.access_token, SMTP)
    assert grant.refresh_token


class Clock:
    """Time that passes only by sleeping; `slept` has each wait."""

    def __init__(self, at_sleep: dict[int, Any] | None = None) -> None:
        self.now, self.slept, self._at_sleep = 0.0, list[float](), at_sleep or {}

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self._at_sleep.get(len(self.slept), lambda: None)()

    def read(self) -> float:
        return self.now


async def test_who_is_told_to_slow_down_waits_five_seconds_longer_from_then_on(authority: Authority) -> None:
    clock = Clock()
    client = OAuthClient(HttpsPost(authority.ca), sleep=clock.sleep, monotonic_s=clock.read)
    app = app_of(authority)
    shown = await client.begin_device(app, NONE)
    clock._at_sleep[4] = lambda: authority.decide(shown.user_code)
    assert await client.poll_device(app, NONE, shown)
    assert clock.slept == [1, 1, 6, 11]  # no time passes for the server: every question but the first is too early


async def test_polling_goes_on_through_trouble_and_ends_with_the_code(authority: Authority) -> None:
    clock = Clock()
    client = OAuthClient(HttpsPost(authority.ca), sleep=clock.sleep, monotonic_s=clock.read)
    app = app_of(authority)
    shown = await client.begin_device(app, NONE)
    authority.order(Fault(500), Fault(429, headers={"Retry-After": "20"}))
    with pytest.raises(TokenRefused) as refused:
        await client.poll_device(app, NONE, shown)
    assert refused.value.error == "expired_token"
    assert clock.slept[:3] == [1, 2, 20]


async def test_an_ended_or_declined_device_code_ends_the_wait(authority: Authority) -> None:
    clock = Clock()
    client = OAuthClient(HttpsPost(authority.ca), sleep=clock.sleep, monotonic_s=clock.read)
    app = app_of(authority)
    shown = await client.begin_device(app, NONE)
    authority.decide(shown.user_code, yes=False)
    with pytest.raises(TokenRefused) as refused:
        await client.poll_device(app, NONE, shown)
    assert refused.value.error == "access_denied"
    authority.device_lives_s = -1
    shown = await client.begin_device(app, NONE)
    with pytest.raises(TokenRefused) as refused:
        await client.poll_device(app, NONE, shown)
    assert refused.value.error == "expired_token"


# Without a person


@pytest.mark.parametrize("client_id", ["secret", "basic"])
async def test_an_app_signs_in_with_its_secret(authority: Authority, client: OAuthClient, client_id: str) -> None:
    app = app_of(authority, client_id, client_auth="basic" if client_id == "basic" else "post")
    grant = await client.app_token(app, AppKeys(1, client_secret=SECRET), "smtp")
    assert authority.check(grant.access_token, APP_SMTP)
    with pytest.raises(TokenRefused) as refused:
        await client.app_token(app, AppKeys(1, client_secret="not the secret"), "smtp")
    assert (refused.value.error, refused.value.scope) == ("invalid_client", "app")
    with pytest.raises(SecretMissing):
        await client.app_token(app, NONE, "smtp")


async def test_an_app_signs_in_with_its_certificate(authority: Authority, client: OAuthClient) -> None:
    app = app_of(authority, "certificate")
    keys = AppKeys(1, client_certificate=authority.certificate_pem)
    for _ in range(2):  # a statement works once: each is made anew
        grant = await client.app_token(app, keys, "smtp")
        assert authority.check(grant.access_token, APP_SMTP)


async def test_a_certificate_the_app_does_not_have_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificates = write_certificates(tmp_path)
    other, _, _ = self_signed("another app")
    client = OAuthClient(HttpsPost(authority.ca))
    with pytest.raises(TokenRefused) as refused:
        await client.app_token(app_of(authority, "certificate"), AppKeys(1, client_certificate=other), "smtp")
    assert (refused.value.error, refused.value.number) == ("invalid_client", 700027)
    facts = certificate_facts(other)
    assert facts.subject == "CN=another app"
    assert len(facts.sha256) == 64
    assert facts.expires_at > time.time() * 1000
    for bad in (
        "",
        "no pem",
        certificates.chain.read_text(),
        other.replace("PRIVATE KEY-----\nM", "PRIVATE KEY-----\nX"),
    ):
        with pytest.raises(SecretRefused):
            client_assertion(bad, client_id="a", audience="b", now_s=0)


async def test_a_clock_that_is_wrong_gets_a_refusal_and_no_loop(authority: Authority) -> None:
    client = OAuthClient(HttpsPost(authority.ca), now_s=lambda: time.time() - 7200)
    keys = AppKeys(1, client_certificate=authority.certificate_pem)
    with pytest.raises(TokenRefused) as refused:
        await client.app_token(app_of(authority, "certificate"), keys, "smtp")
    assert refused.value.error == "invalid_client"
    assert len(authority.asked) == 1


@pytest.mark.parametrize("skew_s", [-590, 590])
async def test_a_clock_ten_minutes_off_still_signs_in(authority: Authority, skew_s: int) -> None:
    client = OAuthClient(HttpsPost(authority.ca), now_s=lambda: time.time() + skew_s)
    keys = AppKeys(1, client_certificate=authority.certificate_pem, service_account=authority.service_account_json)
    assert await client.app_token(app_of(authority, "certificate"), keys, "smtp")
    app = OAuthApp("google", subject="ann@example.com", token_url=authority.url("token"))
    assert await client.service_account_token(app, keys, "smtp")


async def test_a_service_account_acts_for_a_mailbox(authority: Authority, client: OAuthClient) -> None:
    app = OAuthApp("google", subject="ann@example.com", token_url=authority.url("token"))
    keys = AppKeys(1, service_account=authority.service_account_json)
    grant = await client.service_account_token(app, keys, "smtp")
    assert authority.check(grant.access_token, "https://mail.google.com/")["sub"] == "ann@example.com"
    assert service_account_facts(authority.service_account_json).email == SERVICE_ACCOUNT
    stranger = OAuthApp("google", subject="eve@elsewhere.example", token_url=authority.url("token"))
    with pytest.raises(TokenRefused) as refused:
        await client.service_account_token(stranger, keys, "smtp")
    assert refused.value.error == "invalid_grant"
    for bad in ("x", "[]", "{}", '{"client_email": "a", "private_key": "b", "private_key_id": "c"}'):
        with pytest.raises(SecretRefused):
            await client.service_account_token(app, AppKeys(1, service_account=bad), "smtp")


# Refusals and trouble


async def test_a_refusal_is_told_by_error_suberror_and_number_without_our_secrets(
    authority: Authority, client: OAuthClient
) -> None:
    authority.descriptions["invalid_grant"] = {
        "error_description": f"AADSTS50173: sent {SECRET}\r\n\x1b[31mTrace ID: 1 " + "x" * 5000,
        "error_codes": [50173],
        "suberror": "bad_token",
    }
    LIVE.add(SECRET)
    with pytest.raises(TokenRefused) as refused:
        await client.refresh(app_of(authority), NONE, "no such token", "smtp")
    refusal = refused.value
    assert (refusal.error, refusal.suberror, refusal.number) == ("invalid_grant", "bad_token", 50173)
    assert refusal.scope == "account"
    assert refusal.description.startswith("AADSTS50173: sent ***")
    assert len(refusal.description) <= 400
    assert refusal.description.isprintable()


@pytest.mark.parametrize(
    ("fault", "reason", "retry_after_s"),
    [
        (Fault(429, headers={"Retry-After": "7"}), "busy", 7),
        (Fault(429, headers={"Retry-After": "99999999"}), "busy", 86400),
        (Fault(429, headers={"Retry-After": "soon"}), "busy", None),
        (Fault(503, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}), "server-error", 0),
        (Fault(500, b"<html>"), "server-error", None),
        (Fault(400, b'{"error": "temporarily_unavailable"}'), "server-error", None),
        (Fault(200, b'{"error": "server_error"}'), "server-error", None),
        (Fault(302, headers={"Location": "https://localhost:1/"}), "redirected", None),
        (Fault(404, b"not here"), "bad-answer", None),
        (Fault(200, b'{"access_token": "ab', declared=900), "bad-answer", None),
        (Fault(200, b""), "bad-answer", None),
        (Fault(200, b"[]"), "bad-answer", None),
        (Fault(200, b'{"access_token": 5, "token_type": "Bearer"}'), "bad-answer", None),
        (Fault(200, b'{"access_token": "a b", "token_type": "Bearer"}'), "bad-answer", None),
        (Fault(200, b'{"access_token": "abcd", "token_type": "mac"}'), "bad-answer", None),
        (Fault(200, b'{"access_token": "%s", "token_type": "Bearer"}' % (b"a" * 20000)), "bad-answer", None),
        (Fault(200, b'{"access_token": "abcd", "token_type": "Bearer", "refresh_token": 1}'), "bad-answer", None),
        (Fault(200, b" " * (MAX_BODY_BYTES + 1)), "too-large", None),
        (Fault(200, b" " * (8 << 20)), "too-large", None),
        (Fault(200, b"[" * 60000), "bad-answer", None),
    ],
    ids=lambda value: value.body[:20].decode() + str(value.status) if isinstance(value, Fault) else str(value),
)
async def test_trouble_is_not_taken_for_a_refusal(
    authority: Authority, client: OAuthClient, fault: Fault, reason: str, retry_after_s: int | None
) -> None:
    authority.order(fault)
    with pytest.raises(TokenUnavailable) as unavailable:
        await client.refresh(app_of(authority), NONE, "a refresh token", "smtp")
    assert (unavailable.value.reason, unavailable.value.retry_after_s) == (reason, retry_after_s)


async def test_a_server_that_does_not_answer_is_left_in_time(authority: Authority) -> None:
    client = OAuthClient(HttpsPost(authority.ca, timeout_s=0.3))
    with authority.held(), pytest.raises(TokenUnavailable) as unavailable:
        await client.refresh(app_of(authority), NONE, "a refresh token", "smtp")
    assert unavailable.value.reason == "timeout"
    async with asyncio.timeout(5):
        while not authority.asked:  # what it was held with comes after all, and must not be taken for the next test's
            await asyncio.sleep(0.01)


async def test_a_server_that_nobody_vouches_for_gets_no_secret(authority: Authority, tmp_path: Path) -> None:
    other = write_certificates(tmp_path).ca
    for ca_file, reason in ((None, "tls-failed"), (other, "tls-failed"), (tmp_path / "none.pem", "tls-failed")):
        with pytest.raises(TokenUnavailable) as unavailable:
            await OAuthClient(HttpsPost(ca_file)).refresh(app_of(authority), NONE, "a refresh token", "smtp")
        assert unavailable.value.reason == reason
    assert authority.asked == []


async def test_a_server_with_another_name_in_its_certificate_gets_no_secret(tmp_path: Path) -> None:
    with running_authority(tmp_path, "login.example.com") as stranger:
        with pytest.raises(TokenUnavailable) as unavailable:
            await OAuthClient(HttpsPost(stranger.ca)).refresh(app_of(stranger), NONE, "a refresh token", "smtp")
        assert unavailable.value.reason == "tls-failed"
        assert stranger.asked == []


async def test_where_nobody_listens_there_is_no_token_now(client: OAuthClient) -> None:
    for url in ("https://127.0.0.1:9/token", "https://no-such-host.invalid/token"):
        with pytest.raises(TokenUnavailable) as unavailable:
            await client.refresh(OAuthApp("generic", "a", token_url=url), NONE, "a refresh token", "smtp")
        assert unavailable.value.reason == "unreachable"


async def test_nothing_secret_shows_itself(authority: Authority, client: OAuthClient) -> None:
    app = app_of(authority)
    begun = client.begin_sign_in(app, REDIRECT)
    code = client.code_of(begun, await browse(authority, begun.url))
    grant = await client.exchange(app, NONE, code, begun.verifier, REDIRECT)
    assert grant.refresh_token is not None
    keys = AppKeys(1, SECRET, authority.certificate_pem, authority.service_account_json)
    shown = repr((begun, grant, keys, app))
    for secret in (grant.access_token, grant.refresh_token, begun.verifier, begun.state, SECRET, "PRIVATE KEY"):
        assert secret not in shown
    for secret in (grant.access_token, grant.refresh_token, begun.verifier, code):
        assert LIVE.touches(f"a line with {secret} in it")


async def test_the_secret_in_the_settings_goes_to_google_alone(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(PROVIDERS["google"], token=authority.url("token"))
    monkeypatch.setitem(PROVIDERS, "google", own)
    with_it = OAuthClient(HttpsPost(authority.ca), google_secret=("secret", SECRET))
    for client, app, known in (
        (with_it, OAuthApp("google", client_id="secret"), True),
        (OAuthClient(HttpsPost(authority.ca)), OAuthApp("google", client_id="secret"), False),
        (with_it, OAuthApp("google", client_id="secret", token_url=authority.url("token")), False),
        (with_it, OAuthApp("generic", client_id="secret", token_url=authority.url("token")), False),
    ):
        with pytest.raises(TokenRefused) as refused:
            await client.refresh(app, NONE, "no such token", "smtp")
        assert (refused.value.error == "invalid_grant") is known, app  # else it is invalid_client
