"""Fills the gaps of an account: its own settings, then the provider's preset, then the settings' defaults. Pure."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from relay.accounts.model import Account, ImapServer, Tls, Upstream
from relay.accounts.presets import APIS, GMAIL_HOST, GRAPH_HOSTS, PRESETS, Preset, preset_by_host

if TYPE_CHECKING:
    from relay.config.settings import ImapDefaults, UpstreamDefaults

_PORTS: dict[Tls, int] = {"starttls": 587, "implicit": 465, "none": 25}
_MODES: dict[int, Tls] = {587: "starttls", 465: "implicit"}
_IMAP_PORTS: dict[Tls, int] = {"starttls": 143, "implicit": 993, "none": 143}
_IMAP_MODES: dict[int, Tls] = {143: "starttls", 993: "implicit"}


class ApiPlaces(NamedTuple):
    """`https://host[:port]` of the providers' APIs where they are not at the usual place."""

    graph: str | None = None
    gmail: str | None = None


def fill(account: Account, defaults: UpstreamDefaults, places: ApiPlaces = ApiPlaces()) -> Upstream:
    """Where and how `account` submits.

    Port and TLS mode of the defaults are for accounts that name no provider, and for the defaults' own host: a site
    that sends unencrypted to its own host never does so to another by accident.  Where only one of the two is
    given, the other follows it (465 is implicit).  `trust` of the defaults is not for hosts that a preset brought.
    A host that a provider is known for brings that provider's limits, whatever the account calls it.

    With another transport than SMTP the account's own host, port, TLS mode and trust are those of the submission
    server it does not use, so that it can move there and back: where the API is, the cloud or `places` say.
    """
    named = PRESETS.get(account.provider, PRESETS["custom"])
    host = account.host or named.host or defaults.host
    preset = named if named.host or named.id not in ("default", "custom") else preset_by_host(host) or named
    if host == defaults.host and not named.host:
        base: tuple[int, Tls] = (defaults.port, defaults.tls)
    elif preset.port is not None and preset.tls is not None:
        base = (preset.port, preset.tls)
    elif named.id == "default":
        base = (defaults.port, defaults.tls)
    else:
        base = (587, "starttls")
    if account.transport != "smtp":
        return _by_api(account, preset, places)
    port, tls = _port_and_tls(account, *base)
    from_settings = named.id in ("default", "custom") or host == defaults.host
    return Upstream(
        account_id=account.id,
        account=account.address,
        revision=account.revision,
        provider=preset.id,
        host=host,
        port=port,
        tls=tls,
        trust=account.trust or (defaults.trust if from_settings else None),
        login=account.login or preset.login or account.address,
        auth=account.auth,
        max_connections=_first(account.max_connections, preset.max_connections),
        per_minute=_first(account.per_minute, preset.per_minute),
        per_day=_first(account.per_day, preset.per_day),
        recipients_per_transaction=preset.recipients_per_transaction,
        in_doubt=account.in_doubt,
        sent_copy=_wants_copy(account, preset),
        opted_out=tls == defaults.tls == "none" and host == defaults.host,
    )


def tells_in_clear(upstream: Upstream | ImapServer) -> bool:
    """Would a password or token leave this machine unencrypted?"""
    return upstream.tls == "none" and upstream.auth != "none" and not _is_here(upstream.host)


def may_log_in(upstream: Upstream | ImapServer) -> bool:
    """Promise 11: credentials go in clear only where the settings opt out, by two names, for that one host."""
    return upstream.opted_out or not tells_in_clear(upstream)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _wants_copy(account: Account, preset: Preset) -> bool:
    """Unless told: where the provider is known to leave it to the program, or the account names its IMAP server."""
    if account.sent_copy != "auto":
        return account.sent_copy == "yes"
    match preset.sent:
        case "itself":
            return False
        case "append":
            return account.auth != "none"
        case _:
            return account.imap_host is not None and account.auth != "none"


def imap_of(account: Account, upstream: Upstream, defaults: ImapDefaults) -> ImapServer | None:
    """Where the mailbox of `account`, which submits at `upstream`, is read; None: nobody named a server.

    A server that the settings name is for accounts without a provider; what the settings have unless told otherwise is
    Microsoft's, and no password of another provider's mailbox goes there.  The upstream's
    trust holds for its own host and where the account names no other; a certificate's name or pin is one host's.
    """
    preset = PRESETS[upstream.provider]
    named = defaults.host if "host" in defaults.model_fields_set else ""
    unbound = account.provider in ("default", "custom")
    host = account.imap_host or (named if unbound else "") or preset.imap or named
    if not host:
        return None
    if host == defaults.host:
        base: tuple[int, Tls] = (defaults.port, defaults.tls)
    else:
        base = (993, "implicit")
    port, tls = account.imap_port or base[0], account.imap_tls or base[1]
    if account.imap_port is None and account.imap_tls not in (None, base[1]):
        port = _IMAP_PORTS[tls]
    elif account.imap_tls is None and account.imap_port is not None:
        tls = _IMAP_MODES.get(port, tls)
    of_one_host = (upstream.trust or "").startswith(("name:", "sha256:"))
    return ImapServer(
        account_id=account.id,
        account=account.address,
        provider=upstream.provider,
        host=host,
        port=port,
        tls=tls,
        trust=None if of_one_host and host != upstream.host else upstream.trust,
        login=account.imap_login or upstream.login,
        auth=account.auth,
        opted_out=tls == defaults.tls == "none" and host == named,
    )


def _by_api(account: Account, preset: Preset, places: ApiPlaces) -> Upstream:
    limits = APIS[account.transport]
    host, port = _place_of(account, preset, places)
    return Upstream(
        account_id=account.id,
        account=account.address,
        revision=account.revision,
        provider=preset.id,
        host=host,
        port=port,
        tls="implicit",
        trust=None,
        login=account.login or account.address,
        auth=account.auth,
        max_connections=_first(account.max_connections, limits.max_connections),
        per_minute=_first(account.per_minute, limits.per_minute),
        per_day=_first(account.per_day, limits.per_day),
        recipients_per_transaction=limits.recipients_per_message,
        in_doubt=account.in_doubt,
        transport=account.transport,
        sent_copy=account.sent_copy == "yes",  # both APIs file it themselves
    )


def _place_of(account: Account, preset: Preset, places: ApiPlaces) -> tuple[str, int]:
    given = places.graph if account.transport == "graph" else places.gmail
    if given is not None:
        parts = urlsplit(given)
        return parts.hostname or "", parts.port or 443
    return (GRAPH_HOSTS[_cloud(account, preset)] if account.transport == "graph" else GMAIL_HOST), 443


def _cloud(account: Account, preset: Preset) -> str:
    """The national cloud in which the account signs in: its token is good for the Graph of that one alone."""
    cloud = json.loads(account.oauth).get("cloud", "global") if account.oauth else preset.cloud
    return cloud if cloud in GRAPH_HOSTS else "global"


def _port_and_tls(account: Account, base_port: int, base_tls: Tls) -> tuple[int, Tls]:
    port, tls = account.port, account.tls
    if port is None and tls is None:
        return base_port, base_tls
    if tls is None:
        assert port is not None
        return port, base_tls if port == base_port else _MODES.get(port, base_tls)
    if port is None:
        return (base_port if tls == base_tls else _PORTS[tls]), tls
    return port, tls


def _first(own: int | None, preset: int) -> int:
    return preset if own is None else own
