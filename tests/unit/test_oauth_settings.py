"""OAuth settings and what is known of providers: read, refused, turned into endpoints and scopes; errors explained."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from relay.credentials.oauth import Flow, OAuthApp, OAuthSettingsRefused, Purpose, parse_oauth_app
from relay.credentials.oauth.providers import FLOWS, PROVIDERS
from relay.diagnosis.token_errors import explain_token_error

CONTOSO = OAuthApp("microsoft", client_id="app-1", tenant="contoso.example")


def test_settings_come_back_as_they_were_written_without_what_is_default() -> None:
    app = OAuthApp("microsoft", client_id="app-1", tenant="contoso.example", cloud="gcch", secret_expires_at=5)
    assert parse_oauth_app(app.to_json()) == app
    assert json.loads(CONTOSO.to_json()) == {
        "provider": "microsoft",
        "client_id": "app-1",
        "tenant": "contoso.example",
    }


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "provider"),
        ({"provider": "nobody"}, "provider"),
        ({"provider": "microsoft", "client_secret": "x"}, "client_secret"),
        ({"provider": "microsoft", "cloud": "mars"}, "cloud"),
        ({"provider": "microsoft", "tenant": "a/../b"}, "tenant"),
        ({"provider": "microsoft", "client_id": 7}, "client_id"),
        ({"provider": "microsoft", "client_id": "a\nb"}, "client_id"),
        ({"provider": "microsoft", "client_id": "a" * 3000}, "client_id"),
        ({"provider": "generic", "token_url": "http://x.example/token"}, "token_url"),
        ({"provider": "generic", "token_url": "https://u:p@x.example/token"}, "token_url"),
        ({"provider": "generic", "token_url": "https://x.example:port/"}, "token_url"),
        ({"provider": "generic", "authority": "https://x.example/#f"}, "authority"),
        ({"provider": "generic", "client_auth": "jwt"}, "client_auth"),
        ({"provider": "microsoft", "certificate_sha256": "AB"}, "certificate_sha256"),
        ({"provider": "microsoft", "secret_expires_at": -1}, "secret_expires_at"),
        ({"provider": "microsoft", "secret_expires_at": True}, "secret_expires_at"),
    ],
)
def test_a_setting_that_cannot_work_is_named(given: dict[str, object], field: str) -> None:
    with pytest.raises(OAuthSettingsRefused) as refused:
        parse_oauth_app(given)
    assert refused.value.field == field
    with pytest.raises(OAuthSettingsRefused):
        parse_oauth_app(json.dumps(given))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "1" * 20000, "[" * 9000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(OAuthSettingsRefused):
        parse_oauth_app(text)


@pytest.mark.parametrize(
    ("cloud", "flow", "purpose", "scope"),
    [
        ("global", "oauth-code", "smtp", "https://outlook.office.com/SMTP.Send offline_access"),
        ("global", "oauth-device", "imap", "https://outlook.office.com/IMAP.AccessAsUser.All offline_access"),
        ("global", "oauth-app", "smtp", "https://outlook.office365.com/.default"),
        ("global", "oauth-app", "graph", "https://graph.microsoft.com/.default"),
        ("gcch", "oauth-app", "smtp", "https://outlook.office365.us/.default"),
        ("dod", "oauth-code", "graph", "https://dod-graph.microsoft.us/Mail.Send offline_access"),
        ("cn", "oauth-app", "imap", "https://partner.outlook.cn/.default"),
    ],
)
def test_each_cloud_has_its_scopes(cloud: str, flow: Flow, purpose: Purpose, scope: str) -> None:
    assert OAuthApp("microsoft", client_id="a", cloud=cloud).scopes(flow, purpose) == scope


def test_each_cloud_has_its_endpoints() -> None:
    app = OAuthApp("microsoft", client_id="a", cloud="cn", tenant="contoso.example")
    assert app.token_endpoint() == "https://login.partner.microsoftonline.cn/contoso.example/oauth2/v2.0/token"
    shared = OAuthApp("microsoft", client_id="a")
    assert shared.device_endpoint() == "https://login.microsoftonline.com/organizations/oauth2/v2.0/devicecode"


def test_mail_and_graph_are_never_asked_for_together() -> None:
    both = CONTOSO.scopes("oauth-code", ("smtp", "imap"))
    assert both == (
        "https://outlook.office.com/SMTP.Send offline_access https://outlook.office.com/IMAP.AccessAsUser.All"
    )
    with pytest.raises(OAuthSettingsRefused):
        CONTOSO.scopes("oauth-code", ("smtp", "graph"))


@pytest.mark.parametrize(
    ("app", "flow", "field"),
    [
        (OAuthApp("microsoft"), "oauth-code", "client_id"),
        (OAuthApp("microsoft", client_id="a"), "oauth-app", "tenant"),
        (OAuthApp("microsoft", client_id="a", tenant="common"), "oauth-app", "tenant"),
        (OAuthApp("microsoft", client_id="a"), "service-account", "auth"),
        (OAuthApp("google", client_id="a"), "oauth-device", "auth"),
        (OAuthApp("google"), "service-account", "subject"),
        (OAuthApp("generic", client_id="a"), "oauth-app", "token_url"),
        (OAuthApp("generic", client_id="a", token_url="https://x.example/t"), "oauth-code", "authorize_url"),
        (OAuthApp("generic", client_id="a", token_url="https://x.example/t"), "oauth-device", "device_url"),
    ],
)
def test_a_flow_that_cannot_work_is_refused_before_anybody_is_asked(app: OAuthApp, flow: Flow, field: str) -> None:
    with pytest.raises(OAuthSettingsRefused) as refused:
        app.check(flow)
    assert refused.value.field == field


def test_every_provider_but_the_generic_one_can_send_by_each_of_its_flows() -> None:
    for provider in PROVIDERS.values():
        for flow in provider.flows if provider.id != "generic" else ():
            OAuthApp(provider.id, client_id="a", tenant="x.example", subject="ann@x.example").check(flow)
    assert set(PROVIDERS["microsoft"].flows) | {"service-account"} == set(FLOWS)


def test_the_error_decides_and_the_number_tells() -> None:
    ended = explain_token_error("invalid_client", 7000222)
    assert (ended.id, ended.scope, ended.retry, ended.who) == ("aadsts7000222", "app", False, "administrator")
    assert "secret has ended" in ended.cause
    assert explain_token_error("invalid_grant", 7000222).scope == "account"
    assert explain_token_error("", 7000222).scope == "app"
    assert explain_token_error("temporarily_unavailable", None).retry
    assert explain_token_error("invalid_grant", 1).id == "invalid-grant"
    assert explain_token_error("no_such_error", 1).id == "token-refused"


def test_nothing_of_http_or_oauth_is_loaded_before_it_is_needed() -> None:
    program = (
        "import sys, relay.credentials.oauth.tokens, relay.credentials.oauth.client, relay.credentials.oauth.http\n"
        "print([name for name in ('httpx', 'authlib', 'joserfc', 'anyio') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == "[]"
