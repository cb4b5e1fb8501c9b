"""Reads an msmtp configuration (msmtp(1), CONFIGURATION FILES)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relay.control.imports.plan import BadConfiguration, Line, Place, Plan, lines_of, yes

_IGNORED = frozenset(  # of its own running, or what the relay does anyway
    {"logfile", "logfile_time_format", "syslog", "aliases", "timeout", "connect_timeout", "protocol"}
    | {"keepbcc", "add_missing_from_header", "add_missing_date_header", "remove_bcc_headers"}
    | {"undisclosed_recipients", "dsn_notify", "dsn_return", "domain", "auto_from", "maildomain"}
    | {"set_from_header", "set_date_header", "set_msgid_header", "allow_from_override", "tls_priorities"}
    | {"tls_min_dh_prime_bits", "source_ip", "socket", "tls_host_override", "eval", "tls_crl_file"}
)  # fmt: skip
_USED = frozenset(
    {"host", "port", "from", "auth", "user", "password", "passwordeval", "tls", "tls_starttls"}
    | {"tls_trust_file", "tls_fingerprint", "tls_certcheck", "tls_key_file", "tls_cert_file", "proxy_host"}
    | {"proxy_port", "ntlmdomain"}
)  # fmt: skip


@dataclass(slots=True)
class _Account:
    name: str
    place: Place
    values: dict[str, Line] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        return self.values[name].text if name in self.values else default

    def at(self, name: str) -> Place:
        return self.values[name].place if name in self.values else self.place


def read_msmtp(paths: list[Path]) -> Plan:
    """The plan of one or more configuration files; of accounts of one name the first counts."""
    plan = Plan()
    accounts: dict[str, _Account] = {}
    for path in paths:
        for name, account in _accounts(lines_of(path), plan).items():
            accounts.setdefault(name, account)
    default = accounts.pop("default", None)
    for account in accounts.values():
        _plan(account, plan, default=False)
    if default is not None:
        _plan(default, plan, default=True)
    return plan


def _accounts(lines: list[Line], plan: Plan) -> dict[str, _Account]:
    defaults: dict[str, Line] = {}
    accounts: dict[str, _Account] = {}
    into = defaults  # what stands before any account belongs to the defaults, too
    for line in lines:
        name, value = _split(line)
        if name == "":
            continue
        if name == "defaults":
            defaults = into = {}
        elif name == "account":
            account = _begun(line, value, defaults, accounts)
            accounts[account.name] = account
            into = account.values
        elif name in _USED:
            into[name] = Line(line.place, value)
        elif name not in _IGNORED:
            plan.leave(line.place, f"msmtp's {name[:40]}", "see relay account set --help")
    return accounts


def _begun(line: Line, value: str, defaults: dict[str, Line], accounts: dict[str, _Account]) -> _Account:
    """`account NAME [: OTHER[, OTHER…]]`: defaults first, then what it takes over."""
    name, _, others = (part.strip() for part in value.partition(":"))
    if not name or name in accounts:
        raise BadConfiguration(line.place, f"account {name[:40]!r} has no name of its own", "name each account once")
    account = _Account(name, line.place, dict(defaults))
    for other in filter(None, (part.strip() for part in others.split(","))):
        if other not in accounts:
            raise BadConfiguration(line.place, f"there is no account {other[:40]!r} before it", "name one above")
        account.values |= accounts[other].values
    return account


def _split(line: Line) -> tuple[str, str]:
    text = line.text.strip()
    if not text or text.startswith("#"):
        return "", ""
    name, _, value = text.partition(" ") if " " in text else text.partition("\t")
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return name.lower(), value


def _plan(account: _Account, plan: Plan, *, default: bool) -> None:
    host = account.get("host")
    if not host:
        plan.leave(account.place, f"account {account.name}, which names no host", "relay account add ADDRESS --host H")
        return
    implicit = yes(account.get("tls")) and account.get("tls_starttls", "on") == "off"
    port = account.get("port") or ("465" if implicit else "25")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadConfiguration(account.at("port"), "is no port", "write a number below 65536")
    settings = {"host": host, "port": port, "tls": "implicit" if implicit else "starttls"}
    auth = account.get("auth", "off")
    login, sender = account.get("user"), account.get("from")
    address = login if "@" in login else (sender if "*" not in sender and "@" in sender else login)
    shown = address or "ADDRESS"
    if auth == "off" or not login:
        settings["auth"] = "none"
    elif auth in ("oauthbearer", "xoauth2"):
        add = f"relay account add {shown} --host {host} --port {port} --auth oauth-code"
        command = f"{add}, then relay account connect {shown}"
        plan.leave(account.at("auth"), f"account {account.name}, which signs in by OAuth with a program", command)
        return
    elif login != address:
        settings["login"] = login
    secrets = {}
    if settings.get("auth") != "none":
        if "password" in account.values:
            secrets["password"] = account.get("password")
        else:
            what = "passwordeval, a program of yours" if "passwordeval" in account.values else "a password in a keyring"
            plan.leave(account.at("passwordeval"), what, f"relay account set-password {shown}")
    _trust(account, plan, settings, shown)
    name = plan.account(account.place, settings, secrets, address=address or account.name)
    _senders(account, plan, name, default=default)


def _trust(account: _Account, plan: Plan, settings: dict[str, str], shown: str) -> None:
    fingerprint = account.get("tls_fingerprint").replace(":", "").lower()
    if len(fingerprint) == 64:
        settings["trust"] = f"sha256:{fingerprint}"
    elif fingerprint:
        plan.leave(
            account.at("tls_fingerprint"),
            "a fingerprint that is not SHA-256",
            f"relay account set {shown} --trust sha256:…",
        )
    file = account.get("tls_trust_file")
    if file and file != "system" and "ca-certificates" not in file and not fingerprint:
        plan.leave(account.at("tls_trust_file"), "a CA file of its own", f"relay account set {shown} --trust {file}")
    if not yes(account.get("tls")):
        plan.leave(account.at("tls"), "no TLS: the relay uses STARTTLS", f"relay account set {shown} --tls …")
    if account.get("tls_certcheck", "on") == "off":
        plan.leave(
            account.at("tls_certcheck"),
            "an unchecked certificate: it is checked here",
            f"relay account set {shown} --trust …",
        )
    for name in ("tls_cert_file", "proxy_host"):
        if name in account.values:
            plan.leave(account.at(name), name, f"see `relay account set {shown} --help`")


def _senders(account: _Account, plan: Plan, name: str, *, default: bool) -> None:
    sender = account.get("from")
    if sender.startswith("*@") and "*" not in sender[1:]:
        plan.sender(sender[1:], name, account.at("from"))
    elif "*" in sender or "?" in sender or "%" in sender:
        plan.leave(account.at("from"), f"the sender pattern {sender[:80]}", f"relay sender add ADDRESS {name}")
    elif "@" in sender:
        plan.sender(sender, name, account.at("from"))
    if default:  # msmtp takes it for every sender that no other account has
        plan.sender("*", name, account.place)
