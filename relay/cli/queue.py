"""`relay queue …`: what waits, and what an operator does to it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relay.cli.output import Json, age, facts, moment, note, print_json, say, table
from relay.cli.session import perform

MessageId = Annotated[str, typer.Argument(metavar="ID", help="A message id, 13 characters.")]
MessageIds = Annotated[list[str], typer.Argument(metavar="ID…", help="Message ids, 13 characters each.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("list", epilog="Example: relay queue list --account billing@example.com --state deferred")(list_)
    group.command("show", epilog="Example: relay queue show 02vm3h2c5x000")(show)
    group.command("summary", epilog="Example: relay queue summary")(summary)
    group.command("retry", epilog="Example: relay queue retry 02vm3h2c5x000")(retry)
    group.command("hold", epilog="Example: relay queue hold 02vm3h2c5x000")(hold)
    group.command("release", epilog="Example: relay queue release 02vm3h2c5x000")(release)
    group.command("remove", epilog="Example: relay queue remove 02vm3h2c5x000")(remove)


def list_(
    account: Annotated[str | None, typer.Option("--account", metavar="A", help="Only this account's.")] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state", metavar="S", help="queued, deferred, in_doubt, held; or relayed, bounced, expired, removed."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Most entries.")] = 100,
    as_json: Json = False,
) -> None:
    """Deliveries that are still owed, oldest first. With a settled state: the latest first."""
    result = perform("queue.list", {"account": account, "state": state, "limit": limit})
    if as_json:
        print_json(result)
    else:
        table(
            ("ID", "STATE", "FROM", "TO", "TRIES", "NEXT", "LAST REPLY"),
            [
                (
                    entry["id"],
                    entry["state"],
                    entry["sender"] or "<>",
                    entry["recipient"],
                    entry["attempts"],
                    _next(entry),
                    entry["reply"][:100],
                )
                for entry in result
            ],
            nothing="Nothing waits." if state is None else "There is none.",
        )
    if len(result) == limit:
        note(f"There may be more than {limit}: --limit shows them, `relay queue summary` counts them.")


def show(message_id: MessageId, as_json: Json = False) -> None:
    """One message and its deliveries; `relay trace` tells its story."""
    result = perform("queue.show", {"id": message_id})
    if as_json:
        print_json(result)
        return
    facts(message_lines(result))
    table(
        ("TO", "STATE", "TRIES", "NEXT", "LAST REPLY"),
        [
            (entry["recipient"], entry["state"], entry["attempts"], _next(entry), entry["reply"])
            for entry in result["deliveries"]
        ],
        nothing="",
    )


def _next(entry: dict[str, Any]) -> str | None:
    return "when the account resumes" if entry["account_suspended"] else moment(entry["next_attempt_at"])


def message_lines(message: dict[str, Any]) -> list[tuple[str, object]]:
    """What is known of a message as a whole."""
    return [
        ("Message", message["id"]),
        ("From", message["sender"] or "<>"),
        ("Original sender", message["original_sender"]),
        ("Account", message["account"]),
        ("Message-ID", message["message_id_header"]),
        ("Client", message["client"]),
        ("Size", f"{message['size']} octets"),
        ("Accepted", moment(message["accepted_at"])),
        ("Envelope id", message["envid"]),
        ("Return", message["ret"]),
        *[
            ("Asked", _asked(entry))
            for entry in message.get("asked", message.get("deliveries", ()))
            if entry["notify"] or entry["orcpt"]
        ],
    ]


def _asked(entry: dict[str, Any]) -> str:
    """What the application said in RCPT about notices (RFC 3461)."""
    asked = [f"{name}={entry[key]}" for name, key in (("NOTIFY", "notify"), ("ORCPT", "orcpt")) if entry[key]]
    return f"{' '.join(asked)} for {entry['recipient']}"


def summary(as_json: Json = False) -> None:
    """How much is owed, by state and account."""
    result = perform("queue.summary", {})
    if as_json:
        print_json(result)
        return
    if not result["deliveries"]:
        say("Nothing waits.")
        return
    states = ", ".join(f"{count} {state}" for state, count in sorted(result["states"].items()))
    say(f"{_owed(result['deliveries'])} owed ({states}); the oldest for {age(result['oldest_s'])}.")
    table(
        ("ACCOUNT", "STATE", "OWED", "IN ATTEMPT"),
        [
            (
                entry["account"],
                _account_state(entry),
                entry["deliveries"],
                entry["lane"]["active"] if entry["lane"] else None,
            )
            for entry in result["accounts"]
        ],
        nothing="",
    )


def _owed(count: int) -> str:
    return "1 delivery is" if count == 1 else f"{count} deliveries are"


def _account_state(entry: dict[str, Any]) -> str:
    resting = (entry["lane"] or {}).get("resting_s")
    return f"resting {resting}s" if resting and entry["state"] != "suspended" else str(entry["state"])


def retry(ids: MessageIds, as_json: Json = False) -> None:
    """Try messages now, and end their accounts' rest."""
    _do("queue.retry", "due now", ids, as_json)


def hold(ids: MessageIds, as_json: Json = False) -> None:
    """Stop messages until they are released."""
    _do("queue.hold", "held", ids, as_json)


def release(ids: MessageIds, as_json: Json = False) -> None:
    """Let held messages go on."""
    _do("queue.release", "released", ids, as_json)


def remove(ids: MessageIds, as_json: Json = False) -> None:
    """Give messages up without sending them."""
    _do("queue.remove", "removed", ids, as_json)


def _do(action: str, done: str, ids: list[str], as_json: bool) -> None:
    result = perform(action, {"ids": ids})
    if as_json:
        print_json(result)
    else:
        plural = "delivery" if result["changed"] == 1 else "deliveries"
        say(f"{result['changed']} {plural} {done}.")
    for account in result["suspended"]:
        note(f"{account} is suspended, so its mail still waits: relay account show {account}")
