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

nodes = Table(
    "nodes",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),  # one per start of a daemon: an incarnation
    Column("started_at", Milliseconds, nullable=False),
    Column("lease_until", Milliseconds, nullable=False),  # every delivery this node owns is leased until then
    Column("name", Text, nullable=False, server_default=""),  # for people
    Column("home", Text),  # of its data folder, whose lock only one process can hold; NULL: alone on its store
    Column("version", Text),
    Column("pid", Integer),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),  # queue.leases: account N, jobs, token N
    Column("node", Id, index=True),  # whose it is as long as that row of `nodes` exists; NULL: anybody's
    Column("token", Id, nullable=False),  # grows each time it changes hands
    Column("since", Milliseconds, nullable=False),
    # Of an account that rests: until when, why, after how many failures in a row. Whoever takes it over goes on there.
    Column("rest_until", Milliseconds, nullable=False, server_default="0"),
    Column("rest_cause", Text, nullable=False, server_default=""),
    Column("rest_failures", Integer, nullable=False, server_default="0"),
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
    Column("notice", Text),  # mail of our own: aftercare's kind of notice; NULL: an application's
    Column("session", Id),  # of the front door, as its log lines name it; NULL: it came in by none
    Column("repaired", Text),  # what was put right in its content, commas between; NULL: nothing
)

_spooled = text("spool IS NOT NULL")
Index("ix_messages_spool", messages.c.spool, sqlite_where=_spooled)

contents = Table(
    "contents",
    metadata,
    Column("message_id", Id, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),  # wire form; gone when the last delivery settles
)

chunks = Table(  # of large contents, where there is no spool folder: PostgreSQL
    "chunks",
    metadata,
    Column("spool", Text, nullable=False),  # as in messages
    Column("number", Integer, nullable=False),  # from 0; all but the last are of spool_rows.CHUNK octets
    Column("node", Id, nullable=False),  # that received it
    Column("at", Milliseconds, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("spool", "number"),
    sqlite_with_rowid=False,
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
Index(  # with all that counts ask for, so that none looks at a row; SQLite asks for `settled_at`, too, which is NULL
    "ix_deliveries_unsettled",
    deliveries.c.account_id,
    deliveries.c.due_at,
    deliveries.c.settled_at,
    deliveries.c.state,
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

owed = Table(
    "owed",
    metadata,
    Column("message_id", Id, nullable=False),
    Column("number", Integer, nullable=False),  # of the delivery
    Column("kind", Text, nullable=False),  # queue.model.Owed: failed | delayed | relayed | copy (of all, number 0)
    Column("due_at", Milliseconds, nullable=False),
    Column("paid_at", Milliseconds),  # NULL: aftercare still has to tell the sender, or to decide not to
    Column("notice_id", Id),  # by which notice; NULL once paid: none was made
    Column("begun_at", Milliseconds),  # copy: an APPEND went out; NULL once paid: it was given up
    PrimaryKeyConstraint("message_id", "number", "kind"),
    sqlite_with_rowid=False,
)
_unpaid = text("paid_at IS NULL")
Index("ix_owed_unpaid", owed.c.due_at, sqlite_where=_unpaid)

notices = Table(
    "notices",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Milliseconds, nullable=False),
    Column("kind", Text, nullable=False),  # aftercare's: trouble, over, bounce, test
    Column("account_id", Id),  # whom it concerns; NULL: the relay as a whole
    Column("about", Text, nullable=False),  # id of the message, or of the catalogue entry
    Column("channel", Text, nullable=False),  # mail, or the kind and place of an Apprise URL, never the URL
    Column("recipient", Text, nullable=False),  # "": a channel has none
    Column("message_id", Id),  # the mail that carries it
    Column("outcome", Text, nullable=False),  # queued | sent | failed | withheld | withdrawn
    Column("detail", Text, nullable=False),  # why; never a secret
)
Index("ix_notices_account_id_at", notices.c.account_id, notices.c.at)
Index("ix_notices_about", notices.c.about)

returned = Table(
    "returned",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("message_id", Id, nullable=False, index=True),
    Column("number", Integer),  # of the delivery; NULL: the notice names another address
    Column("recipient", Text, nullable=False),  # as the notice has it
    Column("at", Milliseconds, nullable=False),  # when it was read
    Column("host", Text, nullable=False),  # who refused it; "": not said
    Column("code", Integer, nullable=False),  # 0: not said
    Column("status", Text, nullable=False),
    Column("reply", Text, nullable=False),  # its Diagnostic-Code, bounded, escaped
    Column("cause", Text, nullable=False),  # id of the catalogue entry
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

audit = Table(
    "audit",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Milliseconds, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False, index=True),
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

writers = Table(  # connections that write to PostgreSQL: what became of a COMMIT whose reply was lost
    "writers",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("epoch", Id, nullable=False),  # grows with each connection: what an earlier one still sends is refused
    Column("batch", Id, nullable=False),  # number of the last one that was committed
    Column("at", Milliseconds, nullable=False),  # of its last connection
)

# -- who may use the console and the API ---------------------------------------------------------------------------

console_users = Table(
    "console_users",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False, unique=True),  # what is typed at the login page, in lower case
    Column("role", Text, nullable=False),  # administrator | owner
    Column("password_hash", Text),  # argon2id; NULL: signs in by invitation or OIDC alone
    Column("subject", Text, unique=True),  # "<issuer> <sub>" of an OIDC identity; NULL: none
    Column("totp_key", Text),  # id of the key that sealed the next column
    Column("totp_sealed", LargeBinary),  # the secret of RFC 6238; NULL: no second factor
    Column("totp_step", Integer),  # the last time step used: each code counts once (RFC 6238 5.2)
    Column("disabled", Integer, nullable=False, server_default="0"),
    Column("created_at", Milliseconds, nullable=False),
    Column("handle", LargeBinary),  # what passkeys know the person by: random, never the name (WebAuthn 14.6.1)
    sqlite_autoincrement=True,
)

console_passkeys = Table(
    "console_passkeys",
    metadata,
    Column("credential_id", LargeBinary, primary_key=True),
    Column("user_id", Id, ForeignKey("console_users.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),  # what its owner calls it
    Column("site", Text, nullable=False),  # the console's host name that it is bound to (WebAuthn: RP id)
    Column("public_key", LargeBinary, nullable=False),  # COSE
    Column("sign_count", Milliseconds, nullable=False),  # 32 bits without a sign; 0: it does not count
    Column("created_at", Milliseconds, nullable=False),
    Column("used_at", Milliseconds),
)

console_recovery_codes = Table(
    "console_recovery_codes",
    metadata,
    Column("code_hash", LargeBinary, primary_key=True),  # SHA-256 of user id and 80 random bits; used: deleted
    Column("user_id", Id, ForeignKey("console_users.id"), nullable=False, index=True),
)

console_grants = Table(
    "console_grants",
    metadata,
    Column("user_id", Id, ForeignKey("console_users.id"), nullable=False),
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    PrimaryKeyConstraint("user_id", "account_id"),
)

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),  # SHA-256 of 32 random octets
    Column("user_id", Id, ForeignKey("console_users.id"), nullable=False, index=True),
    Column("csrf", Text, nullable=False),
    Column("address", Text, nullable=False),  # where the login came from
    Column("created_at", Milliseconds, nullable=False),
    Column("seen_at", Milliseconds, nullable=False),
    Column("expires_at", Milliseconds, nullable=False),
    Column("proved_at", Milliseconds, nullable=False, server_default="0"),  # by password and second factor, or alike
)

console_invitations = Table(
    "console_invitations",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Id, ForeignKey("console_users.id"), nullable=False, index=True),
    Column("created_at", Milliseconds, nullable=False),
    Column("expires_at", Milliseconds, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False, unique=True),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("scopes", Text, nullable=False),  # JSON list
    Column("created_by", Text, nullable=False),
    Column("created_at", Milliseconds, nullable=False),
    Column("expires_at", Milliseconds, nullable=False),
    Column("used_at", Milliseconds),
    Column("user_id", Id),  # the administrator whose it is; NULL: of an operator of the machine
    sqlite_autoincrement=True,
)

api_answers = Table(
    "api_answers",
    metadata,
    Column("principal", Text, nullable=False),
    Column("key", Text, nullable=False),  # Idempotency-Key
    Column("request_hash", LargeBinary, nullable=False),
    Column("answer", Text),  # JSON; NULL: still under way
    Column("at", Milliseconds, nullable=False),
    PrimaryKeyConstraint("principal", "key"),
)
