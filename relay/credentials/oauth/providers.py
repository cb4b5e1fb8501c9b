"""What is known of OAuth providers before anybody typed it: endpoints, scopes, habits. Data, each a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from relay.accounts.presets import GRAPH_HOSTS

Purpose = Literal["smtp", "imap", "graph", "gmail"]
Flow = Literal["oauth-code", "oauth-device", "oauth-app", "service-account"]

PURPOSES: tuple[Purpose, ...] = ("smtp", "imap", "graph", "gmail")
FLOWS: tuple[Flow, ...] = ("oauth-code", "oauth-device", "oauth-app", "service-account")

DAY_S = 86400
_EARLY_S = 600


@dataclass(frozen=True, slots=True)
class Provider:
    """`authorize`, `token`, `device`: URLs, with `{authority}` and `{tenant}` where a provider has them; "": none.

    `delegated`: scopes for the flows with a person, by purpose; `own`: those with none (app or service account).
    `early_s`: refresh so long before an access token ends.  `idle_s`: use a grant at least so often; it dies when
    unused for 90 days at Microsoft, six months at Google.  `extras`: further parameters of the authorization request.
    """

    id: str
    name: str
    authorize: str = ""
    token: str = ""
    device: str = ""
    tenant: str = ""
    flows: tuple[Flow, ...] = FLOWS
    delegated: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, str] = field(default_factory=dict)
    early_s: int = _EARLY_S
    idle_s: int = 7 * DAY_S
    grant_life_s: int = 0


@dataclass(frozen=True, slots=True)
class Cloud:
    """A national cloud of Microsoft. `delegated`, `own`: the mail resource as the two kinds of flow name it."""

    authority: str
    delegated: str
    own: str
    graph: str


CLOUDS: dict[str, Cloud] = {
    "global": Cloud(
        "https://login.microsoftonline.com",
        "https://outlook.office.com",
        "https://outlook.office365.com",
        f"https://{GRAPH_HOSTS['global']}",
    ),
    "gcch": Cloud(
        "https://login.microsoftonline.us",
        "https://outlook.office365.us",
        "https://outlook.office365.us",
        f"https://{GRAPH_HOSTS['gcch']}",
    ),
    # Some clients name outlook-dod.office365.us instead; a scope of the account's own overrides it.
    "dod": Cloud(
        "https://login.microsoftonline.us",
        "https://outlook.office365.us",
        "https://outlook.office365.us",
        f"https://{GRAPH_HOSTS['dod']}",
    ),
    "cn": Cloud(
        "https://login.partner.microsoftonline.cn",
        "https://partner.outlook.cn",
        "https://partner.outlook.cn",
        f"https://{GRAPH_HOSTS['cn']}",
    ),
}


def _microsoft(name: str, title: str, smtp: str, *, early_s: int = _EARLY_S) -> Provider:
    return Provider(
        name,
        title,
        authorize="{authority}/{tenant}/oauth2/v2.0/authorize",
        token="{authority}/{tenant}/oauth2/v2.0/token",  # noqa: S106  (a URL)
        device="{authority}/{tenant}/oauth2/v2.0/devicecode",
        tenant="organizations",
        flows=("oauth-code", "oauth-device", "oauth-app"),
        # A token is for one resource; offline_access asks for the refresh token, which is good for all of them.
        delegated={
            "smtp": f"{{delegated}}/{smtp} offline_access",
            "imap": "{delegated}/IMAP.AccessAsUser.All offline_access",
            "graph": "{graph}/Mail.Send offline_access",
        },
        own={"smtp": "{own}/.default", "imap": "{own}/.default", "graph": "{graph}/.default"},
        extras={"prompt": "select_account"},
        early_s=early_s,
        grant_life_s=90 * DAY_S,
    )


PROVIDERS: dict[str, Provider] = {
    provider.id: provider
    for provider in (
        _microsoft("microsoft", "Microsoft 365 and Outlook.com", "SMTP.Send"),
        _microsoft("microsoft-hve", "Microsoft 365 High Volume Email", "Mail.Send", early_s=1200),
        Provider(
            "google",
            "Google",
            authorize="https://accounts.google.com/o/oauth2/v2/auth",
            token="https://oauth2.googleapis.com/token",  # noqa: S106  (a URL)
            flows=("oauth-code", "service-account"),  # its device flow knows no mail scope
            delegated={
                "smtp": "https://mail.google.com/",
                "imap": "https://mail.google.com/",
                "gmail": "https://www.googleapis.com/auth/gmail.send",
            },
            own={
                "smtp": "https://mail.google.com/",
                "imap": "https://mail.google.com/",
                "gmail": "https://www.googleapis.com/auth/gmail.send",
            },
            # Without both, a second consent returns no refresh token.
            extras={"access_type": "offline", "prompt": "consent"},
            idle_s=30 * DAY_S,
            grant_life_s=182 * DAY_S,
        ),
        Provider("generic", "any other OAuth 2 provider"),
    )
}
