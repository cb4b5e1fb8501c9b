"""Accounts as people see them: settings filled in, state and its cause, senders, how much waits. Never a secret."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from relay.accounts.advice import steps_for
from relay.accounts.model import Account, AccountState
from relay.accounts.presets import PRESETS
from relay.accounts.transitions import OPERATOR
from relay.accounts.upstream import imap_of
from relay.control.context import Control, iso, now_ms
from relay.control.egress import path_of
from relay.control.oauth_settings import app_facts
from relay.control.queue import account_named
from relay.credentials.errors import CredentialError
from relay.credentials.expiry import ends_of
from relay.credentials.oauth import sealed
from relay.credentials.tries import refused_lately
from relay.diagnosis import Who
from relay.diagnosis.conditions import entry_of
from relay.diagnosis.responsibility import who_must_act
from relay.queue.waiting import waiting


async def account_list(control: Control) -> list[dict[str, Any]]:
    """Every account with its settings filled in, state, senders, and how much waits."""
    counts = await control.database.read(waiting)
    return [_facts(control, account, counts.get(account.id, 0)) for account in control.directory.accounts()]


async def account_show(control: Control, *, account: str) -> dict[str, Any]:
    """One account, with the cause of its suspension and what to do. Never a secret, only which kinds are stored."""
    found = account_named(control, account)
    facts = await entry(control, found)
    facts["secrets"] = await control.vault.kinds(found.id)
    facts["oauth"] = app_facts(found)
    facts["login_tries"] = await _login_tries(control, found)
    return {**facts, **await token_facts(control, found), **cause_of(found)}


async def account_logins(control: Control) -> list[dict[str, Any]]:
    """How each account logs in; of those with a password until when their provider takes it, and how to move them.

    Those with a password come first, the one with the nearest end before the others.
    """
    used = await control.database.read(sealed.last_used)
    logins = [_login(control, account, used.get(account.id)) for account in control.directory.accounts()]
    return sorted(
        logins,
        key=lambda login: (
            not login["uses_password"],
            login["password_until"] or "9999",
            login["provider"],
            login["address"],
        ),
    )


async def _login_tries(control: Control, account: Account) -> dict[str, int]:
    """Logins that were refused within the hour: of the relay by itself (three at most), of persons' tests."""
    own, asked = await control.database.read(lambda connection: refused_lately(connection, account.id, now_ms()))
    return {"relay": len(own), "person": len(asked)}


async def token_facts(control: Control, account: Account) -> dict[str, Any]:
    """When the access token ends, when the grant was last used; None: there is none."""
    if account.auth in ("password", "none"):
        return {"token_until": None, "grant_used_at": None, "ends": []}
    try:
        kept = await control.database.read(partial(sealed.load, vault=control.vault, account_id=account.id))
    except CredentialError:  # `relay check` tells which secret does not open
        return {"token_until": None, "grant_used_at": None, "ends": []}
    until = max((int(token.until_s * 1000) for token in kept.access.values()), default=None)
    used = (await control.database.read(sealed.last_used)).get(account.id)
    return {"token_until": iso(until), "grant_used_at": iso(used), "ends": _ends(account, used)}


async def entry(control: Control, account: Account) -> dict[str, Any]:
    counts = await control.database.read(partial(waiting, accounts=[account.id]))
    return _facts(control, account, counts.get(account.id, 0))


def _facts(control: Control, account: Account, owed: int) -> dict[str, Any]:
    upstream = control.directory.upstream(account)
    return {
        "address": account.address,
        "provider": upstream.provider,
        "host": upstream.host,
        "port": upstream.port,
        "tls": upstream.tls,
        "trust": upstream.trust,
        "login": upstream.login,
        "auth": upstream.auth,
        "transport": upstream.transport,
        "fallback": account.fallback,
        "max_connections": upstream.max_connections,
        "per_minute": upstream.per_minute,
        "per_day": upstream.per_day,
        "in_doubt": upstream.in_doubt,
        "path": path_of(control, account, upstream.host),
        "imap": _imap(control, account),
        "owner": account.owned_by,
        "null_sender": account.null_sender,
        "bounces": account.bounces,
        "sent_copy": account.sent_copy,
        "files_copies": upstream.sent_copy,
        "state": account.state.value,
        "state_cause": account.state_cause,
        "state_reply": account.state_reply,
        "state_since": iso(account.state_since),
        "who": _who(account),
        "senders": [sender.pattern for sender in control.directory.senders() if sender.account_id == account.id],
        "waiting": owed,
        "lane": control.lanes.state(account.id) if control.lanes is not None else None,
        "managed_by": account.managed_by,
        "created_at": iso(account.created_at),
    }


def _who(account: Account) -> str | None:
    """Who must act before it goes on; None: nobody has to."""
    if account.state is not AccountState.SUSPENDED:
        return None
    if account.state_cause == OPERATOR:
        return Who.ADMINISTRATOR.value
    return who_must_act(entry_of(account.state_cause or "")).value


def _ends(account: Account, used: int | None) -> list[dict[str, Any]]:
    return [{"what": end.cause.removesuffix("-expiring"), "at": iso(end.at_ms)} for end in ends_of(account, used)]


def _imap(control: Control, account: Account) -> dict[str, Any] | None:
    server = imap_of(account, control.directory.upstream(account), control.settings.imap)
    if server is None:
        return None
    return {"host": server.host, "port": server.port, "tls": server.tls, "login": server.login}


def _login(control: Control, account: Account, used: int | None) -> dict[str, Any]:
    upstream = control.directory.upstream(account)
    preset = PRESETS[upstream.provider]
    uses = account.auth == "password"
    return {
        "address": account.address,
        "provider": preset.id,
        "provider_name": preset.name,
        "auth": account.auth,
        "uses_password": uses,
        "password_until": preset.password_until or None if uses else None,
        "password_note": preset.password_note if uses else "",
        "ends": _ends(account, used),
        "command": _move(account, preset.oauth) if uses and preset.oauth else "",
    }


def _move(account: Account, oauth: str) -> str:
    """One line that ends the password: Google has no device code for mail."""
    auth = "oauth-code" if oauth == "google" else "oauth-device"
    name = account.address
    return f"relay account set {name} --auth {auth} --client-id ID && relay account connect {name}"


def cause_of(account: Account) -> Mapping[str, Any]:
    """Why it is suspended and what to do; empty when it is not."""
    if account.state is not AccountState.SUSPENDED:
        return {"cause": "", "remedy": []}
    if account.state_cause == OPERATOR:
        return {"cause": "an operator suspended it", "remedy": [f"relay account resume {account.address}"]}
    entry = entry_of(account.state_cause or "")
    return {"cause": entry.cause, "remedy": steps_for(entry.cls, entry.remedy, account)}
