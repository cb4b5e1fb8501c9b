"""The values that settings of accounts and senders may have. Whatever passes here is safe to store and to use."""

from __future__ import annotations

import re
from typing import Any, TypedDict, get_args

from relay.accounts.errors import BadSetting
from relay.accounts.model import Auth, Fallback, FromPolicy, InDoubtPolicy, SentCopy, Tls, TransportKind
from relay.accounts.normalise import BadAddress, settled_address
from relay.accounts.presets import PRESETS
from relay.config.addresses import sources_of
from relay.config.proxy import parse_proxy
from relay.config.trust import trust_anchor
from relay.net.way import IpVersion


class AccountSettings(TypedDict, total=False):
    """What may be set of an account; None takes the preset's or the default again."""

    provider: str
    auth: Auth
    host: str | None
    port: int | None
    tls: Tls | None
    trust: str | None
    login: str | None
    max_connections: int | None
    per_minute: int | None
    per_day: int | None
    in_doubt: InDoubtPolicy
    proxy: str | None
    source_address: str | None
    ip: str | None
    imap_host: str | None
    imap_port: int | None
    imap_tls: Tls | None
    imap_login: str | None
    transport: TransportKind
    fallback: Fallback
    oauth: str | None
    owner: str | None
    null_sender: bool
    bounces: str | None
    sent_copy: SentCopy


LARGEST = 1_000_000_000
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_.])?|\[?[0-9a-f:.]{2,45}\]?)", re.IGNORECASE)
_MAX_OAUTH = 16_384  # characters
_MAX_FOLDER = 200
_NUMBERS = ("max_connections", "per_minute", "per_day")
_IMAP = ("imap_host", "imap_port", "imap_tls", "imap_login")
_EGRESS = ("proxy", "source_address", "ip")
_CHOICES = {
    "tls": get_args(Tls),
    "auth": get_args(Auth),
    "in_doubt": get_args(InDoubtPolicy),
    "ip": get_args(IpVersion),
    "imap_tls": ("starttls", "implicit"),
    "transport": get_args(TransportKind),
    "fallback": get_args(Fallback),
    "sent_copy": get_args(SentCopy),
}
_NULLABLE = frozenset(
    {"host", "port", "tls", "trust", "login", "oauth", "owner", "bounces", *_NUMBERS, *_EGRESS, *_IMAP}
)


def checked_settings(settings: AccountSettings) -> dict[str, Any]:
    """`settings` in stored form. Raises BadSetting for the first value that cannot be."""
    return {field: _checked(field, value) for field, value in settings.items()}


def checked_host_of(provider: str, host: str | None) -> None:
    """Raises BadSetting when `provider` has a host for each region or customer, and none is given."""
    preset = PRESETS[provider]
    if preset.host is None and preset.id not in ("default", "custom") and host is None:
        raise BadSetting("host", "", f"{preset.name} has a host name for each region: give it, like {preset.hosts[0]}")


def checked_choice(field: str, value: str, kind: Any) -> str:
    """`value` if the Literal type `kind` has it. Raises BadSetting."""
    choices: tuple[str, ...] = get_args(kind)
    if value not in choices:
        raise BadSetting(field, value, "one of " + ", ".join(choices))
    return value


def checked_from_policy(value: str) -> str:
    """keep, rewrite or refuse. Raises BadSetting."""
    return checked_choice("from", value, FromPolicy)


def checked_login(value: Any) -> str:
    """A user name of 1 to 320 printable octets. Raises BadSetting."""
    if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "replace")) <= 320:
        raise BadSetting("login", value, "1 to 320 octets")
    if not value.isprintable():
        raise BadSetting("login", value, "without control characters")
    return value


def checked_number(field: str, value: Any, least: int, most: int, form: str) -> int:
    """A whole number from `least` to `most`; `form` is the remedy. Raises BadSetting."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadSetting(field, value, form)
    return value


def _checked_folder(value: Any) -> str | None:
    """The name of a folder as people see it; `none`: no folder."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_FOLDER or not value.isprintable():
        raise BadSetting("bounces", value, f"none, inbox, or a folder's name of up to {_MAX_FOLDER} characters")
    if value.lower() == "none":
        return None
    return "INBOX" if value.lower() == "inbox" else value


def _checked_proxy(value: Any) -> str:
    """`direct`, or the address of a proxy without its password, which is a secret of the vault."""
    if value == "direct":
        return "direct"
    try:
        proxy = parse_proxy(value)
    except ValueError as error:
        raise BadSetting("proxy", "that", f"{error}, or direct") from None
    if proxy.password:
        raise BadSetting("proxy", "with a password in it", "leave it out, and use --proxy-password-file F")
    return str(proxy)


def _checked(field: str, value: Any) -> Any:
    if value is None and field in _NULLABLE:
        return None
    if field == "provider":
        if value not in PRESETS:
            raise BadSetting(field, value, "one of " + ", ".join(PRESETS))
        return value
    if field in _CHOICES:
        if value not in _CHOICES[field]:
            raise BadSetting(field, value, "one of " + ", ".join(_CHOICES[field]))
        return value
    if field in _NUMBERS:
        return checked_number(field, value, 0, LARGEST, "a whole number; 0 means no limit")
    if field in ("port", "imap_port"):
        return checked_number(field, value, 1, 65535, "a port from 1 to 65535")
    if field in ("host", "imap_host"):
        if not isinstance(value, str) or not _HOST.fullmatch(value):
            raise BadSetting(field, value, "a host name or an address, without port or scheme")
        return value.lower()
    if field in ("login", "imap_login"):
        return checked_login(value)
    if field == "proxy":
        return _checked_proxy(value)
    if field == "source_address":
        try:
            return ",".join(sources_of(value))
        except ValueError as error:
            raise BadSetting(field, value, str(error)) from None
    if field == "owner":
        try:
            return settled_address(value)
        except BadAddress as error:
            raise BadSetting(field, value, error.remedy) from None
    if field == "bounces":
        return _checked_folder(value)
    if field == "null_sender":
        if not isinstance(value, bool):
            raise BadSetting(field, value, "yes or no")
        return int(value)
    if field == "oauth":  # what it says is for `credentials.oauth` to check
        if not isinstance(value, str) or not value.startswith("{") or len(value) > _MAX_OAUTH:
            raise BadSetting(field, "", "an object of OAuth settings")
        return value
    if field == "trust":
        try:
            return trust_anchor(value)
        except ValueError as error:
            raise BadSetting(field, value, str(error)) from None
    raise BadSetting(field, value, "there is no such setting")
