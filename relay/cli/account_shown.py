"""`relay account list` and `relay account show`: accounts as people read them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relay.cli.output import Json, facts, moment, print_json, say, steps, table
from relay.cli.session import perform

_APIS = {"graph": "Microsoft Graph", "gmail": "Gmail API"}

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The account: its mailbox address.")]


def list_(
    auth: Annotated[
        bool, typer.Option("--auth", help="How each one logs in, and until when its provider takes a password.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Every account, and how it is doing."""
    if auth:
        _list_logins(as_json=as_json)
        return
    result = perform("account.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("ACCOUNT", "PROVIDER", "UPSTREAM", "STATE", "WAITING", "SENDERS"),
        [
            (entry["address"], entry["provider"], where(entry), _state(entry), entry["waiting"], len(entry["senders"]))
            for entry in result
        ],
        nothing="No account yet: relay account add ADDRESS",
    )


def _list_logins(*, as_json: bool) -> None:
    result = perform("account.logins", {})
    if as_json:
        print_json(result)
        return
    table(
        ("ACCOUNT", "PROVIDER", "LOGIN BY", "PASSWORD UNTIL", "ENDS", "MOVE IT WITH"),
        [
            (
                entry["address"],
                entry["provider"],
                entry["auth"],
                entry["password_until"],
                _ends(entry["ends"][:1]),
                entry["command"],
            )
            for entry in result
        ],
        nothing="No account yet: relay account add ADDRESS",
    )
    notes = {entry["provider_name"]: entry["password_note"] for entry in result if entry["password_note"]}
    for name, text in notes.items():
        say(f"{name}: {text}.")
    left = sum(entry["uses_password"] for entry in result)
    if result:
        say(f"Logging in with a password: {left} of {len(result)}.")


def show(address: Address, as_json: Json = False) -> None:
    """One account with its settings, state and senders. Never its password."""
    entry = perform("account.show", {"account": address})
    if as_json:
        print_json(entry)
        return
    lane = entry["lane"] or {}
    facts(
        [
            ("Account", entry["address"]),
            ("Provider", entry["provider"]),
            ("Upstream", where(entry)),
            ("Moves to", _APIS.get(entry["fallback"], "")),
            ("Certificate", entry["trust"] or ("checked against the system's CAs" if entry["tls"] != "none" else "")),
            ("Way out", entry["path"]),
            ("Login", entry["login"]),
            ("Authentication", entry["auth"]),
            *_app(entry["oauth"]),
            ("Token until", moment(entry["token_until"])),
            ("Sign-in used", moment(entry["grant_used_at"])),
            ("Ends", _ends(entry["ends"])),
            ("Stored", ", ".join(entry["secrets"]) or "no secret"),
            ("Connections", entry["max_connections"] or "no limit"),
            ("Per minute", entry["per_minute"] or "no limit"),
            ("Per day", entry["per_day"] or "no limit"),
            ("In doubt", entry["in_doubt"]),
            ("IMAP", f"{where(entry['imap'])}, login {entry['imap']['login']}" if entry["imap"] else ""),
            ("Owner", entry["owner"]),
            ("Null sender", "taken" if entry["null_sender"] else ""),
            ("Bounces", f"looked for in {entry['bounces']}" if entry["bounces"] else ""),
            ("Sent copies", "filed by the relay" if entry["files_copies"] else ""),
            ("State", _state(entry)),
            ("Since", moment(entry["state_since"])),
            ("Who must act", entry["who"]),
            ("Reply", entry["state_reply"]),
            ("Cause", entry["cause"]),
            ("Logins refused", _tries(entry["login_tries"])),
            ("Waiting", entry["waiting"]),
            ("Lane", ", ".join(f"{name} {value}" for name, value in lane.items() if value)),
            ("Senders", ", ".join(entry["senders"]) or "none"),
            ("Declared in", entry["managed_by"]),
        ]
    )
    if entry["remedy"]:
        say("What to do:")
        steps(entry["remedy"])


def where(entry: Mapping[str, Any]) -> str:
    """`host:port tls`, or whose HTTP API and where."""
    if entry.get("transport", "smtp") != "smtp":  # an IMAP server has none
        return f"{_APIS[entry['transport']]} at {entry['host']}:{entry['port']}"
    return f"{entry['host']}:{entry['port']} {entry['tls']}"


def _state(entry: Mapping[str, Any]) -> str:
    if entry["state"] == "suspended":
        who = f": {entry['who']}" if entry["who"] and entry["state_cause"] != "operator" else ""
        return f"suspended ({entry['state_cause']}{who})" if entry["state_cause"] else "suspended"
    resting = (entry["lane"] or {}).get("resting_s")
    return f"resting {resting}s" if resting else str(entry["state"])


def _ends(ends: list[Mapping[str, Any]]) -> str:
    """`secret 2027-05-31, sign-in 2027-06-02`."""
    names = {"grant": "sign-in"}
    return ", ".join(f"{names.get(end['what'], end['what'])} {end['at'][:10]}" for end in ends)


def _tries(tries: Mapping[str, int]) -> str:
    if not any(tries.values()):
        return ""
    return f"{tries['relay']} of 3 this hour, and {tries['person']} that a person asked for"


def _app(oauth: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """The OAuth settings, times as days."""
    shown = []
    for name, value in (oauth or {}).items():
        if name.endswith("_expires_at"):
            value = time.strftime("%Y-%m-%d", time.gmtime(value / 1000))
        shown.append((f"OAuth {name.removesuffix('_at').replace('_', ' ')}", value))
    return shown
