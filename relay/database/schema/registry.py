"""Accounts and who may send through them, their secrets, and how well they are."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text, text

from relay.database.schema.base import Id, Milliseconds, metadata

accounts = Table(
    "accounts",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("address", Text, nullable=False, unique=True),  # its name: the mailbox it stands for
    Column("provider", Text, nullable=False),  # preset id, or "custom"
    Column("host", Text),  # NULL in these columns: the preset's, then the settings' default
    Column("port", Integer),
    Column("tls", Text),  # starttls | implicit | none
    Column("trust", Text),  # CA file | sha256:… | name:…
    Column("login", Text),  # NULL: the address
    Column("auth", Text, nullable=False),  # password | none | oauth-…
    Column("max_connections", Integer),  # 0: no limit
    Column("per_minute", Integer),  # messages; 0: no limit
    Column("per_day", Integer),  # recipients in a sliding day; 0: no limit
    Column("in_doubt", Text, nullable=False, server_default="retry"),  # retry | hold
    Column("proxy", Text),  # URL without a password, or "direct"; NULL in these three: as for all accounts
    Column("source_address", Text),  # one IP address, or one of each version with a comma between
    Column("ip", Text),  # auto | 4 | 6
    Column("imap_host", Text),  # NULL in these four: the preset's, then the settings' default
    Column("imap_port", Integer),
    Column("imap_tls", Text),  # starttls | implicit
    Column("imap_login", Text),  # NULL: the login
    Column("transport", Text, nullable=False, server_default="smtp"),  # smtp | graph | gmail
    Column("fallback", Text, nullable=False, server_default="none"),  # none | graph
    Column("oauth", Text),  # JSON object, see credentials.oauth.app; NULL: none.  Never a secret
    Column("owner", Text),  # who is told about trouble with it; NULL: its address
    Column("null_sender", Integer, nullable=False, server_default="0"),  # 1: its upstream takes MAIL FROM:<>
    Column("state", Text, nullable=False, server_default="ok"),  # ok | suspended
    Column("state_cause", Text),  # id of the catalogue entry, or "operator"
    Column("state_reply", Text),
    Column("state_since", Milliseconds),
    Column("revision", Integer, nullable=False, server_default="1"),  # grows with settings and credential
    Column("created_at", Milliseconds, nullable=False),
    Column("managed_by", Text),  # path of the accounts file that declares it; NULL: people manage it
    Column("bounces", Text),  # folder in which mail that came back is looked for; NULL: it is not
    Column("sent_copy", Text, nullable=False, server_default="auto"),  # auto | yes | no
    Column("web_hosts", Text),  # of its hosts, those named through the web, commas between; NULL: none
    sqlite_autoincrement=True,  # the id of a removed account is never given again: history would change hands
)

senders = Table(
    "senders",
    metadata,
    Column("pattern", Text, primary_key=True),  # normalised address, @domain, *, or <>
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("from_policy", Text, nullable=False, server_default="keep"),  # keep | rewrite | refuse
    Column("created_at", Milliseconds, nullable=False),
    Column("managed_by", Text),  # as in accounts
)

clients = Table(
    "clients",
    metadata,
    Column("name", Text, primary_key=True),
    Column("networks", Text, nullable=False),  # JSON list of CIDR
    Column("senders", Text, nullable=False),  # JSON list of patterns; empty: every registered sender
    Column("answer", Text, nullable=False, server_default="queued"),  # queued | direct
    Column("tolerate", Text, nullable=False, server_default="[]"),  # JSON list of switches
    Column("created_at", Milliseconds, nullable=False),
    Column("login", Text),  # NULL: known by its networks alone
    Column("password_hash", Text),  # argon2id
    Column("options", Text, nullable=False, server_default="{}"),  # JSON object: the other fields of model.Client
    Column("managed_by", Text),  # as in accounts
    Index("ix_clients_login", "login", unique=True),
)

secrets = Table(
    "secrets",
    metadata,
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("kind", Text, nullable=False),  # password, later refresh_token, …
    Column("key_id", Text, nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),  # nonce and ciphertext, see credentials.sealing
    Column("changed_at", Milliseconds, nullable=False),
    Column("managed_by", Text),  # as in accounts
    PrimaryKeyConstraint("account_id", "kind"),
)

mailboxes = Table(
    "mailboxes",
    metadata,
    Column("account_id", Id, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("folder", Text, nullable=False),
    Column("uidvalidity", Id, nullable=False),  # RFC 9051 2.3.1.1: another one, and `last_uid` means nothing
    Column("last_uid", Id, nullable=False),  # everything up to it was looked at
    Column("read_at", Milliseconds, nullable=False),
)

conditions = Table(
    "conditions",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("account_id", Id),  # NULL: it concerns the relay as a whole
    Column("group_key", Text, nullable=False, server_default=""),  # shared by accounts that one cause stops together
    Column("kind", Text, nullable=False),  # accounts.conditions.ConditionKind
    Column("cause", Text, nullable=False),  # id of the catalogue entry
    Column("who", Text, nullable=False),  # owner | administrator | provider: who must act
    Column("detail", Text, nullable=False),  # the reply or another fact; bounded, escaped, never a secret
    Column("opened_at", Milliseconds, nullable=False),
    Column("closed_at", Milliseconds),  # NULL: it lasts
    Column("notified_at", Milliseconds),  # when people last heard of it
    Column("notices", Integer, nullable=False, server_default="0"),
    Column("closed_notified_at", Milliseconds),  # when people heard that it is over, or need not
)
_lasts = text("closed_at IS NULL")
Index(
    "ix_conditions_open",
    conditions.c.account_id,
    conditions.c.kind,
    conditions.c.cause,
    unique=True,
    sqlite_where=_lasts,  # postgresql_where would load that dialect: 2.4 MB in every process
)

login_tries = Table(
    "login_tries",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("account_id", Id, nullable=False, index=True),
    Column("at", Milliseconds, nullable=False),  # written before the credential is sent; gone after a success
    Column("by_person", Integer, nullable=False, server_default="0"),  # shown, but not counted against the limit
)

unknown_replies = Table(
    "unknown_replies",
    metadata,
    Column("provider", Text, nullable=False),  # preset id of the account
    Column("stage", Text, nullable=False),
    Column("shape", Text, nullable=False),  # the reply without what differs from one to the next
    Column("sample", Text, nullable=False),  # the latest: bounded, addresses and ids taken out
    Column("count", Integer, nullable=False),
    Column("first_seen", Milliseconds, nullable=False),
    Column("last_seen", Milliseconds, nullable=False),
    PrimaryKeyConstraint("provider", "stage", "shape"),
    sqlite_with_rowid=False,
)
