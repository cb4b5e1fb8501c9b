"""Account, sender, client: what an administrator registers. Values only; `store` reads and writes them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

Tls = Literal["starttls", "implicit", "none"]
Auth = Literal["password", "none", "oauth-code", "oauth-device", "oauth-app", "service-account"]
TransportKind = Literal["smtp", "graph", "gmail"]
Fallback = Literal["none", "graph"]
FromPolicy = Literal["keep", "rewrite", "refuse"]
Answer = Literal["queued", "direct"]
ClientAuth = Literal["none", "login", "accept-any"]
Identity = Literal["envelope", "header", "map"]
InDoubtPolicy = Literal["retry", "hold"]
SentCopy = Literal["auto", "yes", "no"]


class AccountState(enum.StrEnum):
    """What the database remembers of an account's health; resting is kept by its lane alone."""

    OK = "ok"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Account:
    """One mailbox upstream. None in `host` to `per_day`: take the provider preset's, then the settings' default."""

    id: int
    address: str
    provider: str
    auth: Auth
    host: str | None = None
    port: int | None = None
    tls: Tls | None = None
    trust: str | None = None
    login: str | None = None
    max_connections: int | None = None  # 0: no limit
    per_minute: int | None = None  # messages; 0: no limit
    per_day: int | None = None  # recipients; 0: no limit
    in_doubt: InDoubtPolicy = "retry"
    proxy: str | None = None  # URL without a password, or "direct"; None in these three: as for all accounts
    source_address: str | None = None
    ip: str | None = None
    imap_host: str | None = None
    imap_port: int | None = None
    imap_tls: Tls | None = None
    imap_login: str | None = None
    transport: TransportKind = "smtp"
    fallback: Fallback = "none"  # the transport it moves to when its organisation refuses SMTP AUTH
    oauth: str = ""  # JSON that `credentials.oauth` reads; "": none.  No secret is in it
    owner: str | None = None  # who is told about trouble with it; None: its address
    null_sender: bool = False  # its upstream takes MAIL FROM:<>
    state: AccountState = AccountState.OK
    state_cause: str | None = None
    state_reply: str | None = None
    state_since: int | None = None  # ms since 1970
    revision: int = 1
    created_at: int = 0
    managed_by: str | None = None  # path of the accounts file that declares it; None: people manage it
    bounces: str | None = None  # folder of its mailbox in which mail that came back is looked for; None: it is not
    sent_copy: SentCopy = "auto"  # whether what was relayed is filed in its mailbox's Sent
    web_hosts: str | None = None  # of its hosts those that were named through the web, with commas between

    @property
    def owned_by(self) -> str:
        """The address of the person who answers for it."""
        return self.owner or self.address


@dataclass(frozen=True, slots=True)
class Upstream:
    """An account with every gap filled: where to connect, as whom, and within which limits.

    `host` and `port` are the submission server's, or with another `transport` those of the provider's API.

    Two equal values may share connections; a changed setting or credential changes `revision` and so the value.
    Limits of 0 mean no limit.
    """

    account_id: int
    account: str  # the account's address, for logs
    revision: int
    provider: str
    host: str
    port: int
    tls: Tls
    trust: str | None
    login: str
    auth: Auth
    max_connections: int
    per_minute: int
    per_day: int
    recipients_per_transaction: int
    in_doubt: InDoubtPolicy
    transport: TransportKind = "smtp"
    sent_copy: bool = False  # what it takes is owed to the mailbox's Sent
    opted_out: bool = False  # the settings say outright that their own upstream is used without TLS


@dataclass(frozen=True, slots=True)
class ImapServer:
    """Where an account's mailbox is read, and as whom. Fields as in Upstream."""

    account_id: int
    account: str
    provider: str
    host: str
    port: int
    tls: Tls
    trust: str | None
    login: str
    auth: Auth
    opted_out: bool = False  # the settings name this very host, and say that it is used without TLS


@dataclass(frozen=True, slots=True)
class Sender:
    """`pattern`: a normalised address, `@domain`, `*` (any other), or `<>` (the null reverse-path)."""

    pattern: str
    account_id: int
    from_policy: FromPolicy = "keep"
    created_at: int = 0
    managed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """An application: where it connects from or how it logs in, whom it may send as and to, and how it is treated.

    `senders` empty: every registered one; `recipients` empty: every one that `denied` does not name.  Limits of 0
    mean no limit.  `sender_map` turns an envelope sender (an address, `@domain`, or `*`) into a registered address.
    """

    name: str
    networks: tuple[IPv4Network | IPv6Network, ...]  # empty: known by its login alone
    senders: tuple[str, ...] = ()
    answer: Answer = "queued"
    tolerate: tuple[str, ...] = ()  # names of `mail.tolerance`
    created_at: int = 0
    auth: ClientAuth = "none"  # login: must log in; accept-any: whatever it says is accepted
    login: str = ""
    password_hash: str = field(default="", repr=False)  # argon2id
    identity: Identity = "envelope"  # whose mail it is: by envelope, by header From, by `sender_map`
    sender_map: tuple[tuple[str, str], ...] = ()
    messages_per_minute: int = 0
    recipients_per_minute: int = 0
    bytes_per_day: int = 0
    recipients: tuple[str, ...] = ()  # patterns it may send to: address, @domain, @*.domain
    denied: tuple[str, ...] = ()  # patterns it may not send to
    capture: str = ""  # all its mail goes to this address alone
    default_domain: str = ""  # for recipients without one
    charset: str = ""  # of raw 8-bit text, by its MIME name; needs the switch raw-8bit
    managed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a sender's mail goes, and why: `rule` is the pattern that matched, `step` how it was found."""

    account_id: int
    rule: str
    step: Literal["exact", "alias", "domain", "default", "null"]
    from_policy: FromPolicy
