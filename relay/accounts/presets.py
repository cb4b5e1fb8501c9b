"""What is known of providers before anybody typed it: host, port, TLS, limits. Data, each figure a default."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from relay.accounts.model import Tls, TransportKind

_BOTH = ("PLAIN", "LOGIN")


@dataclass(frozen=True, slots=True)
class Preset:
    """A provider. `host` None: the account must name it (or takes the settings' default, for `default`, `custom`).

    `mechanisms`: what EHLO usually lists after TLS, for help text.  `login`: a user name that is the same for
    everybody.  Limits of 0: none of ours.  `per_day` counts recipients.  `hosts`: patterns of its other host names.
    `api`: the other transport it offers, an HTTP API; `smtp`: none.
    `oauth`: the OAuth provider that knows its mailboxes, with `cloud` and `tenant` as that has them; "": none is known.
    `imap`: where its mailboxes are read, port 993 with TLS from the first octet; "": not known, or there are none.
    `sent`: who files what was sent in its mailbox, the provider by itself (or by a setting of its own) or the program
    by APPEND; "": not known, or there are no mailboxes.
    `password_until`: the last day (ISO 8601) on which a password is sure to be taken, `password_note`: what then.
    """

    id: str
    name: str
    host: str | None
    port: int | None = 587
    tls: Tls | None = "starttls"
    mechanisms: tuple[str, ...] = _BOTH
    login: str | None = None
    max_connections: int = 4
    per_minute: int = 0
    per_day: int = 0
    recipients_per_transaction: int = 100
    hosts: tuple[str, ...] = ()
    api: TransportKind = "smtp"
    oauth: str = ""
    cloud: str = "global"
    tenant: str = ""
    password_until: str = ""
    password_note: str = ""
    imap: str = ""
    sent: Literal["itself", "append", ""] = ""


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """What a provider's HTTP API takes, each figure a default. As in Preset."""

    name: str
    max_connections: int
    per_minute: int
    per_day: int
    recipients_per_message: int


APIS: dict[TransportKind, ApiLimits] = {
    # 4 requests at a time and 10,000 in 10 minutes; the mailbox's own limits are those of SMTP.
    "graph": ApiLimits("Microsoft Graph", 4, 25, 10_000, 300),
    # A message costs 100 of 6,000 units that a user has in a minute; the limits of a day are those of SMTP.
    "gmail": ApiLimits("Gmail API", 4, 50, 2_000, 100),
}

GRAPH_HOSTS = {  # by Microsoft's national clouds
    "global": "graph.microsoft.com",
    "gcch": "graph.microsoft.us",
    "dod": "dod-graph.microsoft.us",
    "cn": "microsoftgraph.chinacloudapi.cn",
}
GMAIL_HOST = "gmail.googleapis.com"

_BASIC_AUTH = "off by default afterwards, an administrator can switch it on again; the final end is not announced yet"


def _m365(name: str, title: str, host: str, *hosts: str, imap: str, cloud: str = "global") -> Preset:
    # 3 concurrent submissions, 30 messages a minute, 10,000 recipients in 24 hours, 500 recipients a message are
    # the mailbox's limits; a little below them nothing is ever refused after its body was sent.
    return Preset(
        name,
        title,
        host,
        mechanisms=("LOGIN", "XOAUTH2"),
        max_connections=2,
        per_minute=25,
        per_day=10_000,
        recipients_per_transaction=300,
        hosts=hosts,
        api="graph",
        oauth="microsoft",
        cloud=cloud,
        password_until="2026-12-31",  # noqa: S106  (a date)
        password_note=_BASIC_AUTH,
        imap=imap,
        sent="itself",
    )


PRESETS: dict[str, Preset] = {
    preset.id: preset
    for preset in (
        # An account that names no provider: the upstream of the settings (SMTP_AUTH_*), or the host it names.
        Preset("default", "the upstream of the settings (SMTP_AUTH_HOST)", None, None, None),
        Preset("custom", "any other submission server", None, None, None),
        _m365(
            "m365",
            "Microsoft 365",
            "smtp.office365.com",
            "outlook.office365.com",
            "smtp-legacy.office365.com",
            imap="outlook.office365.com",
        ),
        _m365(
            "m365-gcch",
            "Microsoft 365 GCC High",
            "outlook.office365.us",
            "smtp.office365.us",
            imap="outlook.office365.us",
            cloud="gcch",
        ),
        _m365(
            "m365-dod", "Microsoft 365 DoD", "outlook-dod.office365.us", imap="outlook-dod.office365.us", cloud="dod"
        ),
        _m365(
            "m365-cn",
            "Microsoft 365 by 21Vianet",
            "smtp.partner.outlook.cn",
            "smtp-legacy.partner.outlook.cn",
            imap="partner.outlook.cn",
            cloud="cn",
        ),
        Preset(
            "m365-hve",
            "Microsoft 365 High Volume Email",
            "smtp.hve.mx.microsoft",
            mechanisms=("LOGIN", "XOAUTH2"),
            recipients_per_transaction=50,  # of its own organisation; no rate limits
            hosts=("smtp-hve.office365.com",),
            oauth="microsoft-hve",
            password_until="2028-09-30",  # noqa: S106  (a date)
        ),
        Preset(
            "outlook-com",
            "Outlook.com, Hotmail, Live, MSN",
            "smtp-mail.outlook.com",
            mechanisms=("XOAUTH2",),
            max_connections=2,  # the numbers of a day are not published
            per_minute=25,
            api="graph",
            oauth="microsoft",
            tenant="consumers",
            imap="outlook.office365.com",
            sent="itself",
            password_until="2024-09-16",  # noqa: S106  (a date)
            password_note="passwords and app passwords are refused since",  # noqa: S106
        ),
        Preset(
            "acs-email",
            "Azure Communication Services Email",
            "smtp.azurecomm.net",
            mechanisms=("LOGIN", "PLAIN"),
            per_minute=25,  # 30 a minute and 100 an hour until support raises them
            per_day=2_400,
            recipients_per_transaction=50,
        ),
        Preset(
            "gmail",
            "Gmail and Google Workspace",
            "smtp.gmail.com",
            mechanisms=("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"),
            # 2,000 messages a day (500 for personal and trial accounts), 3,000 outside recipients: counted in
            # recipients, 2,000 keeps clear of both.
            per_day=2_000,
            hosts=("smtp.googlemail.com",),
            imap="imap.gmail.com",
            sent="itself",
            api="gmail",
            oauth="google",
            password_note="app passwords only, with 2-Step Verification; void when the password changes",  # noqa: S106
        ),
        Preset(
            "gmail-relay",
            "Google Workspace SMTP relay",
            "smtp-relay.gmail.com",
            mechanisms=("PLAIN", "LOGIN", "XOAUTH2"),
            per_day=10_000,  # for each envelope sender
            oauth="google",
            password_note="app passwords only, with 2-Step Verification; void when the password changes",  # noqa: S106
        ),
        Preset(
            "yahoo",
            "Yahoo",
            "smtp.mail.yahoo.com",
            465,
            "implicit",
            max_connections=2,
            per_day=500,
            imap="imap.mail.yahoo.com",
            sent="itself",
        ),
        Preset(
            "aol",
            "AOL",
            "smtp.aol.com",
            465,
            "implicit",
            max_connections=2,
            per_day=500,
            imap="imap.aol.com",
            sent="itself",
        ),
        # 1,000 messages and 1,000 recipients a day; an older page says 100 recipients a message.
        Preset(
            "icloud",
            "iCloud Mail",
            "smtp.mail.me.com",
            max_connections=2,
            per_day=1_000,
            imap="imap.mail.me.com",
            sent="append",
        ),
        Preset(
            "zoho",
            "Zoho Mail",
            "smtp.zoho.com",
            465,
            "implicit",
            max_connections=2,
            recipients_per_transaction=50,
            hosts=("smtp.zoho.*", "smtppro.zoho.*", "smtp.zohocloud.ca"),
            imap="imap.zoho.com",
            sent="itself",
        ),
        Preset("fastmail", "Fastmail", "smtp.fastmail.com", 465, "implicit", imap="imap.fastmail.com", sent="itself"),
        Preset(
            "ses",
            "Amazon SES",
            None,  # a host for each region
            recipients_per_transaction=50,
            hosts=("email-smtp.*.amazonaws.com", "email-smtp-fips.*.amazonaws.com"),
        ),
        Preset("sendgrid", "SendGrid", "smtp.sendgrid.net", login="apikey", hosts=("smtp.eu.sendgrid.net",)),
        Preset("mailgun", "Mailgun", "smtp.mailgun.org", hosts=("smtp.eu.mailgun.org",)),
        Preset("brevo", "Brevo", "smtp-relay.brevo.com"),
        Preset("postmark", "Postmark", "smtp.postmarkapp.com", mechanisms=("PLAIN",), recipients_per_transaction=50),
        Preset("mailjet", "Mailjet", "in.mailjet.com", recipients_per_transaction=50, hosts=("in-v3.mailjet.com",)),
        Preset("smtp2go", "SMTP2GO", "mail.smtp2go.com"),
        Preset("resend", "Resend", "smtp.resend.com", 465, "implicit", login="resend", recipients_per_transaction=50),
        Preset(
            "gmx",
            "GMX",
            "mail.gmx.net",
            465,
            "implicit",
            max_connections=2,
            hosts=("mail.gmx.com", "mail.gmx.*"),
            imap="imap.gmx.com",
            sent="append",
        ),
    )
}

_MAIL_DOMAINS = (  # patterns of the domains in which a provider gives out addresses
    ("gmail", ("gmail.com", "googlemail.com")),
    ("m365", ("*.onmicrosoft.com",)),
    ("outlook-com", ("outlook.*", "hotmail.*", "live.*", "msn.com", "passport.com")),
    ("yahoo", ("yahoo.*", "ymail.com", "rocketmail.com")),
    ("aol", ("aol.*", "aim.com")),
    ("icloud", ("icloud.com", "me.com", "mac.com")),
    ("zoho", ("zoho.*", "zohomail.*")),
    ("fastmail", ("fastmail.*",)),
    ("gmx", ("gmx.*",)),
)


def preset_by_host(host: str) -> Preset | None:
    """The provider that `host` belongs to, whatever it was called when the account was added."""
    host = host.lower().rstrip(".")
    for preset in PRESETS.values():
        if host == preset.host:
            return preset
    for preset in PRESETS.values():
        if any(fnmatchcase(host, pattern) for pattern in preset.hosts):
            return preset
    return None


def preset_for(address_or_host: str) -> Preset | None:
    """A guess, for help text only: the provider of a host name, or of an address in one of its own domains."""
    local, at, domain = address_or_host.strip().lower().rpartition("@")
    if not (local and at):
        return preset_by_host(domain)
    for name, patterns in _MAIL_DOMAINS:
        if any(fnmatchcase(domain, pattern) for pattern in patterns):
            return PRESETS[name]
    return None
