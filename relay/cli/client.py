"""`relay client …`: which application may send as whom and to whom, and how it is treated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypedDict, Unpack

import typer

from relay.cli import trying
from relay.cli.asking import PasswordFile, read_password
from relay.cli.output import Json, facts, moment, print_json, say, table
from relay.cli.session import perform
from relay.cli.spreading import spread

Name = Annotated[str, typer.Argument(metavar="NAME", help="What you call the application.")]


class ClientOptions(TypedDict, total=False):
    """The options that `add` and `set` share, by the name of what each sets."""

    networks: Annotated[
        list[str] | None,
        typer.Option("--network", metavar="CIDR", help="Where it connects from; several times or a list."),
    ]
    senders: Annotated[
        list[str] | None,
        typer.Option("--sender", metavar="PATTERN", help="Whom it may send as; left out: every registered sender."),
    ]
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer", metavar="queued|direct", help="Reply once it is queued, or with the provider's verdict."
        ),
    ]
    tolerate: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerate",
            metavar="SWITCH",
            help="A fault to put up with (see `relay client switches`); +SWITCH and -SWITCH change what there is.",
        ),
    ]
    auth: Annotated[
        str | None,
        typer.Option(
            "--auth", metavar="none|login|accept-any", help="Must it log in? accept-any: any password will do."
        ),
    ]
    login: Annotated[str | None, typer.Option("--login", metavar="USER", help="The name it logs in with.")]
    password_file: PasswordFile
    identity: Annotated[
        str | None,
        typer.Option("--identity", metavar="envelope|header|map", help="What says whose mail it is."),
    ]
    sender_map: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FROM=TO", help="Its mail from FROM (an address, @dom, *) is mail from TO."),
    ]
    messages_per_minute: Annotated[int | None, typer.Option("--messages-per-minute", min=0, help="0: no limit.")]
    recipients_per_minute: Annotated[int | None, typer.Option("--recipients-per-minute", min=0, help="0: no limit.")]
    bytes_per_day: Annotated[int | None, typer.Option("--bytes-per-day", min=0, help="In 24 hours; 0: no limit.")]
    recipients: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="PATTERN", help="Whom alone it may send to: addr@dom, @dom, @*.dom."),
    ]
    denied: Annotated[list[str] | None, typer.Option("--deny", metavar="PATTERN", help="Whom it may not send to.")]
    capture: Annotated[
        str | None, typer.Option("--capture", metavar="ADDR", help="All its mail goes there alone: for test systems.")
    ]
    default_domain: Annotated[
        str | None, typer.Option("--default-domain", metavar="D", help="For recipients without one.")
    ]
    charset: Annotated[
        str | None, typer.Option("--charset", metavar="NAME", help="Of its raw 8-bit text, such as windows-1252.")
    ]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("add", epilog="Example: relay client add erp --network 10.1.2.0/24 --sender billing@example.com")(
        spread(add)
    )
    group.command("set", epilog="Example: relay client set erp --tolerate +no-brackets --messages-per-minute 60")(
        spread(change)
    )
    group.command("list", epilog="Example: relay client list")(list_)
    group.command("show", epilog="Example: relay client show erp")(show)
    group.command("remove", epilog="Example: relay client remove erp")(remove)
    group.command("switches", epilog="Example: relay client switches")(switches)
    trying.register(group)


def add(name: Name, as_json: Json = False, **given: Unpack[ClientOptions]) -> None:
    """Bind an application to the senders it may use."""
    auth, login = given["auth"], given["login"]
    logs_in = auth == "login" or bool(login and auth is None)
    if not given["networks"] and not logs_in:
        raise typer.BadParameter("is needed unless it logs in (--auth login)", param_hint="--network")
    if logs_in and not login:
        raise typer.BadParameter("is needed for --auth login", param_hint="--login")
    _tell("Added", perform("client.add", _arguments(name, given, asks=logs_in)), as_json)


def change(name: Name, as_json: Json = False, **given: Unpack[ClientOptions]) -> None:
    """Change what is given; an empty value clears.

    The values of an option replace all that it had; only --tolerate +SWITCH and -SWITCH leave the others alone.
    It counts for whoever connects from now on.
    """
    _tell("Changed", perform("client.set", _arguments(name, given, asks=False)), as_json)


def _arguments(name: str, given: ClientOptions, *, asks: bool) -> dict[str, Any]:
    """Fields of `control.clients`; `asks`: it needs a password, by prompt if no file is named."""
    fields = {field: _parts(value) if isinstance(value, list) else value for field, value in given.items()}
    source = given["password_file"]
    del fields["password_file"]
    password = read_password(source, name) if asks or source is not None else None
    return {"name": name, "password": password, **fields}


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


def _parts(given: Iterable[str]) -> list[str]:
    """Several values, given apart or with commas between; [] when it was empty."""
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
