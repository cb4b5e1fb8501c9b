"""OAuth 2: how an account gets its access tokens, and keeps on getting them."""

from relay.credentials.oauth.app import OAuthApp, parse_oauth_app
from relay.credentials.oauth.errors import OAuthSettingsRefused, TokenRefused, TokenUnavailable
from relay.credentials.oauth.providers import Flow, Purpose

__all__ = [
    "Flow",
    "OAuthApp",
    "OAuthSettingsRefused",
    "Purpose",
    "TokenRefused",
    "TokenUnavailable",
    "parse_oauth_app",
]
