"""Every table, once. Alembic's migrations build exactly this (a test compares them)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

# Ids and times (milliseconds since 1970, UTC) need 63 bits; SQLite's row id is an INTEGER of that size.
Id = BigInteger().with_variant(Integer(), "sqlite")
Milliseconds = BigInteger

FAR_FUTURE_MS = 1 << 52  # due never: held

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
    Column("oauth", Text),  # JSON object, see credentials.oauth.app; NULL: none.  Never a secret
    Column("state", Text, nullable=False, server_default="ok"),  # ok | suspended
    Column("state_cause", Text),  # id of the catalogue entry, or "operator"
    Column("state_reply", Text),
    Column("state_since", Milliseconds),
    Column("revision", Integer, nullable=False, server_default="1"),  # grows with settings and credential
    Column("created_at", Milliseconds, nullable=False),
    Column("managed_by", Text),  # path of the accounts file that declares it; NULL: people manage it
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

nodes = Table(
    "nodes",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),  # one per start of a daemon: an incarnation
    Column("started_at", Milliseconds, nullable=False),
    Column("lease_until", Milliseconds, nullable=False),  # every delivery this node owns is leased until then
)

messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("account_id", Id, nullable=False),  # where the sender routed to at acceptance
    Column("reverse_path", Text, nullable=False),  # "": null
    Column("header_message_id", Text, nullable=False),
    Column("client", Text, nullable=False),  # address of the application, and its client entry if any
    Column("size", Integer, nullable=False),  # octets in wire form
    Column("eight_bit", Integer, nullable=False),
    Column("smtputf8", Integer, nullable=False),
    Column("spool", Text),  # name of the spool file; NULL: the content is a row of `contents`
    Column("accepted_at", Milliseconds, nullable=False),
    Column("original_path", Text),  # what the application said in MAIL, where reverse_path is another; NULL: the same
    Column("ret", Text),  # FULL | HDRS (RFC 3461 4.3)
    Column("envid", Text),  # xtext (RFC 3461 4.4)
    Column("answer", Text),  # direct: the application heard the verdict itself; NULL: queued
)

_spooled = text("spool IS NOT NULL")
Index("ix_messages_spool", messages.c.spool, sqlite_where=_spooled)

contents = Table(
    "contents",
    metadata,
    Column("message_id", Id, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),  # wire form; gone when the last delivery settles
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("message_id", Id, nullable=False),
    Column("number", Integer, nullable=False),  # place among the recipients, from 0
    Column("recipient", Text, nullable=False),
    Column("account_id", Id, nullable=False),  # the lane it waits in; re-resolved at each attempt
    Column("state", Text, nullable=False),  # queue.model.State
    Column("due_at", Milliseconds, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("owner", Id),  # node that has it in memory; NULL: anyone may claim it
    Column("token", Integer, nullable=False),  # fencing token: grows with each claim
    Column("possible_duplicate", Integer, nullable=False, server_default="0"),
    Column("settled_at", Milliseconds),
    Column("notify", Text),  # NEVER, or some of SUCCESS,FAILURE,DELAY (RFC 3461 4.1)
    Column("orcpt", Text),  # address type;xtext (RFC 3461 4.2)
    PrimaryKeyConstraint("message_id", "number"),
    sqlite_with_rowid=False,
)

_unsettled = text("settled_at IS NULL")
Index(
    "ix_deliveries_unsettled",
    deliveries.c.account_id,
    deliveries.c.due_at,
    sqlite_where=_unsettled,
)

attempts = Table(
    "attempts",
    metadata,
    Column("message_id", Id, nullable=False),
    Column("number", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),  # from 1
    Column("at", Milliseconds, nullable=False),
    Column("account_id", Id, nullable=False),
    Column("outcome", Text, nullable=False),  # accepted | refused | unreachable | in_doubt
    Column("stage", Text, nullable=False),
    Column("code", Integer, nullable=False),  # 0: no reply
    Column("status", Text, nullable=False),
    Column("reply", Text, nullable=False),  # bounded, control bytes escaped
    Column("cause", Text, nullable=False),  # id of the catalogue entry; "" when accepted
    Column("elapsed_ms", Integer, nullable=False),
    PrimaryKeyConstraint("message_id", "number", "attempt"),
    CheckConstraint("outcome IN ('accepted', 'refused', 'unreachable', 'in_doubt')", name="outcome"),
    sqlite_with_rowid=False,
)

audit = Table(
    "audit",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Milliseconds, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON, never a secret
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
    sqlite_where=_lasts,
    postgresql_where=_lasts,
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
