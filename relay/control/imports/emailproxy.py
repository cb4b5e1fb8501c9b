"""Reads the configuration of email-oauth2-proxy: servers by port, accounts by address."""

from __future__ import annotations

import re
from pathlib import Path

from relay.control.imports.ini import Section, read_ini
from relay.control.imports.plan import Plan, yes

_MICROSOFT = re.compile(r"https://login\.microsoftonline\.com/([^/]+)/oauth2/", re.IGNORECASE)
_GOOGLE = re.compile(r"https://(?:oauth2\.googleapis\.com|accounts\.google\.com|www\.googleapis\.com)/", re.IGNORECASE)
_FLOWS = {
    "": "oauth-code",
    "authorization_code": "oauth-code",
    "device": "oauth-device",
    "client_credentials": "oauth-app",
}
_TENANTS = ("common", "organizations")  # what is taken anyway


def read_emailproxy(paths: list[Path]) -> Plan:
    """The plan of one or more configuration files."""
    plan = Plan()
    for path in paths:
        sections = read_ini(path)
        servers = [section for section in sections if section.name.upper().startswith("SMTP-")]
        for section in sections:
            if "@" not in section.name:
                continue
            if section.name.startswith("@"):
                plan.leave(
                    section.place,
                    f"the catch-all {section.name[:80]}",
                    f"relay account add ADDRESS for each mailbox, or relay sender add {section.name[:80]} ACCOUNT",
                )
            else:
                _account(section, servers, plan)
    return plan


def _account(section: Section, servers: list[Section], plan: Plan) -> None:
    address = section.name
    token_url = section.get("token_url")
    microsoft, google = _MICROSOFT.match(token_url), bool(_GOOGLE.match(token_url))
    flow = section.get("oauth2_flow").lower()
    if flow not in _FLOWS or "jwt_certificate_path" in section.values:
        by_hand = "--auth service-account" if flow == "service_account" else "--auth oauth-app --certificate-file F"
        plan.leave(
            section.at("oauth2_flow"),
            f"{address} with the flow {flow[:40] or 'certificate'}",
            f"relay account add {address} {by_hand}",
        )
        return
    server = _server(servers, "office365" if microsoft else "gmail" if google else "")
    settings = {"auth": _FLOWS[flow]}
    if microsoft:
        settings["provider"] = "m365"
        if microsoft[1] not in _TENANTS:
            settings["tenant"] = microsoft[1]
    elif google:
        settings["provider"] = "gmail"
    elif server is None:
        plan.leave(
            section.place,
            f"{address}: no SMTP server is its own",
            f"relay account add {address} --host H --auth oauth-code",
        )
        return
    else:
        settings |= {
            "token_url": token_url,
            "authorize_url": section.get("permission_url"),
            "scope": section.get("oauth2_scope"),
        }
    if server is not None and not google and not microsoft:
        settings |= {
            "host": server.get("server_address"),
            "port": server.get("server_port", "587"),
            "tls": "starttls" if yes(server.get("starttls")) else "implicit",
        }
    client_id, secret = section.get("client_id"), section.get("client_secret")
    if not client_id or client_id.startswith("***"):
        plan.leave(
            section.at("client_id"), f"{address} has no client id", f"relay account add {address} --client-id ID …"
        )
        return
    settings["client_id"] = client_id
    secrets = {"client_secret": secret} if secret and not secret.startswith("***") else {}
    if "client_secret_encrypted" in section.values:
        plan.leave(
            section.at("client_secret_encrypted"),
            "an encrypted client secret",
            f"relay account set {address} --client-secret-file F",
        )
    plan.account(section.place, settings, secrets, address=address)
    plan.sender(address, address, section.place)
    if settings["auth"] != "oauth-app":
        what = (
            "its tokens, encrypted with the mail program's password"
            if "access_token" in section.values
            else "no sign-in yet"
        )
        plan.leave(section.at("access_token"), f"{address}: {what}", f"relay account connect {address}")


def _server(servers: list[Section], part: str) -> Section | None:
    fitting = [server for server in servers if part and part in server.get("server_address").lower()]
    if fitting:
        return fitting[0]
    return servers[0] if len(servers) == 1 and not part else None
