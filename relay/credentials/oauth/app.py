"""An account's OAuth settings: read, checked, written, and turned into endpoints and scopes. No secret is in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from relay.credentials.oauth.errors import OAuthSettingsRefused
from relay.credentials.oauth.providers import CLOUDS, PROVIDERS, Cloud, Flow, Provider, Purpose

MAX_JSON = 16384  # characters
_MAX_FIELD = 2048
_SHARED_TENANTS = frozenset({"common", "organizations", "consumers"})
_TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_URLS = ("authority", "token_url", "authorize_url", "device_url")


@dataclass(frozen=True, slots=True)
class OAuthApp:
    """How an account signs in. Empty: the provider's own, or not needed by the flow.

    `subject`: the mailbox a service account acts for.  `scope`: instead of the provider's, for every purpose but graph
    and gmail (of a generic provider: for every one).  `client_auth`: how a client secret is sent, `post` or `basic`.
    `certificate_sha256`: thumbprint of the client certificate, 64 hex digits, for people; the `…_expires_at` are
    for warnings, in ms since 1970, 0: unknown.
    """

    provider: str
    client_id: str = ""
    cloud: str = "global"
    tenant: str = ""
    authority: str = ""
    token_url: str = ""
    authorize_url: str = ""
    device_url: str = ""
    scope: str = ""
    subject: str = ""
    client_auth: str = "post"
    certificate_sha256: str = ""
    certificate_expires_at: int = 0
    secret_expires_at: int = 0

    @property
    def preset(self) -> Provider:
        """What is known of its provider."""
        return PROVIDERS[self.provider]

    def to_json(self) -> str:
        """The object that `parse_oauth_app` reads; settings that are as by default are left out."""
        default = OAuthApp(self.provider)
        chosen = {
            name: value for name, value in asdict(self).items() if name == "provider" or value != getattr(default, name)
        }
        return json.dumps(chosen, ensure_ascii=False, sort_keys=True)

    def token_endpoint(self) -> str:
        """Raises OAuthSettingsRefused when there is none."""
        return self._endpoint("token_url", self.token_url, self.preset.token)

    def authorize_endpoint(self) -> str:
        """Raises OAuthSettingsRefused when there is none."""
        return self._endpoint("authorize_url", self.authorize_url, self.preset.authorize)

    def device_endpoint(self) -> str:
        """Raises OAuthSettingsRefused when there is none."""
        return self._endpoint("device_url", self.device_url, self.preset.device)

    def scopes(self, flow: Flow, purposes: Purpose | Iterable[Purpose]) -> str:
        """The scopes to ask for. Raises OAuthSettingsRefused: an unknown purpose, or some that never go together."""
        wanted: tuple[Purpose, ...] = (purposes,) if isinstance(purposes, str) else tuple(purposes)
        words = dict.fromkeys(word for purpose in wanted for word in self._scope(flow, purpose).split())
        resources = {word.rpartition("/")[0] for word in words if "/" in word}
        if self.preset.tenant and not self.scope and len(resources) > 1:
            raise OAuthSettingsRefused("purpose", "cannot be joined: a Microsoft token is for mail or for Graph")
        return " ".join(words)

    def check(self, flow: Flow, purpose: Purpose = "smtp") -> None:
        """Raise OAuthSettingsRefused unless `flow` can work with these settings."""
        provider = self.preset
        if flow not in provider.flows:
            raise OAuthSettingsRefused("auth", f"{flow} is nothing {provider.name} offers for mail")
        if flow == "service-account":
            if not self.subject:
                raise OAuthSettingsRefused("subject", "is missing: the mailbox the service account acts for")
        elif not self.client_id:
            raise OAuthSettingsRefused("client_id", "is missing")
        if flow == "oauth-app" and provider.tenant and (self.tenant or provider.tenant) in _SHARED_TENANTS:
            raise OAuthSettingsRefused("tenant", "must be the organisation's id or domain: an app signs in to one only")
        self.token_endpoint()
        if flow == "oauth-code":
            self.authorize_endpoint()
        if flow == "oauth-device":
            self.device_endpoint()
        self.scopes(flow, purpose)

    def _cloud(self) -> Cloud:
        return CLOUDS[self.cloud]

    def _endpoint(self, name: str, given: str, known: str) -> str:
        url = given or known.format(
            authority=(self.authority or self._cloud().authority).rstrip("/"), tenant=self.tenant or self.preset.tenant
        )
        if not url:
            raise OAuthSettingsRefused(name, "is missing")
        return url

    def _scope(self, flow: Flow, purpose: Purpose) -> str:
        provider = self.preset
        if self.scope and (purpose in ("smtp", "imap") or provider.id == "generic"):
            return self.scope
        known = provider.own if flow in ("oauth-app", "service-account") else provider.delegated
        if purpose in known:
            cloud = self._cloud()
            return known[purpose].format(delegated=cloud.delegated, own=cloud.own, graph=cloud.graph)
        if provider.id == "generic" and purpose in ("smtp", "imap"):
            return ""  # RFC 6749 3.3: the server's default
        raise OAuthSettingsRefused("purpose", f"{purpose} is nothing {provider.name} offers")


def parse_oauth_app(given: str | Mapping[str, Any]) -> OAuthApp:
    """Read settings from JSON or an object. Raises OAuthSettingsRefused for what is unknown, too long or malformed."""
    if isinstance(given, str):
        if len(given) > MAX_JSON:
            raise OAuthSettingsRefused("oauth", "is too long")
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise OAuthSettingsRefused("oauth", "is no JSON") from None
    if not isinstance(given, Mapping):
        raise OAuthSettingsRefused("oauth", "is no object")
    kinds = {known.name: (int if known.name.endswith("_expires_at") else str) for known in fields(OAuthApp)}
    for name, value in given.items():
        if name not in kinds:
            raise OAuthSettingsRefused(str(name)[:64], "is no OAuth setting")
        if type(value) is not kinds[name]:
            raise OAuthSettingsRefused(name, f"must be {'a number' if kinds[name] is int else 'text'}")
        if isinstance(value, str):
            _check_text(name, value)
    if "provider" not in given:
        raise OAuthSettingsRefused("provider", "is missing")
    app = OAuthApp(**given)
    _check_values(app)
    return app


def _check_text(name: str, value: str) -> None:
    if len(value) > _MAX_FIELD:
        raise OAuthSettingsRefused(name, "is too long")
    if not value.isprintable() or value != value.strip():
        raise OAuthSettingsRefused(name, "contains characters that do not belong there")


def _check_values(app: OAuthApp) -> None:
    if app.provider not in PROVIDERS:
        raise OAuthSettingsRefused("provider", f"must be one of {', '.join(PROVIDERS)}")
    if app.cloud not in CLOUDS:
        raise OAuthSettingsRefused("cloud", f"must be one of {', '.join(CLOUDS)}")
    if app.client_auth not in ("post", "basic"):
        raise OAuthSettingsRefused("client_auth", "must be post or basic")
    if app.tenant and not _TENANT.fullmatch(app.tenant):
        raise OAuthSettingsRefused("tenant", "must be an id, a domain, organizations, common or consumers")
    if app.certificate_sha256 and not _SHA256.fullmatch(app.certificate_sha256):
        raise OAuthSettingsRefused("certificate_sha256", "must be 64 hex digits")
    for name in ("certificate_expires_at", "secret_expires_at"):
        if not 0 <= getattr(app, name) < 1 << 52:
            raise OAuthSettingsRefused(name, "must be a time in ms since 1970")
    for name in _URLS:
        url = getattr(app, name)
        if url and not _good_url(url):
            raise OAuthSettingsRefused(name, "must be an https URL without user or fragment")


def _good_url(url: str) -> bool:
    """RFC 6749 3.1, 3.2: TLS, no fragment."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises ValueError)
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and "#" not in url
        and " " not in url
    )
