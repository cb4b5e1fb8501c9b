"""The values that settings of accounts and clients may have. Whatever passes here is safe to store and to use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypedDict, get_args

from relay.accounts.errors import BadSetting
from relay.accounts.model import Answer, Auth, FromPolicy, InDoubtPolicy, Tls
from relay.accounts.normalise import normalise_pattern
from relay.accounts.presets import PRESETS
from relay.config.trust import trust_anchor


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


_LARGEST = 1_000_000_000
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_.])?|\[?[0-9a-f:.]{2,45}\]?)", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_NUMBERS = ("max_connections", "per_minute", "per_day")
_CHOICES = {"tls": get_args(Tls), "auth": get_args(Auth), "in_doubt": get_args(InDoubtPolicy)}
_NULLABLE = frozenset({"host", "port", "tls", "trust", "login", *_NUMBERS})


def checked_settings(settings: AccountSettings) -> dict[str, Any]:
    """`settings` in stored form. Raises BadSetting for the first value that cannot be."""
    return {field: _checked(field, value) for field, value in settings.items()}


def checked_host_of(provider: str, host: str | None) -> None:
    """Raises BadSetting when `provider` has a host for each region or customer, and none is given."""
    preset = PRESETS[provider]
    if preset.host is None and preset.id not in ("default", "custom") and host is None:
        raise BadSetting("host", "", f"{preset.name} has a host name for each region: give it, like {preset.hosts[0]}")


def checked_client_name(name: str) -> str:
    """A name that is safe in logs and on command lines. Raises BadSetting."""
    if not _NAME.fullmatch(name):
        raise BadSetting("name", name, "letters, digits, dots, hyphens, underscores; at most 64")
    return name


def checked_networks(
    networks: Iterable[str | IPv4Network | IPv6Network],
) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks of a client, at least one, each once. Raises BadSetting."""
    found: dict[IPv4Network | IPv6Network, None] = {}
    for network in networks:
        try:
            found[ip_network(network)] = None
        except ValueError as error:
            remedy = "a network in CIDR form such as 192.0.2.0/24, or one address"
            if "host bits" in str(error):
                remedy = f"its host bits are set; write {ip_network(network, strict=False)}"
            raise BadSetting("network", network, remedy) from None
    if not found:
        raise BadSetting("network", "", "give at least one network")
    return tuple(found)


def checked_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Sender patterns in stored form, each once. Raises BadPattern."""
    return tuple(dict.fromkeys(normalise_pattern(pattern) for pattern in patterns))


def checked_words(field: str, words: Sequence[str]) -> tuple[str, ...]:
    """Switches by name, each once. Raises BadSetting."""
    for word in words:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", word):
            raise BadSetting(field, word, "lower-case letters, digits and hyphens")
    return tuple(dict.fromkeys(words))


def checked_choice(field: str, value: str, kind: Any) -> str:
    """`value` if the Literal type `kind` has it. Raises BadSetting."""
    choices: tuple[str, ...] = get_args(kind)
    if value not in choices:
        raise BadSetting(field, value, "one of " + ", ".join(choices))
    return value


def checked_from_policy(value: str) -> str:
    """keep or rewrite. Raises BadSetting."""
    return checked_choice("from", value, FromPolicy)


def checked_answer(value: str) -> str:
    """queued or direct. Raises BadSetting."""
    return checked_choice("answer", value, Answer)


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
        return _number(field, value, 0, _LARGEST, "a whole number; 0 means no limit")
    if field == "port":
        return _number(field, value, 1, 65535, "a port from 1 to 65535")
    if field == "host":
        if not isinstance(value, str) or not _HOST.fullmatch(value):
            raise BadSetting(field, value, "a host name or an address, without port or scheme")
        return value.lower()
    if field == "login":
        if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "replace")) <= 320:
            raise BadSetting(field, value, "1 to 320 octets")
        if not value.isprintable():
            raise BadSetting(field, value, "without control characters")
        return value
    if field == "trust":
        try:
            return trust_anchor(value)
        except ValueError as error:
            raise BadSetting(field, value, str(error)) from None
    raise BadSetting(field, value, "there is no such setting")


def _number(field: str, value: Any, least: int, most: int, form: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadSetting(field, value, form)
    return value
