"""`relay client …`: which application may send as whom and to whom, and how it is treated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from relay.cli import trying
from relay.cli.asking import PasswordFile, read_password
from relay.cli.output import Json, facts, moment, print_json, say, table
from relay.cli.session import perform

Name = Annotated[str, typer.Argument(metavar="NAME", help="What you call the application.")]
Network = Annotated[
    list[str] | None, typer.Option("--network", metavar="CIDR", help="Where it connects from; several times or a list.")
]
Sender = Annotated[
    list[str] | None,
    typer.Option("--sender", metavar="PATTERN", help="Whom it may send as; left out: every registered sender."),
]
Answer = Annotated[
    str | None,
    typer.Option("--answer", metavar="queued|direct", help="Reply once it is queued, or with the provider's verdict."),
]
Tolerate = Annotated[
    list[str] | None,
    typer.Option(
        "--tolerate",
        metavar="SWITCH",
        help="A fault to put up with (see `relay client switches`); +SWITCH and -SWITCH change what there is.",
    ),
]
Auth = Annotated[
    str | None,
    typer.Option("--auth", metavar="none|login|accept-any", help="Must it log in? accept-any: any password will do."),
]
Login = Annotated[str | None, typer.Option("--login", metavar="USER", help="The name it logs in with.")]
Identity = Annotated[
    str | None,
    typer.Option("--identity", metavar="envelope|header|map", help="What says whose mail it is."),
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FROM=TO", help="Its mail from FROM (an address, @dom, *) is mail from TO."),
]
MessagesPerMinute = Annotated[int | None, typer.Option("--messages-per-minute", min=0, help="0: no limit.")]
RecipientsPerMinute = Annotated[int | None, typer.Option("--recipients-per-minute", min=0, help="0: no limit.")]
BytesPerDay = Annotated[int | None, typer.Option("--bytes-per-day", min=0, help="In 24 hours; 0: no limit.")]
Recipient = Annotated[
    list[str] | None,
    typer.Option("--recipient", metavar="PATTERN", help="Whom alone it may send to: addr@dom, @dom, @*.dom."),
]
Deny = Annotated[list[str] | None, typer.Option("--deny", metavar="PATTERN", help="Whom it may not send to.")]
Capture = Annotated[
    str | None, typer.Option("--capture", metavar="ADDR", help="All its mail goes there alone: for test systems.")
]
DefaultDomain = Annotated[str | None, typer.Option("--default-domain", metavar="D", help="For recipients without one.")]
Charset = Annotated[
    str | None, typer.Option("--charset", metavar="NAME", help="Of its raw 8-bit text, such as windows-1252.")
]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("add", epilog="Example: relay client add erp --network 10.1.2.0/24 --sender billing@example.com")(add)
    group.command("set", epilog="Example: relay client set erp --tolerate +no-brackets --messages-per-minute 60")(
        change
    )
    group.command("list", epilog="Example: relay client list")(list_)
    group.command("show", epilog="Example: relay client show erp")(show)
    group.command("remove", epilog="Example: relay client remove erp")(remove)
    group.command("switches", epilog="Example: relay client switches")(switches)
    trying.register(group)


def add(
    name: Name,
    network: Network = None,
    sender: Sender = None,
    answer: Answer = None,
    tolerate: Tolerate = None,
    auth: Auth = None,
    login: Login = None,
    password_file: PasswordFile = None,
    identity: Identity = None,
    sender_map: Map = None,
    messages_per_minute: MessagesPerMinute = None,
    recipients_per_minute: RecipientsPerMinute = None,
    bytes_per_day: BytesPerDay = None,
    recipient: Recipient = None,
    deny: Deny = None,
    capture: Capture = None,
    default_domain: DefaultDomain = None,
    charset: Charset = None,
    as_json: Json = False,
) -> None:
    """Bind an application to the senders it may use."""
    logs_in = auth == "login" or (login and auth is None)
    if not network and not logs_in:
        raise typer.BadParameter("is needed unless it logs in (--auth login)", param_hint="--network")
    if logs_in and not login:
        raise typer.BadParameter("is needed for --auth login", param_hint="--login")
    result = perform(
        "client.add",
        {
            "name": name,
            "networks": _parts(network),
            "senders": _parts(sender),
            "answer": answer,
            "tolerate": _parts(tolerate),
            "auth": auth,
            "login": login,
            "password": read_password(password_file, name) if logs_in or password_file is not None else None,
            "identity": identity,
            "sender_map": _parts(sender_map),
            "messages_per_minute": messages_per_minute,
            "recipients_per_minute": recipients_per_minute,
            "bytes_per_day": bytes_per_day,
            "recipients": _parts(recipient),
            "denied": _parts(deny),
            "capture": capture,
            "default_domain": default_domain,
            "charset": charset,
        },
    )
    _tell("Added", result, as_json)


def change(
    name: Name,
    network: Network = None,
    sender: Sender = None,
    answer: Answer = None,
    tolerate: Tolerate = None,
    auth: Auth = None,
    login: Login = None,
    password_file: PasswordFile = None,
    identity: Identity = None,
    sender_map: Map = None,
    messages_per_minute: MessagesPerMinute = None,
    recipients_per_minute: RecipientsPerMinute = None,
    bytes_per_day: BytesPerDay = None,
    recipient: Recipient = None,
    deny: Deny = None,
    capture: Capture = None,
    default_domain: DefaultDomain = None,
    charset: Charset = None,
    as_json: Json = False,
) -> None:
    """Change what is given; an empty value clears.

    The values of an option replace all that it had; only --tolerate +SWITCH and -SWITCH leave the others alone.
    It counts for whoever connects from now on.
    """
    result = perform(
        "client.set",
        {
            "name": name,
            "networks": _parts(network),
            "senders": _parts(sender),
            "answer": answer,
            "tolerate": _parts(tolerate),
            "auth": auth,
            "login": login,
            "password": read_password(password_file, name) if password_file is not None else None,
            "identity": identity,
            "sender_map": _parts(sender_map),
            "messages_per_minute": messages_per_minute,
            "recipients_per_minute": recipients_per_minute,
            "bytes_per_day": bytes_per_day,
            "recipients": _parts(recipient),
            "denied": _parts(deny),
            "capture": capture,
            "default_domain": default_domain,
            "charset": charset,
        },
    )
    _tell("Changed", result, as_json)


def list_(as_json: Json = False) -> None:
    """Every application."""
    result = perform("client.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("CLIENT", "NETWORKS", "LOGIN", "SENDERS", "ANSWER"),
        [
            (
                entry["name"],
                ", ".join(entry["networks"]),
                entry["login"] or ("any" if entry["auth"] == "accept-any" else ""),
                ", ".join(entry["senders"]) or "every registered one",
                entry["answer"],
            )
            for entry in result
        ],
        nothing="No client is defined: any allowed network may use any registered sender.",
    )


def show(name: Name, as_json: Json = False) -> None:
    """One application with all that is set. Never its password."""
    entry = perform("client.show", {"name": name})
    if as_json:
        print_json(entry)
        return
    facts(
        [
            ("Client", entry["name"]),
            ("Networks", ", ".join(entry["networks"])),
            ("Authentication", entry["auth"]),
            ("Login", f"{entry['login']} (password set)" if entry["login"] else ""),
            ("Senders", ", ".join(entry["senders"]) or "every registered one"),
            ("Whose mail", _IDENTITIES.get(entry["identity"], entry["identity"])),
            ("Map", ", ".join(entry["sender_map"])),
            ("Recipients", ", ".join(entry["recipients"])),
            ("Denied", ", ".join(entry["denied"])),
            ("Capture", entry["capture"]),
            ("Messages", _limit(entry["messages_per_minute"], "a minute")),
            ("Recipients rate", _limit(entry["recipients_per_minute"], "a minute")),
            ("Bytes", _limit(entry["bytes_per_day"], "a day")),
            ("Answer", entry["answer"]),
            ("Switches", ", ".join(entry["tolerate"])),
            ("Tolerates", ", ".join(entry["tolerated"])),
            ("Default domain", entry["default_domain"]),
            ("Charset", entry["charset"]),
            ("Since", moment(entry["created_at"])),
        ]
    )


def remove(name: Name, as_json: Json = False) -> None:
    """Remove an application's entry."""
    result = perform("client.remove", {"name": name})
    if as_json:
        print_json(result)
        return
    say(f"Removed {result['name']}.")
    if result["warning"]:
        say(f"{result['warning']}.")


def switches(as_json: Json = False) -> None:
    """The faults that --tolerate puts up with."""
    from relay.mail.tolerance import SWITCHES

    known = [{"switch": name, "meaning": meaning, "default": default} for name, (meaning, default) in SWITCHES.items()]
    if as_json:
        print_json(known)
        return
    table(
        ("SWITCH", "DEFAULT", "MEANING"),
        [(entry["switch"], "on" if entry["default"] else "off", entry["meaning"]) for entry in known],
        nothing="",
    )
    say("--tolerate NAME puts one on for a client, --tolerate no-NAME off; +NAME and -NAME leave its others alone.")


_IDENTITIES = {
    "envelope": "by the envelope",
    "header": "by the header (Sender, else From)",
    "map": "by the envelope, through the map",
}


def _parts(given: Iterable[str] | None) -> list[str] | None:
    """Several values, given apart or with commas between; None: not given, [] when it was empty."""
    if given is None:
        return None
    return [part.strip() for text in given for part in text.split(",") if part.strip()]


def _limit(number: int, per: str) -> str:
    return f"{number} {per}" if number else ""


def _tell(what: str, entry: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(entry)
        return
    whom = ", ".join(entry["senders"]) or "every registered sender"
    where = ", ".join(entry["networks"]) or "any allowed network"
    who = f"{where}, logged in as {entry['login']}," if entry["login"] else where
    say(f"{what} {entry['name']}: {who} may send as {whom}.")
    for field, change in entry.get("changed", {}).items():
        say(f"  {field}: {_value(change['before'])} -> {_value(change['after'])}")
    if entry["warning"]:
        say(f"{entry['warning']}.")


def _value(value: Any) -> str:
    """A setting for people; "-" for none."""
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "-"
