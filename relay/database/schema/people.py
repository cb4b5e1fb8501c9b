"""Who may use the console and the API, and what anybody changed."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text

from relay.database.schema.base import Id, Milliseconds, metadata

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
