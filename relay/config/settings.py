"""What can be set: one frozen section per room, safe by default, checked once at start.

Constructing a model reads neither environment nor files (`check.load` does), so a test gets what it writes.  Each
field's description and form become `relay.env.example` and the error lines.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

import relay
from relay.config.console import ConsoleSettings as ConsoleSettings
from relay.config.database import DatabaseSettings as DatabaseSettings
from relay.config.doors import ListenerSettings as ListenerSettings
from relay.config.egress import EgressSettings as EgressSettings
from relay.config.fields import (
    Addresses,
    Count,
    Directory,
    ExistingFile,
    Form,
    Host,
    LogFormat,
    LogLevel,
    Octets,
    OptionalAddress,
    Port,
    Seconds,
    SecondsOrZero,
    Section,
    SomeOctets,
    Tls,
    Urls,
    YesNo,
)
from relay.config.telemetry import TelemetrySettings as TelemetrySettings
from relay.config.trust import trust_anchor
from relay.config.wording import Wrong


class DispatchSettings(Section):
    """Retries, lifetime, pace of the lanes."""

    first_retry_s: Seconds = Field(default=60, description="wait before the first retry; doubles from there, jittered")
    max_retry_s: Seconds = Field(default=3600, description="longest wait between retries")
    lifetime_s: Seconds = Field(
        default=432_000, description="age at which a message expires (RFC 5321 4.5.4.1: 4-5 days)"
    )
    delay_notice_s: SecondsOrZero = Field(
        default=14_400, description="age at which its sender is told that it waits (0: never)"
    )
    probe_s: SecondsOrZero = Field(
        default=1200, description="how often a suspended login is tried (0: after a person acted)"
    )
    login_check_s: SecondsOrZero = Field(
        default=86_400, description="how often the login of an account without mail is tried (0: never)"
    )
    direct_timeout_s: Seconds = Field(
        default=20, description="how long clients with direct answers wait for the provider's verdict"
    )
    memory_bytes: Octets = Field(default=16_777_216, description="contents of fresh messages kept in memory, in all")
    grace_s: SecondsOrZero = Field(default=30, description="time that deliveries under way get at shutdown")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_retry_s < self.first_retry_s:
            raise Wrong(
                "max_retry_s",
                f"{self.max_retry_s:g} is below FIRST_RETRY_S, {self.first_retry_s:g}; give at least that",
            )
        both = {"lifetime_s", "delay_notice_s"} <= self.model_fields_set
        if both and self.delay_notice_s >= self.lifetime_s:
            raise Wrong(
                "delay_notice_s",
                f"{self.delay_notice_s:g} is not below LIFETIME_S, {self.lifetime_s:g}; give less, or 0",
            )
        return self


def _https_place(url: str) -> str:
    """`https://host` or `https://host:port`: nothing in it may send a token elsewhere or in clear text."""
    right = "give https://HOST or https://HOST:PORT, without a path"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise Wrong("", f"not the address of an HTTPS service; {right}") from None
    if parts.scheme != "https" or not parts.hostname or port == 0:
        raise Wrong("", f"not the address of an HTTPS service; {right}")
    if parts.username is not None or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise Wrong("", f"more than the address of a service; {right}")
    if not re.fullmatch(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]+", parts.hostname):
        raise Wrong("", f"not a host name; {right}")
    return f"https://{parts.netloc.lower()}"


_HttpsPlace = Annotated[
    str, AfterValidator(_https_place), Form("an HTTPS address", "https://HOST or https://HOST:PORT")
]


class SubmissionSettings(Section):
    """Back door: time-outs by stage (RFC 5321 4.5.3.2), connection reuse; the HTTP APIs of providers."""

    connect_timeout_s: Seconds = Field(default=30, description="to connect, TLS handshake included")
    command_timeout_s: Seconds = Field(
        default=300, description="for the replies to greeting, EHLO, AUTH, MAIL and RCPT"
    )
    data_timeout_s: Seconds = Field(default=120, description="for the reply to DATA")
    block_timeout_s: Seconds = Field(default=180, description="to hand over one block of content")
    done_timeout_s: Seconds = Field(
        default=600, description="for the reply to the final dot; giving up early makes duplicates"
    )
    stage_timeout_s: Seconds | None = Field(default=None, description="caps every time-out above")
    idle_s: Seconds = Field(default=60, description="how long an unused connection is kept")
    max_messages_per_connection: Count = Field(default=100, description="messages before a connection is replaced")
    ehlo_name: Host | None = Field(default=None, description="our name in EHLO (none: this machine's)")
    graph_url: _HttpsPlace | None = Field(
        default=None, description="where Microsoft Graph is, https://HOST[:PORT] (none: by the account's cloud)"
    )
    graph_request_bytes: SomeOctets = Field(
        default=4_194_304, description="largest request to Microsoft Graph; mail takes 4/3 of its size"
    )
    gmail_url: _HttpsPlace | None = Field(
        default=None, description="where the Gmail API is, https://HOST[:PORT] (none: gmail.googleapis.com)"
    )
    gmail_message_bytes: SomeOctets = Field(default=36_700_160, description="largest message to the Gmail API")
    api_ca_file: ExistingFile | None = Field(
        default=None, description="CA file trusted for these APIs, besides the system's"
    )


class QueueSettings(Section):
    """Where contents are kept, and for how long."""

    inline_bytes: Octets = Field(
        default=65_536, description="contents up to this size live in the database, larger ones in files"
    )
    min_free_bytes: Octets | None = Field(
        default=None,
        description="free space below which no mail is taken (none: 1.5 x MAX_MESSAGE_BYTES or 5 %, at most 1 GiB)",
    )
    history_days: Count = Field(default=30, description="how long settled deliveries stay visible")


class LogSettings(Section):
    """Log lines on standard output."""

    format: LogFormat | None = Field(
        default=None, description="console or json", json_schema_extra={"default": "console on a terminal, else json"}
    )
    level: LogLevel = Field(default="info", description="least level that is written: debug, info, warning or error")


_AppId = Annotated[
    str,
    Field(pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,254})?$"),
    Form("an id", "letters, digits, dots and hyphens, as the provider shows it"),
]


class OAuthSettings(Section):
    """OAuth sign-in: what accounts take that name no app of their own."""

    microsoft_client_id: _AppId = Field(default="", description="id of your app registration at Microsoft")
    microsoft_tenant: _AppId = Field(
        default="", description="its tenant: an id, a domain, or organizations (none: organizations)"
    )
    google_client_id: _AppId = Field(default="", description="id of your OAuth client at Google")
    google_client_secret: Annotated[SecretStr | None, Form("a secret", "what Google gave with the id")] = Field(
        default=None, description="its secret; better as a file in the secrets folder"
    )
    ca_file: ExistingFile | None = Field(
        default=None, description="CA file trusted for token endpoints, besides the system's"
    )


class NoticesSettings(Section):
    """Mail of our own: trouble with an account, mail that came to nothing or waits."""

    account: OptionalAddress = Field(
        default="", description="account that sends notices of trouble (none: a healthy one, of the same domain first)"
    )
    administrator: Addresses = Field(default=(), description="who is told of trouble with accounts, with all details")
    urls: Urls = Field(default=(), description="chats, webhooks, pagers to tell as well: Apprise URLs, kept secret")
    repeat_s: Seconds = Field(default=86_400, description="how often trouble that lasts is told again")
    url_timeout_s: Seconds = Field(default=30, description="how long all those URLs together may take")
    bounces: YesNo = Field(default=True, description="tell senders what came to nothing or waits (RFC 3464)")
    per_hour: Count = Field(default=20, description="notices an hour to one person, and to the senders of one account")


class NodeSettings(Section):
    """This daemon among others on one PostgreSQL; of no effect with SQLite."""

    name: Host | None = Field(default=None, description="what people know it by (none: this machine's name)")
    lease_s: Seconds = Field(
        default=60, description="how long it may be silent before others take over; the same on all nodes"
    )
    idle_s: Seconds = Field(default=600, description="how long it keeps an account that has no mail")


class MailboxSettings(Section):
    """Accounts' mailboxes over IMAP: mail that came back, copies of what was sent."""

    poll_s: Seconds = Field(default=300, description="how often a mailbox is looked at for mail that came back")
    copy_gather_s: SecondsOrZero = Field(
        default=10, description="how long copies for Sent wait for others, so that several need one login"
    )
    copy_lifetime_s: Seconds = Field(default=259_200, description="how long a copy for Sent is tried")


class UpstreamDefaults(Section):
    """The upstream of accounts that name none; set by SMTP_AUTH_*. `trust` is as `trust.trust_anchor` writes it."""

    host: Host = Field(default="smtp.office365.com", description="upstream of accounts that name none")
    port: Port = Field(default=587, description="its port")
    tls: Tls = "starttls"
    trust: str | None = Field(
        default=None, description="CA file, sha256:<fingerprint>, or name:<host name in the certificate>"
    )

    @field_validator("trust")
    @classmethod
    def _anchored(cls, trust: str | None) -> str | None:
        if trust is None:
            return None
        try:
            return trust_anchor(trust)
        except ValueError as error:
            raise Wrong("", str(error)) from None


class ImapDefaults(Section):
    """The IMAP server of accounts that name none; set by IMAP_*."""

    host: Host = Field(default="outlook.office365.com", description="IMAP server of accounts that name none")
    port: Port = Field(default=993, description="its port")
    tls: Tls = "implicit"


def _default_data_dir() -> Path:
    """`var` in a source checkout (pyproject.toml beside the package), else /var/lib/relay."""
    checkout = Path(relay.__file__).resolve().parent.parent
    return checkout / "var" if (checkout / "pyproject.toml").is_file() else Path("/var/lib/relay")


class RelaySettings(BaseSettings):
    """Everything, resolved: paths absolute, `database.url` filled in. Parts are handed their own section only."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, env_prefix="RELAY_")

    data_dir: Directory = Field(
        default_factory=_default_data_dir,
        description="database, spool, control socket",
        json_schema_extra={"default": "./var in a checkout, else /var/lib/relay"},
    )
    keys_dir: Directory = Field(
        default_factory=lambda data: data.get("data_dir", Path()) / "keys",
        description="key ring: one file a key, mode 0600",
        json_schema_extra={"default": "<data dir>/keys"},
    )
    accounts_file: ExistingFile | None = Field(default=None, description="accounts, senders, clients declared in TOML")
    listeners: tuple[ListenerSettings, ...] = Field(
        default=(),
        description='several front doors: a JSON list such as [{"port": 2525}, {"host": "10.1.2.3", "port": 25}]',
    )
    listener: ListenerSettings = ListenerSettings()
    dispatch: DispatchSettings = DispatchSettings()
    submission: SubmissionSettings = SubmissionSettings()
    egress: EgressSettings = EgressSettings()
    queue: QueueSettings = QueueSettings()
    database: DatabaseSettings = DatabaseSettings()
    console: ConsoleSettings = ConsoleSettings()
    log: LogSettings = LogSettings()
    oauth: OAuthSettings = OAuthSettings()
    notices: NoticesSettings = NoticesSettings()
    mailbox: MailboxSettings = MailboxSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    node: NodeSettings = NodeSettings()
    upstream: UpstreamDefaults = UpstreamDefaults()
    imap: ImapDefaults = ImapDefaults()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: `check.load` reads the sources, and can name who set a wrong value."""
        return (init_settings,)

    @cached_property
    def doors(self) -> tuple[ListenerSettings, ...]:
        """The listeners to open: `listeners`, or `listener` alone."""
        return self.listeners or (self.listener,)

    @property
    def max_message_bytes(self) -> int:
        """Of the largest message that any door takes."""
        return max(door.max_message_bytes for door in self.doors)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.database.url:
            object.__setattr__(self, "database", DatabaseSettings(url=f"sqlite:///{self.data_dir / 'relay.db'}"))
        if self.listeners and "listener" in self.model_fields_set:
            raise Wrong("listeners", "set together with RELAY_LISTENER__*; give one or the other")
        taken: set[tuple[str, int]] = set()
        for door in self.doors:
            place = (str(door.path), -1) if door.path is not None else (door.host, door.port)
            if place[1] and place in taken:
                raise Wrong("listeners", f"{door.address} appears twice; give each door its own")
            taken.add(place)
        names = [door.name for door in self.doors if door.name is not None]
        if len(set(names)) < len(names):
            raise Wrong("listeners", "two doors have the same name; give each door its own")
        if self.console.enabled and self.console.port and (self.console.host, self.console.port) in taken:
            raise Wrong("console__port", f"{self.console.port} is the front door's as well; give another one")
        return self
