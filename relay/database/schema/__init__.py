"""Every table, once. Alembic's migrations build exactly this (a test compares them)."""

from __future__ import annotations

from relay.database.schema.base import FAR_FUTURE_MS, metadata
from relay.database.schema.fleet import leases, nodes, writers
from relay.database.schema.mail import attempts, chunks, contents, deliveries, messages, notices, owed, returned
from relay.database.schema.people import (
    api_answers,
    api_tokens,
    audit,
    console_grants,
    console_invitations,
    console_passkeys,
    console_recovery_codes,
    console_sessions,
    console_users,
)
from relay.database.schema.registry import (
    accounts,
    clients,
    conditions,
    login_tries,
    mailboxes,
    secrets,
    senders,
    unknown_replies,
)

__all__ = [
    "FAR_FUTURE_MS",
    "accounts",
    "api_answers",
    "api_tokens",
    "attempts",
    "audit",
    "chunks",
    "clients",
    "conditions",
    "console_grants",
    "console_invitations",
    "console_passkeys",
    "console_recovery_codes",
    "console_sessions",
    "console_users",
    "contents",
    "deliveries",
    "leases",
    "login_tries",
    "mailboxes",
    "messages",
    "metadata",
    "nodes",
    "notices",
    "owed",
    "returned",
    "secrets",
    "senders",
    "unknown_replies",
    "writers",
]
