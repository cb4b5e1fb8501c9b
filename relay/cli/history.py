"""`relay trace`, `relay explain`, `relay audit`: what happened, what it means, who did it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relay.cli.output import Json, facts, moment, note, print_json, say, steps, table
from relay.cli.queue import message_lines
from relay.cli.session import perform


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("trace", epilog="Example: relay trace 02vm3h2c5x000")(trace)
    app.command("explain", epilog='Example: relay explain "535 5.7.139 Authentication unsuccessful"')(explain)
    app.command("audit", epilog="Example: relay audit --since 7d")(audit)


def trace(
    message_id: Annotated[
        str | None, typer.Argument(metavar="ID|Message-ID", help="Our id, or the Message-ID header.")
    ] = None,
    recipient: Annotated[
        str | None, typer.Option("--recipient", metavar="R", help="To this address, @domain, or pattern with *.")
    ] = None,
    sender: Annotated[
        str | None, typer.Option("--sender", metavar="S", help="Of this envelope sender; likewise.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="AGE|TIME", help="30m, 2h, 7d, or 2026-11-23T08:00:00 (UTC).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="Most messages: the latest.")] = 20,
    as_json: Json = False,
) -> None:
    """Everything that happened to one message, in order."""
    given = {"id": message_id, "recipient": recipient, "sender": sender, "since": since, "limit": limit}
    result = perform("trace", given)
    if as_json:
        print_json(result)
        return
    for number, message in enumerate(result):
        if number:
            say()
        facts(message_lines(message))
        for event in message["events"]:
            _tell(event)
    if len(result) == limit > 1:
        note(f"There may be more than these {limit}: give a shorter --since, or --limit.")


def _tell(event: dict[str, Any]) -> None:
    at = moment(event["at"]) or "now".ljust(20)
    name = event["event"]
    if name == "accepted":
        say(f"{at}  accepted from {event['client']}")
    elif name.startswith("attempt."):
        reply = " ".join(part for part in (str(event["code"] or ""), event["status"], event["reply"]) if part)
        outcome = name.removeprefix("attempt.").replace("_", " ")
        say(f"{at}  attempt {event['attempt']} for {event['recipient']} through {event['account']}: {outcome}")
        say(f"{'':20}    at {event['stage']}, after {event['elapsed_ms']} ms: {reply}")
        if event["cause"]:
            say(f"{'':20}    cause: {event['cause']}")
        for number, step in enumerate(event["steps"], 1):
            say(f"{'':20}    {number}. {step}")
    elif name == "returned":
        reply = " ".join(part for part in (str(event["code"] or ""), event["status"], event["reply"]) if part)
        by = f" from {event['host']}" if event["host"] else ""
        say(f"{at}  {event['recipient']} came back{by}: {reply}")
        say(f"{'':20}    cause: {event['cause']}")
        for number, step in enumerate(event["steps"], 1):
            say(f"{'':20}    {number}. {step}")
    elif name == "copy.filed":
        say(f"{at}  a copy was filed in the mailbox's folder for sent mail")
    elif name == "copy.given_up":
        say(f"{at}  no copy was filed in the mailbox's folder for sent mail")
    elif name == "notice.queued":
        say(f"{at}  a notice to {event['recipient']} was queued as {event['message_id']}")
    elif name.startswith("notice."):
        say(f"{at}  no notice was written: {event['detail']}")
    elif name == "waiting":
        say(f"{at}  {event['recipient']} is {event['state'].replace('_', ' ')}{_twice(event)}{_until(event)}")
    elif "by" in event:
        say(f"{at}  {name} by {event['by']}{_chosen_by(event['detail'])}")
    else:
        say(f"{at}  {event['recipient']} {name}{_twice(event)}")


def _twice(event: dict[str, Any]) -> str:
    return " (it may have arrived before: possible_duplicate)" if event["possible_duplicate"] else ""


def _chosen_by(detail: dict[str, Any]) -> str:
    given = detail.get("filter")
    return f" (with {', '.join(f'{name} {value}' for name, value in given.items())})" if given else ""


def _until(event: dict[str, Any]) -> str:
    if event["account_state"] == "suspended":
        account = event["account"]
        return f", next attempt when the account resumes: {account} is suspended (relay account show {account})"
    if event["next_attempt_at"] is None:
        return ""
    return f", next attempt {moment(event['next_attempt_at'])}"


_PASTE = (
    'is empty; paste the reply of the upstream as a log or a bounce shows it, like "550 5.1.1 …", or give --unknown'
)


def explain(
    reply: Annotated[
        list[str] | None, typer.Argument(metavar="REPLY", help="What the upstream said, as seen in a log.")
    ] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Instead: the replies that were met and that nobody has explained yet.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What an upstream's reply means, who must act, and what to do. Asks nobody and needs no daemon."""
    if unknown:
        _explain_unknown(as_json=as_json)
        return
    if not reply or not "".join(reply).strip():
        raise typer.BadParameter(_PASTE, param_hint="REPLY")
    from relay.control.explain import explained

    result = explained(" ".join(reply))
    if as_json:
        print_json(result)
        return
    facts(
        [
            ("Entry", f"{result['id']} ({result['provider']})" if result["provider"] else result["id"]),
            ("Cause", result["cause"]),
            ("Who must act", result["who"]),
            ("What happens", result["what_happens"]),
        ]
    )
    if result["remedy"]:
        say("What to do:")
        steps(result["remedy"])


def _explain_unknown(*, as_json: bool) -> None:
    result = perform("explain.unknown", {})
    if as_json:
        print_json(result)
        return
    table(
        ("COUNT", "PROVIDER", "STAGE", "LAST SEEN", "REPLY"),
        [
            (entry["count"], entry["provider"], entry["stage"], moment(entry["last_seen"]), entry["reply"])
            for entry in result
        ],
        nothing="Every reply so far was known.",
    )


def audit(
    since: Annotated[
        str | None, typer.Option("--since", metavar="AGE|TIME", help="30m, 2h, 7d, or 2026-11-23T08:00:00 (UTC).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most entries.")] = 200,
    as_json: Json = False,
) -> None:
    """Who changed what, and when."""
    result = perform("audit", {"since": since, "limit": limit})
    if as_json:
        print_json(result)
        return
    table(
        ("TIME", "WHO", "ACTION", "TARGET", "DETAIL"),
        [
            (
                moment(entry["at"]),
                entry["actor"],
                entry["action"],
                entry["target"],
                ", ".join(_details(entry["detail"])),
            )
            for entry in result
        ],
        nothing="Nothing was changed.",
    )


def _details(detail: dict[str, Any]) -> list[str]:
    """What was asked for, and what that changed: `port 587 -> 465`."""
    before, after = detail.get("before") or {}, detail.get("after") or {}
    asked = {name: value for name, value in detail.items() if name not in ("before", "after", *before, *after)}
    told = [f"{name}={_plain(value)}" for name, value in asked.items() if value not in (None, [], "")]
    names = [name for name in {**before, **after} if not name.startswith("secret ")]
    told += [f"{name} {_plain(before.get(name, '-'))} -> {_plain(after.get(name, '-'))}" for name in names]
    return told + [
        f"{name.removeprefix('secret ')} {'stored' if name in after else 'removed'}"
        for name in {**before, **after}
        if name.startswith("secret ")
    ]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
