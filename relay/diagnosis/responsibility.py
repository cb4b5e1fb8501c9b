"""Who must act on a cause, and whom else it stops besides the account that met it. Pure."""

from __future__ import annotations

from typing import Literal

from relay.diagnosis.model import Class, Entry, Who
from relay.diagnosis.token_errors import token_reach

Reach = Literal["account", "app", "tenant", "tenant-passwords"]

_BY_CLASS: dict[Class, Who] = {
    "permanent-auth": Who.OWNER,
    "quota": Who.PROVIDER,
    "tenant-config": Who.ADMINISTRATOR,
    "sender-not-allowed": Who.ADMINISTRATOR,
    "tls-network": Who.ADMINISTRATOR,
    "protocol": Who.ADMINISTRATOR,
    "throttled": Who.PROVIDER,
    "transient": Who.PROVIDER,
    "recipient": Who.AUTHOR,
    "content-size": Who.AUTHOR,
}
# Where the class says another: a key ring is not the owner's, a plan not the provider's.
_BY_ID = {
    "credential-unreadable": Who.ADMINISTRATOR,
    "generic-account-disabled": Who.ADMINISTRATOR,
    "m365-sender-mailbox-full": Who.OWNER,
    "zoho-unusual-activity": Who.OWNER,
    "sendgrid-credits": Who.ADMINISTRATOR,
    "sendgrid-bad-credentials": Who.ADMINISTRATOR,
    "mailgun-bad-credentials": Who.ADMINISTRATOR,
}
_TENANT_WIDE: dict[str, Reach] = {
    "m365-smtp-auth-disabled-tenant": "tenant",
    "m365-tenant-blocked": "tenant",
    "m365-security-defaults": "tenant-passwords",
    "m365-basic-auth-retired": "tenant-passwords",
}


def who_must_act(entry: Entry) -> Who:
    """Whose turn it is; the provider's where all one can do is wait."""
    return _BY_ID.get(entry.id) or _BY_CLASS[entry.cls]


def reach_of(cause: str) -> Reach:
    """Whom a cause stops: the account alone, all that use the same app registration, or its whole organisation.

    `tenant-passwords`: those of the organisation that log in with a password.
    """
    return _TENANT_WIDE.get(cause) or token_reach(cause)
