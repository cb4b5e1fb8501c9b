"""Reads smtprelay.ini of decke/smtprelay: remotes as URLs, chosen by sender."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from relay.control.imports.ini import Section, read_ini
from relay.control.imports.plan import BadConfiguration, Line, Plan, host_port, lines_of, yes

_PORTS = {"smtp": 25, "smtps": 465, "starttls": 587}
_LISTED = {
    "allowed_nets": "RELAY_LISTENER__ALLOWED_NETWORKS={value}, and relay client add NAME --network …",
    "allowed_sender": "relay client add NAME --network CIDR --sender PATTERN",
    "allowed_recipients": "relay client add NAME --network CIDR --recipient PATTERN",
    "listen": "RELAY_LISTENERS, see relay.env.example",
    "local_cert": "RELAY_LISTENER__TLS_CERT={value}",
    "local_key": "RELAY_LISTENER__TLS_KEY={value}",
    "aliases_file": "relay client add NAME --map FROM=TO",
    "max_recipients": "RELAY_LISTENER__MAX_RECIPIENTS={value}",
    "max_message_size": "RELAY_LISTENER__MAX_MESSAGE_BYTES={value}",
}


def read_decke(paths: list[Path]) -> Plan:
    """The plan of one or more configuration files."""
    plan = Plan()
    for path in paths:
        [values, *others] = read_ini(path)
        for section in others:
            raise BadConfiguration(section.place, "smtprelay.ini has no sections", "give the file of decke/smtprelay")
        _remotes(values, plan)
        for name, by_hand in _LISTED.items():
            if value := values.get(name):
                shown = ",".join(value.split())[:200]
                plan.leave(values.at(name), f"{name} = {shown}", by_hand.format(value=shown))
        if file := values.get("allowed_users"):
            _users(path.parent / file, plan)
    return plan


def _remotes(values: Section, plan: Plan) -> None:
    strict, default = yes(values.get("strict_sender")), False
    for text in values.get("remotes").split():
        account, sender = _remote(text, values, plan)
        if sender:
            plan.sender(sender, account, values.at("remotes"))
        elif not strict and not default:
            plan.sender("*", account, values.at("remotes"))
            default = True
        else:
            plan.leave(
                values.at("remotes"), f"the remote {account} without a sender", f"relay sender add PATTERN {account}"
            )
    if values.get("remote_host"):  # as it was before version 1.8
        host, port = host_port(values.get("remote_host"), values.at("remote_host"), default=587)
        _plan(
            values,
            plan,
            host,
            port,
            "starttls" if port != 465 else "implicit",
            values.get("remote_user"),
            values.get("remote_pass"),
        )


def _plan(values: Section, plan: Plan, host: str, port: int, tls: str, user: str, password: str) -> None:
    sender = values.get("remote_sender")
    settings = {"host": host, "port": str(port), "tls": tls}
    address = user if "@" in user else sender or user or f"any@{host}"
    if not user:
        settings["auth"] = "none"
    elif user != address:
        settings["login"] = user
    name = plan.account(values.at("remote_host"), settings, {"password": password} if user else {}, address=address)
    plan.sender(sender or "*", name, values.at("remote_host"))


def _remote(text: str, values: Section, plan: Plan) -> tuple[str, str]:
    """One URL: `scheme://user:password@host:port/sender`; the account's address and the sender."""
    place = values.at("remotes")
    try:
        url = urlsplit(text)
        port = url.port or _PORTS[url.scheme]
    except (ValueError, KeyError):
        raise BadConfiguration(place, "a remote is no URL", "write starttls://user:password@host:587/sender") from None
    host, sender = url.hostname or "", unquote(url.path.removeprefix("/"))
    if not host:
        raise BadConfiguration(place, "a remote names no host", "write starttls://user:password@host:587/sender")
    settings = {"host": host, "port": str(port), "tls": "implicit" if url.scheme == "smtps" else "starttls"}
    user, password = unquote(url.username or ""), unquote(url.password or "")
    address = user if "@" in user else sender or user or f"any@{host}"
    if not user:
        settings["auth"] = "none"
    elif user != address:
        settings["login"] = user
    name = plan.account(place, settings, {"password": password} if user else {}, address=address)
    if url.scheme == "smtp":
        plan.leave(place, f"{host} without TLS: the relay uses STARTTLS", f"relay account set {name} --tls …")
    if "skipverify" in url.query.lower():
        plan.leave(place, f"{host} without a verified certificate", f"relay account set {name} --trust …")
    return name, sender


def _users(path: Path, plan: Plan) -> None:
    for line in lines_of(path):
        parts = line.text.split()
        if parts and not line.text.lstrip().startswith("#"):
            _user(line, parts, plan)


def _user(line: Line, parts: list[str], plan: Plan) -> None:
    senders = "".join(f" --sender {sender}" for sender in (parts[2].split(",") if len(parts) > 2 else []))
    plan.leave(
        line.place,
        f"the login {parts[0][:80]}, whose password is only known as bcrypt",
        f"relay client add {parts[0][:80]} --auth login --login {parts[0][:80]} --password-file F{senders}",
    )
