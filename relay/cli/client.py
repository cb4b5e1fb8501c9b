"""`relay client …`: which application may send as whom."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relay.cli.output import Json, facts, moment, print_json, say, table
from relay.cli.session import perform

Name = Annotated[str, typer.Argument(metavar="NAME", help="What you call the application.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("add", epilog="Example: relay client add erp --network 10.1.2.0/24 --sender billing@example.com")(add)
    group.command("list", epilog="Example: relay client list")(list_)
    group.command("show", epilog="Example: relay client show erp")(show)
    group.command("remove", epilog="Example: relay client remove erp")(remove)


def add(
    name: Name,
    network: Annotated[
        list[str], typer.Option("--network", metavar="CIDR", help="Where it connects from; may be given several times.")
    ],
    sender: Annotated[
        list[str] | None,
        typer.Option("--sender", metavar="PATTERN", help="Whom it may send as; left out: every registered sender."),
    ] = None,
    answer: Annotated[
        str, typer.Option("--answer", metavar="queued|direct", help="Reply once it is queued, or once it is relayed.")
    ] = "queued",
    tolerate: Annotated[
        list[str] | None,
        typer.Option("--tolerate", metavar="SWITCH", help="A fault of the application to put up with."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bind an application's networks to the senders it may use."""
    result = perform(
        "client.add",
        {
            "name": name,
            "networks": _parts(network),
            "senders": _parts(sender),
            "answer": answer,
            "tolerate": _parts(tolerate),
        },
    )
    if as_json:
        print_json(result)
        return
    say(f"Added {result['name']}: {_summary(result)}.")
    if result["warning"]:
        say(f"{result['warning']}.")


def list_(as_json: Json = False) -> None:
    """Every application."""
    result = perform("client.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("CLIENT", "NETWORKS", "SENDERS", "ANSWER"),
        [
            (
                entry["name"],
                ", ".join(entry["networks"]),
                ", ".join(entry["senders"]) or "every registered one",
                entry["answer"],
            )
            for entry in result
        ],
        nothing="No client is defined: any allowed network may use any registered sender.",
    )


def show(name: Name, as_json: Json = False) -> None:
    """One application."""
    entry = perform("client.show", {"name": name})
    if as_json:
        print_json(entry)
        return
    facts(
        [
            ("Client", entry["name"]),
            ("Networks", ", ".join(entry["networks"])),
            ("Senders", ", ".join(entry["senders"]) or "every registered one"),
            ("Answer", entry["answer"]),
            ("Tolerates", ", ".join(entry["tolerate"])),
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


def _parts(given: list[str] | None) -> list[str]:
    """Several values, given apart or with commas between."""
    return [part.strip() for text in given or [] for part in text.split(",") if part.strip()]


def _summary(entry: dict[str, Any]) -> str:
    whom = ", ".join(entry["senders"]) or "every registered sender"
    return f"{', '.join(entry['networks'])} may send as {whom}"
