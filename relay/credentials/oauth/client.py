"""The questions put to an authorization server, one method a flow, and what its answers mean."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from relay.credentials.errors import SecretMissing
from relay.credentials.oauth.answers import Grant, grant_of, refusal_of, seconds_of, text_of
from relay.credentials.oauth.app import OAuthApp
from relay.credentials.oauth.errors import TokenRefused, TokenUnavailable
from relay.credentials.oauth.http import Answer, HttpsPost
from relay.credentials.oauth.providers import Flow, Purpose
from relay.diagnosis.token_errors import transient
from relay.telemetry.redaction import mask

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_LEAST_INTERVAL_S, _MOST_INTERVAL_S, _SLOW_DOWN_S = 1, 60, 5
_DEVICE_LIFE_S = 1800


@dataclass(frozen=True, slots=True)
class AppKeys:
    """What the app proves itself with, in clear; None: it has none of that kind."""

    account_id: int
    client_secret: str | None = field(default=None, repr=False)
    client_certificate: str | None = field(default=None, repr=False)
    service_account: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SignIn:
    """A sign-in in the browser, begun: where to send the person, and what proves that the answer is for us."""

    url: str = field(repr=False)
    redirect: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A sign-in on another device, begun. Show `user_code` and `verification_uri`."""

    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in_s: int
    interval_s: int
    device_code: str = field(repr=False)


class OAuthClient:
    """Asks. Keeps nothing; every secret and token that passes is masked in the log.

    All methods that ask raise TokenRefused, TokenUnavailable, OAuthSettingsRefused, SecretRefused or SecretMissing.
    """

    def __init__(
        self,
        https: HttpsPost,
        *,
        google_secret: tuple[str, str] = ("", ""),
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`google_secret`: client id and secret of accounts at Google that have no secret of their own."""
        self._google_secret = google_secret
        if google_secret[1]:
            mask(google_secret[1])
        self._https, self._now_s, self._monotonic_s, self._sleep = https, now_s, monotonic_s, sleep

    # Authorization code with PKCE (RFC 6749 4.1, RFC 7636)

    def begin_sign_in(
        self, app: OAuthApp, redirect: str, purposes: Iterable[Purpose] = ("smtp",), *, login_hint: str = ""
    ) -> SignIn:
        """The URL for the browser. `redirect`: as registered; loopback (RFC 8252 7.3) or the console's."""
        from authlib.common.security import generate_token
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        app.check("oauth-code")
        state, verifier = generate_token(43), generate_token(64)
        mask(state)
        mask(verifier)
        url = prepare_grant_uri(
            app.authorize_endpoint(),
            client_id=app.client_id,
            response_type="code",
            redirect_uri=redirect,
            scope=app.scopes("oauth-code", purposes) or None,
            state=state,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            **({"login_hint": login_hint} if login_hint else {}),
            **app.preset.extras,
        )
        return SignIn(url, redirect, state, verifier)

    def code_of(self, sign_in: SignIn, redirected: str) -> str:
        """The code in the URL (or its query) that the browser was sent back to.

        Raises TokenRefused: the provider's error, or `state_mismatch` for an answer that is not to this sign-in.
        """
        query = urlsplit(redirected).query if "?" in redirected else redirected
        try:
            found = {name: values[0] for name, values in parse_qs(query[:16384], max_num_fields=32).items()}
        except ValueError:
            found = {}
        if not hmac.compare_digest(found.get("state", "").encode(), sign_in.state.encode()):
            raise TokenRefused("state_mismatch")
        if "error" in found:
            raise refusal_of(found)
        code = found.get("code", "")
        mask(code)
        if not code:
            raise TokenRefused("invalid_request", description="the answer has no code")
        return code

    async def exchange(self, app: OAuthApp, keys: AppKeys, code: str, verifier: str, redirect: str) -> Grant:
        """The tokens for a code; each code works once. They are for the first of the purposes signed in for."""
        mask(code)
        return await self._token(
            app, keys, "authorization_code", code=code, redirect_uri=redirect, code_verifier=verifier
        )

    async def document(self, url: str) -> Mapping[str, Any]:
        """A JSON document that a provider publishes, by the way of all accounts. Raises TokenUnavailable."""
        await self._https.ready()
        answer = await self._https.get(0, url)
        if answer.status != 200 or not answer.body:
            raise TokenUnavailable("bad-answer")
        return answer.body

    # Device code (RFC 8628)

    async def begin_device(self, app: OAuthApp, keys: AppKeys, purposes: Iterable[Purpose] = ("smtp",)) -> DeviceCode:
        """Ask for a code to show."""
        app.check("oauth-device")
        scope = app.scopes("oauth-device", purposes)
        answer = await self._ask(app, keys, app.device_endpoint(), {"scope": scope} if scope else {})
        body = answer.body
        texts = [text_of(body, name, 2048) for name in ("user_code", "verification_uri", "device_code")]
        if not all(texts):
            raise TokenUnavailable("bad-answer")
        user_code, uri, device_code = texts
        mask(device_code)
        return DeviceCode(
            user_code[:64],
            uri,
            text_of(body, "verification_uri_complete", 2048),
            seconds_of(body.get("expires_in"), _DEVICE_LIFE_S, _DEVICE_LIFE_S),
            max(_LEAST_INTERVAL_S, seconds_of(body.get("interval"), _SLOW_DOWN_S, _MOST_INTERVAL_S)),  # RFC 8628 3.2
            device_code,
        )

    async def poll_device(self, app: OAuthApp, keys: AppKeys, device: DeviceCode) -> Grant:
        """Wait until the person has signed in. Raises TokenRefused, `expired_token` when nobody did in time."""
        interval_s: float = device.interval_s
        end = self._monotonic_s() + device.expires_in_s
        while True:
            await self._sleep(interval_s)
            if self._monotonic_s() > end:
                raise TokenRefused("expired_token")
            try:
                return await self._token(app, keys, DEVICE_CODE, device_code=device.device_code)
            except TokenRefused as refusal:
                if refusal.error == "slow_down":  # RFC 8628 3.5: for this and all later requests
                    interval_s = min(interval_s + _SLOW_DOWN_S, _MOST_INTERVAL_S)
                elif refusal.error != "authorization_pending":
                    raise
            except TokenUnavailable as unavailable:  # RFC 8628 3.5: poll less often
                interval_s = min(max(interval_s * 2, unavailable.retry_after_s or 0), _MOST_INTERVAL_S)

    # Without a person, and later on

    async def app_token(self, app: OAuthApp, keys: AppKeys, purpose: Purpose) -> Grant:
        """Client credentials (RFC 6749 4.4), by certificate or secret."""
        app.check("oauth-app")
        if not keys.client_certificate and not keys.client_secret:
            raise SecretMissing(keys.account_id, "client_secret")
        return await self._token(app, keys, "client_credentials", scope=app.scopes("oauth-app", purpose))

    async def service_account_token(self, app: OAuthApp, keys: AppKeys, purpose: Purpose) -> Grant:
        """JWT bearer grant (RFC 7523 2.1) of a service account with delegation."""
        app.check("service-account")
        if not keys.service_account:
            raise SecretMissing(keys.account_id, "service_account")
        await self._https.ready()
        endpoint = app.token_endpoint()
        from relay.credentials.oauth import assertions  # here: certificates cost 2 MB that few daemons need

        assertion = await asyncio.to_thread(
            assertions.service_account_assertion,
            keys.service_account,
            subject=app.subject,
            scope=app.scopes("service-account", purpose),
            audience=endpoint,
            now_s=int(self._now_s()),
        )
        mask(assertion)
        form = _encoded(assertions.JWT_BEARER, assertion=assertion)
        answer = await self._post(keys.account_id, endpoint, form, {})
        return grant_of(answer.body)

    async def refresh(
        self, app: OAuthApp, keys: AppKeys, refresh_token: str, purpose: Purpose, flow: Flow = "oauth-code"
    ) -> Grant:
        """A new access token (RFC 6749 6); `Grant.refresh_token` replaces the old one when it is not None."""
        return await self._token(
            app, keys, "refresh_token", refresh_token=refresh_token, scope=app.scopes(flow, purpose)
        )

    async def _token(self, app: OAuthApp, keys: AppKeys, grant_type: str, **values: str) -> Grant:
        given = {name: value for name, value in values.items() if value}
        answer = await self._ask(app, keys, app.token_endpoint(), given, grant_type)
        return grant_of(answer.body)

    async def _ask(
        self, app: OAuthApp, keys: AppKeys, url: str, values: dict[str, str], grant_type: str = ""
    ) -> Answer:
        """Post with the app's own proof: certificate, secret, or its id alone (RFC 6749 2.3, 3.2.1)."""
        await self._https.ready()
        from authlib.oauth2.auth import ClientAuth

        headers = {"content-type": "application/x-www-form-urlencoded;charset=UTF-8"}
        if keys.client_certificate:
            from relay.credentials.oauth import assertions

            assertion = await asyncio.to_thread(
                assertions.client_assertion,
                keys.client_certificate,
                client_id=app.client_id,
                audience=app.token_endpoint(),
                now_s=int(self._now_s()),
            )
            mask(assertion)
            proof = {"client_assertion_type": assertions.ASSERTION_TYPE, "client_assertion": assertion}
            form = _encoded(grant_type, client_id=app.client_id, **proof, **values)
            return await self._post(keys.account_id, url, form, headers)
        secret = keys.client_secret or self._settings_secret(app)
        method = f"client_secret_{app.client_auth}" if secret else "none"
        proving = ClientAuth(app.client_id, secret, method)
        _, headers, form = proving.prepare("POST", url, headers, _encoded(grant_type, **values))
        return await self._post(keys.account_id, url, form, headers)

    def _settings_secret(self, app: OAuthApp) -> str | None:
        """For Google's own token endpoint alone: an account may name another, and must not get it sent there."""
        client_id, secret = self._google_secret
        fits = app.provider == "google" and app.client_id == client_id and not app.token_url
        return secret or None if fits else None

    async def _post(self, account_id: int, url: str, form: str, headers: Mapping[str, str]) -> Answer:
        """The answer of a server that said yes; the others are raised."""
        headers = {"content-type": "application/x-www-form-urlencoded;charset=UTF-8", **headers}
        answer = await self._https.post(account_id, url, form, headers)
        if answer.status == 429:
            raise TokenUnavailable("busy", answer.retry_after_s)
        if answer.status >= 500:
            raise TokenUnavailable("server-error", answer.retry_after_s)
        if 300 <= answer.status < 400:
            raise TokenUnavailable("redirected")
        if "error" in answer.body:
            refusal = refusal_of(answer.body)
            if transient(refusal.error):
                raise TokenUnavailable("server-error", answer.retry_after_s)
            raise refusal
        if answer.status != 200:
            raise TokenUnavailable("bad-answer")  # some gateway's page, not the provider's word
        return answer


def _encoded(grant_type: str, **values: str) -> str:
    from authlib.common.urls import url_encode

    pairs = [("grant_type", grant_type)] if grant_type else []
    encoded: str = url_encode([*pairs, *values.items()])
    return encoded
