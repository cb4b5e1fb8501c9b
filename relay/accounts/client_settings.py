"""The values that settings of clients may have. Whatever passes here is safe to store and to use."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypedDict

from relay.accounts.checking import LARGEST, checked_choice, checked_login, checked_number
from relay.accounts.errors import BadSetting
from relay.accounts.model import Answer, Client, ClientAuth, Identity
from relay.accounts.normalise import BadAddress, normalise_pattern, normalise_recipient_pattern, settled_address
from relay.mail.tolerance import SWITCHES, tolerance


class ClientSettings(TypedDict, total=False):
    """What may be set of a client: fields of `model.Client`, spelt as an administrator may. Empty: the default again.

    `password_hash` comes from `passwords.hash_password`.
    """

    networks: Sequence[str | IPv4Network | IPv6Network]
    senders: Sequence[str]
    answer: str
    tolerate: Sequence[str]
    auth: str
    login: str
    password_hash: str
    identity: str
    sender_map: Sequence[tuple[str, str]]
    messages_per_minute: int
    recipients_per_minute: int
    bytes_per_day: int
    recipients: Sequence[str]
    denied: Sequence[str]
    capture: str
    default_domain: str
    charset: str


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_CHARSET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,39}")
_HASH = re.compile(r"\$argon2id\$[!-~]{1,500}")
_MOST = 10_000  # patterns of one kind in one entry
_LARGEST_DAY = 1_000_000_000_000  # octets

# Character sets of old programs, each with ASCII as it is: Python's name of the codec, and MIME's.
_CHARSETS: Mapping[str, str] = {
    **{f"iso8859-{part}": f"iso-8859-{part}" for part in (*range(1, 12), *range(13, 17))},
    **{f"cp{page}": f"windows-{page}" for page in range(1250, 1259)},
    **{f"cp{page}": f"ibm{page}" for page in (437, 850, 852, 855, 857, 860, 861, 862, 863, 865, 866)},
    **{name: name for name in ("utf-8", "koi8-r", "koi8-u", "tis-620", "gb2312", "gbk", "gb18030", "big5")},
    "mac-roman": "macintosh",
    "shift_jis": "shift_jis",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
}


def checked_client(settings: ClientSettings) -> dict[str, Any]:
    """`settings` as fields of `model.Client`. Raises BadSetting for the first value that cannot be."""
    return {field: _FIELDS[field](value) for field, value in settings.items()}


def check_whole(client: Client) -> None:
    """Do its settings go together? Raises BadSetting."""
    if client.auth == "login":
        if not client.login:
            raise BadSetting("login", "", "--auth login needs --login USER and --password-file F")
        if not client.password_hash:
            raise BadSetting("password", "", "--auth login needs --password-file F, or - for standard input")
    elif client.login:
        raise BadSetting("login", client.login, f"with --auth {client.auth} nobody logs in; give --auth login")
    if not client.networks and client.auth != "login":
        raise BadSetting("network", "", "give at least one --network, or let it log in with --auth login")
    if client.identity == "map" and not client.sender_map:
        raise BadSetting("map", "", "--identity map needs --map FROM=TO")
    on = tolerance(client.tolerate)
    if "bare-recipients" in on and not client.default_domain:
        raise BadSetting("default-domain", "", "--tolerate bare-recipients needs --default-domain D")
    if client.charset and "raw-8bit" not in on:
        raise BadSetting("charset", client.charset, "it is for raw 8-bit text: give --tolerate raw-8bit as well")


def checked_client_name(name: str) -> str:
    """A name that is safe in logs and on command lines. Raises BadSetting."""
    if not _NAME.fullmatch(name):
        raise BadSetting("name", name, "letters, digits, dots, hyphens, underscores; at most 64")
    return name


def checked_networks(
    networks: Iterable[str | IPv4Network | IPv6Network],
) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks of a client, each once. Raises BadSetting."""
    found: dict[IPv4Network | IPv6Network, None] = {}
    for network in networks:
        try:
            found[ip_network(network)] = None
        except ValueError as error:
            remedy = "a network in CIDR form such as 192.0.2.0/24, or one address"
            if "host bits" in str(error):
                remedy = f"its host bits are set; write {ip_network(network, strict=False)}"
            raise BadSetting("network", network, remedy) from None
    return tuple(found)


def checked_tolerate(switches: Sequence[str]) -> tuple[str, ...]:
    """Names of `mail.tolerance`, or `no-NAME`, each once. Raises BadSetting, which names the nearest right one."""
    for switch in switches:
        if not known_switch(switch):
            raise BadSetting("tolerate", switch or "an empty name", _nearest_switch(switch))
        if f"no-{switch}" in switches:
            raise BadSetting("tolerate", f"both {switch} and no-{switch}", "give one of the two")
    return tuple(dict.fromkeys(switches))


def changed_tolerate(before: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    """`given` as the whole list: `+NAME` puts a switch on and `-NAME` off, the others stay as they were `before`.

    Without signs `given` is the list.  Raises BadSetting.
    """
    signs = [switch[:1] in ("+", "-") for switch in given]
    if not any(signs):
        return given
    if not all(signs):
        remedy = "give each with + or - in front to change what there is, or none to replace it"
        raise BadSetting("tolerate", ", ".join(given), remedy)
    kept = dict.fromkeys(before)
    for switch in given:
        sign, name = switch[0], switch[1:]
        if name not in SWITCHES:
            remedy = f"write {'-' if sign == '+' else '+'}{name[3:]}" if name[3:] in SWITCHES else _nearest_switch(name)
            raise BadSetting("tolerate", switch, remedy)
        if {f"+{name}", f"-{name}"} <= set(given):
            raise BadSetting("tolerate", f"both +{name} and -{name}", "give one of the two")
        kept.pop(name, None)
        kept.pop(f"no-{name}", None)
        if (sign == "+") is not SWITCHES[name].default:
            kept[name if sign == "+" else f"no-{name}"] = None
    return list(kept)


def known_switch(name: str) -> bool:
    """Is it a switch of `mail.tolerance`, or one with `no-` in front?"""
    return name in SWITCHES or (name.startswith("no-") and name[3:] in SWITCHES)


def checked_charset(name: str) -> str:
    """The MIME name of a character set that holds 8-bit text. Raises BadSetting."""
    codec = ""
    if _CHARSET.fullmatch(name):
        try:
            codec = codecs.lookup(name).name
        except LookupError:
            pass
    if codec not in _CHARSETS:
        raise BadSetting("charset", name, "one for 8-bit text, such as windows-1252, iso-8859-15, ibm850 or utf-8")
    return _CHARSETS[codec]


def _nearest_switch(given: str) -> str:
    import difflib  # only for who misspelt one

    names = [*SWITCHES, *(f"no-{name}" for name in SWITCHES)]
    near = difflib.get_close_matches(given.lower().replace("_", "-")[:64], names, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"known are {', '.join(SWITCHES)}, each also as no-NAME"


def _patterns(field: str, normalised: Callable[[str], str]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    named = _named(field, normalised)

    def checked(patterns: Sequence[str]) -> tuple[str, ...]:
        _check_count(field, len(patterns))
        return tuple(dict.fromkeys(named(pattern) for pattern in patterns))

    return checked


def _named(field: str, checked: Callable[[str], str]) -> Callable[[str], str]:
    """A wrong address says where it was given."""

    def of_field(text: str) -> str:
        try:
            return checked(text)
        except BadAddress as error:
            raise BadSetting(field, error.text or "an empty text", error.remedy) from None

    return of_field


def _sender_map(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Each pattern once, in the order given."""
    _check_count("map", len(pairs))
    found: dict[str, str] = {}
    of_pattern, of_target = _named("map", normalise_pattern), _named("map", settled_address)
    for pattern, address in pairs:
        key, target = of_pattern(pattern), of_target(address)
        if found.setdefault(key, target) != target:
            raise BadSetting("map", f"{key}={target}", f"{key} goes to {found[key]} already; give one of the two")
    return tuple(found.items())


def _check_count(field: str, count: int) -> None:
    if count > _MOST:
        raise BadSetting(field, f"given {count} times", f"at most {_MOST} times; name domains instead")


def _choice(field: str, kind: Any, default: str) -> Callable[[str], str]:
    return lambda value: checked_choice(field, value or default, kind)


def _limit(field: str, most: int = LARGEST) -> Callable[[Any], int]:
    return lambda value: checked_number(field, value, 0, most, f"a whole number up to {most}; 0 means no limit")


def _or_none(checked: Callable[[str], str]) -> Callable[[str], str]:
    return lambda value: checked(value) if value else ""


def _default_domain(value: str) -> str:
    try:
        return settled_address(f"postmaster@{value.strip().removeprefix('@')}").rpartition("@")[2]
    except BadAddress:
        raise BadSetting("default-domain", value, "a domain name such as example.com") from None


def _hash(value: str) -> str:
    if not _HASH.fullmatch(value):
        raise BadSetting("password", "kept like this", "make it with passwords.hash_password")
    return value


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "networks": checked_networks,
    "senders": _patterns("sender", normalise_pattern),
    "answer": _choice("answer", Answer, "queued"),
    "tolerate": checked_tolerate,
    "auth": _choice("auth", ClientAuth, "none"),
    "login": _or_none(checked_login),
    "password_hash": _or_none(_hash),
    "identity": _choice("identity", Identity, "envelope"),
    "sender_map": _sender_map,
    "messages_per_minute": _limit("messages-per-minute"),
    "recipients_per_minute": _limit("recipients-per-minute"),
    "bytes_per_day": _limit("bytes-per-day", _LARGEST_DAY),
    "recipients": _patterns("recipient", normalise_recipient_pattern),
    "denied": _patterns("deny", normalise_recipient_pattern),
    "capture": _or_none(_named("capture", settled_address)),
    "default_domain": _or_none(_default_domain),
    "charset": _or_none(checked_charset),
}
