"""Reads a Postfix configuration: relayhost and SASL maps, by sender (postconf(5), SASL_README)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.control.imports.plan import BadConfiguration, Line, Place, Plan, host_port, joined, lines_of, yes

_NAME = re.compile(r"\$(?:\{(\w+)\}|\((\w+)\)|(\w+))")
_TEXT_TABLES = ("hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash")
_DEFAULTS = {"config_directory": "/etc/postfix", "smtp_sender_dependent_authentication": "no", "relayhost": ""}
_REWRITING = ("sender_canonical_maps", "canonical_maps", "smtp_generic_maps")
_MAPPED = (
    "relay client add NAME --network CIDR --map FROM=TO for each, or relay sender add PATTERN ACCOUNT --from rewrite"
)
_LISTED = {  # parameter: what it does there, and how it is done here
    "mynetworks": (
        "who may connect",
        "RELAY_LISTENER__ALLOWED_NETWORKS={value}, and relay client add NAME --network …",
    ),
    "sender_dependent_default_transport_maps": ("transports by sender", "relay sender add PATTERN ACCOUNT"),
    "transport_maps": ("routes by recipient: here the sender decides", "relay sender add PATTERN ACCOUNT"),
    "smtp_tls_policy_maps": ("TLS rules by destination: TLS is always verified here", "relay account set A --trust …"),
    "smtp_header_checks": ("header rules", "relay client add NAME --tolerate …"),
    "always_bcc": ("a copy of each mail", "a rule at the provider"),
    "smtpd_client_message_rate_limit": ("rates", "relay client set NAME --messages-per-minute N"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    value: str
    place: Place


class _Main:
    """`main.cf`, expanded, and the tables it names."""

    def __init__(self, path: Path, others: list[Path], plan: Plan) -> None:
        self.path, self._others, self._plan = path, others, plan
        self.places: dict[str, Place] = {}
        self._values: dict[str, str] = dict(_DEFAULTS)
        for line in joined(lines_of(path)):
            name, equals, value = line.text.partition("=")
            if not equals or not re.fullmatch(r"\w+", name.strip()):
                raise BadConfiguration(line.place, "is not `name = value`", "see `postconf -n`")
            self._values[name.strip()] = value.strip()
            self.places[name.strip()] = line.place

    def get(self, name: str, depth: int = 0) -> str:
        """The value with every `$name` in it replaced."""
        if depth > 10:
            raise BadConfiguration(self.at(name), f"{name} refers to itself", "see `postconf -n`")

        def value(match: re.Match[str]) -> str:
            return self.get(next(filter(None, match.groups())), depth + 1)

        return _NAME.sub(value, self._values.get(name, ""))

    def at(self, name: str) -> Place:
        return self.places.get(name, Place(self.path, 0))

    def table(self, name: str) -> list[_Entry]:
        """The entries of every text table that a parameter names, in order; other kinds are left."""
        entries: list[_Entry] = []
        for part in filter(None, re.split(r"[,\s]+", self.get(name))):
            kind, colon, where = part.partition(":")
            if kind == "static" and name == "smtp_sasl_password_maps":
                entries.append(_Entry("*", where, self.at(name)))
            elif colon and kind in _TEXT_TABLES:
                entries += [_entry(line) for line in joined(lines_of(self._found(Path(where))))]
            else:
                by_hand = _MAPPED if name in _REWRITING else "relay account add for each of its entries"
                self._plan.leave(self.at(name), f"{name} of the kind {kind[:40]}", by_hand)
        return entries

    def _found(self, path: Path) -> Path:
        """Where a table is: there, or as a copy beside main.cf or among the given files."""
        if not path.is_absolute():
            path = self.path.parent / path
        for candidate in (*(other for other in self._others if other.name == path.name), self.path.parent / path.name):
            if candidate.is_file():
                return candidate
        return path


def _entry(line: Line) -> _Entry:
    key, _, value = line.text.replace("\t", " ").partition(" ")
    if not value.strip():
        raise BadConfiguration(line.place, "has a key without a value", "write key and value with a space between")
    return _Entry(key, value.strip(), line.place)


def read_postfix(paths: list[Path]) -> Plan:
    """The plan of a folder with main.cf, or of main.cf and its tables."""
    plan = Plan()
    folders = [path / "main.cf" for path in paths if path.is_dir()]
    files = [path for path in paths if not path.is_dir()]
    mains = folders + [path for path in files if path.name == "main.cf"]
    if not mains:
        raise BadConfiguration(Place(paths[0], 0), "is neither main.cf nor its folder", "give /etc/postfix, or main.cf")
    main = _Main(mains[0], [path for path in files if path.name != "main.cf"], plan)
    passwords = main.table("smtp_sasl_password_maps") if yes(main.get("smtp_sasl_auth_enable")) else []
    hops = main.table("sender_dependent_relayhost_maps")
    by_sender = yes(main.get("smtp_sender_dependent_authentication"))
    known = {entry.key.lower(): entry for entry in reversed(passwords)}
    routes = {entry.key.lower(): entry for entry in reversed(hops)}
    default = main.get("relayhost")
    senders = [entry for entry in hops if "@" in entry.key]
    if by_sender:
        senders += [entry for entry in passwords if "@" in entry.key and entry.key.lower() not in routes]
    else:
        for entry in passwords:
            if "@" in entry.key:
                plan.leave(
                    entry.place, f"the login of {entry.key}: Postfix does not use it either", "relay account add …"
                )
    for entry in sorted(senders, key=lambda entry: entry.key.startswith("@")):
        key = entry.key.lower()
        domain = f"@{key.rpartition('@')[2]}"
        hop = routes.get(key) or routes.get(domain)
        text = hop.value if hop is not None and hop.value.upper() != "DUNNO" else default
        if not text:
            plan.leave(
                entry.place, f"{entry.key}: sent to the recipient's own servers", f"relay account add {entry.key} …"
            )
            continue
        login = (known.get(key) or known.get(domain)) if by_sender else None
        _add(main, plan, entry.place, text, login or _of_hop(known, text), pattern=entry.key)
    if default:
        _add(main, plan, main.at("relayhost"), default, _of_hop(known, default), pattern="*")
    for name, (what, by_hand) in _LISTED.items():
        if name in main.places:
            plan.leave(main.at(name), f"{name}: {what}", by_hand.format(value=",".join(main.get(name).split())[:200]))
    for name in _REWRITING:
        for entry in main.table(name) if name in main.places else []:
            plan.leave(
                entry.place,
                f"{entry.key} is sent as {entry.value} ({name})",
                f"relay client add NAME --network CIDR --map {entry.key}={entry.value}",
            )
    return plan


def _of_hop(known: Mapping[str, _Entry], hop: str) -> _Entry | None:
    """By the next hop as it is written, then by its host name (SASL_README)."""
    host = hop.strip().removeprefix("[").partition("]")[0].partition(":")[0]
    return known.get(hop.strip().lower()) or known.get(host.lower()) or known.get(f"[{host}]".lower()) or known.get("*")


def _add(main: _Main, plan: Plan, place: Place, hop: str, login: _Entry | None, *, pattern: str) -> None:
    host, port = host_port(hop, place, default=25)
    implicit = yes(main.get("smtp_tls_wrappermode")) or port == 465
    settings = {"host": host, "port": str(port), "tls": "implicit" if implicit else "starttls"}
    secrets: dict[str, str] = {}
    address = pattern if "@" in pattern[1:] else ""
    if login is None:
        settings["auth"] = "none"
        address = address or f"any@{host}"
    else:
        user, colon, password = login.value.partition(":")
        if not colon or not user:
            raise BadConfiguration(login.place, "is not `user:password`", "see SASL_README")
        address = user if "@" in user else address or user
        if user != address:
            settings["login"] = user
        if "xoauth2" in main.get("smtp_sasl_mechanism_filter").lower():
            command = (
                f"relay account add {address} --host {host} --auth oauth-code, then relay account connect {address}"
            )
            plan.leave(login.place, f"the OAuth token file of {user}", command)
            return
        secrets["password"] = password
    name = plan.account(login.place if login is not None else place, settings, secrets, address=address)
    plan.sender(pattern, name, place)
    if main.get("smtp_tls_CAfile") and "ca-certificates" not in main.get("smtp_tls_CAfile") and pattern == "*":
        file = main.get("smtp_tls_CAfile")
        plan.leave(main.at("smtp_tls_CAfile"), "a CA file of its own", f"relay account set {name} --trust {file}")
