"""`relay queue …`: what waits, and what an operator does to it."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypedDict, Unpack

import typer

from relay.cli.output import Json, age, facts, local_moment, moment, note, print_json, say, table
from relay.cli.session import perform
from relay.cli.spreading import spread
from relay.control.refusal import ControlError
from relay.mail.counted import counted

MessageId = Annotated[str, typer.Argument(metavar="ID", help="A message id, 13 characters.")]
MessageIds = Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Message ids, 13 characters each.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; needed with filters when nobody is at a terminal.")]

_PAGE = 2_000  # entries an answer: a mebibyte or so


class _Where(TypedDict, total=False):
    """Which deliveries are meant; all that is given must fit."""

    account: Annotated[str | None, typer.Option("--account", metavar="A", help="Only this account's.")]
    sender: Annotated[
        str | None, typer.Option("--sender", metavar="S", help="Only of this sender: address, @domain, <>, or with *.")
    ]
    recipient: Annotated[str | None, typer.Option("--recipient", metavar="R", help="Only to this recipient; likewise.")]
    client: Annotated[
        str | None, typer.Option("--client", metavar="C", help="Only from this client entry, or this address.")
    ]
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Only what was accepted before: 30m, 2h, 7d.")
    ]


class _Filters(_Where, total=False):
    """The same, of what still waits."""

    state: Annotated[
        str | None, typer.Option("--state", metavar="S", help="Only those queued, deferred, in_doubt, or held.")
    ]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("list", epilog="Example: relay queue list --account billing@example.com --state deferred")(
        spread(list_)
    )
    group.command("show", epilog="Example: relay queue show 02vm3h2c5x000")(show)
    group.command("summary", epilog="Example: relay queue summary")(summary)
    group.command("retry", epilog="Example: relay queue retry --account billing@example.com")(spread(retry))
    group.command("hold", epilog="Example: relay queue hold --sender newsletter@example.com --yes")(spread(hold))
    group.command("release", epilog="Example: relay queue release 02vm3h2c5x000")(spread(release))
    group.command("remove", epilog="Example: relay queue remove --recipient '*@gone.example' --older-than 2d")(
        spread(remove)
    )


def list_(
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="S",
            help="queued, deferred, in_doubt, held; or relayed, returned, bounced, expired, …",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Most entries.")] = 100,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID/N", help="Go on behind this place of the list before.")
    ] = None,
    as_json: Json = False,
    **where: Unpack[_Where],
) -> None:
    """Deliveries that are still owed, oldest first. With a settled state: the latest first."""
    result = _pages({**where, "state": state}, after, limit)
    if as_json:
        print_json(result)
    else:
        table(
            ("ID", "STATE", "FROM", "TO", "TRIES", "NEXT", "LAST REPLY"),
            [
                (
                    entry["id"],
                    _state(entry),
                    entry["sender"] or "<>",
                    entry["recipient"],
                    entry["attempts"],
                    _next(entry),
                    _reply(entry)[:100],
                )
                for entry in result
            ],
            nothing="Nothing waits." if state is None else "There is none.",
        )
    if len(result) == limit:
        place = result[-1]["place"]
        note(f"There may be more than {limit}: --after {place} goes on, `relay queue summary` counts them.")


def _pages(given: Mapping[str, object], after: str | None, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        size = min(_PAGE, limit - len(found))
        page = perform("queue.list", {**given, "after": after, "limit": size})
        found += page
        if len(page) < size:
            break
        after = page[-1]["place"]
    return found


def show(
    message_id: MessageId,
    content: Annotated[
        Path | None,
        typer.Option("--content", metavar="FILE", help="Write the whole message to this new file; that is audited."),
    ] = None,
    as_json: Json = False,
) -> None:
    """One message, its header and its deliveries."""
    result = perform("queue.show", {"id": message_id})
    if content is not None:
        _write_content(message_id, content)
    if as_json:
        print_json(result)
        return
    facts(message_lines(result))
    for line in (result["header"] or "").split("\r\n"):
        say(f"    {line}") if line else None
    table(
        ("TO", "STATE", "TRIES", "NEXT", "LAST REPLY"),
        [
            (entry["recipient"], _state(entry), entry["attempts"], _next(entry), _reply(entry))
            for entry in result["deliveries"]
        ],
        nothing="",
    )


def _write_content(message_id: str, target: Path) -> None:
    """The message as its application sent it, into a new file of mode 0600."""
    from relay.mail.content import unstuff

    target = target.expanduser()
    wire = bytearray()
    size = 1
    while len(wire) < size:
        piece = perform("queue.content", {"id": message_id, "at": len(wire)})
        size = piece["size"]
        wire += base64.b64decode(piece["data"])
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(unstuff(bytes(wire)))
    except OSError as error:
        raise ControlError(f"{target}: {error.strerror}", "give a new file in a folder that can be written") from None
    note(f"Wrote the message to {target}.")


def _next(entry: dict[str, Any]) -> str | None:
    return "when the account resumes" if entry["account_suspended"] else moment(entry["next_attempt_at"])


def _state(entry: dict[str, Any]) -> str:
    return f"{entry['state']}, came back" if entry["returned"] else str(entry["state"])


def _reply(entry: dict[str, Any]) -> str:
    return str(entry["returned"]["reply"] if entry["returned"] else entry["reply"])


def message_lines(message: dict[str, Any]) -> list[tuple[str, object]]:
    """What is known of a message as a whole."""
    return [
        ("Message", message["id"]),
        ("From", message["sender"] or "<>"),
        ("Original sender", message["original_sender"]),
        ("Account", message["account"]),
        ("Message-ID", message["message_id_header"]),
        ("Client", message["client"]),
        ("Size", f"{counted(message['size'], 'octet')}"),
        ("Accepted", moment(message["accepted_at"])),
        ("Session", message["session_id"]),
        ("Repaired", "; ".join(message["repairs"])),
        ("Trace", message["trace_id"]),
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
    """How much is owed, why it waits, and when it will be gone."""
    result = perform("queue.summary", {})
    if as_json:
        print_json(result)
        return
    if not result["deliveries"]:
        say("Nothing waits.")
        return
    states = ", ".join(f"{count} {state}" for state, count in sorted(result["states"].items()))
    say(f"{_owed(result['deliveries'])} owed ({states}); the oldest for {age(result['oldest_s'])}.")
    now = datetime.now().astimezone()
    table(
        ("ACCOUNT", "STATE", "OWED", "HELD", "WHY", "GONE AT"),
        [
            (
                entry["account"],
                _account_state(entry, now),
                entry["deliveries"],
                entry["held"] or None,
                entry["why"],
                local_moment(entry["ends_at"], now),
            )
            for entry in result["accounts"]
        ],
        nothing="",
    )
    for entry in result["accounts"]:
        if entry["remedy"]:
            note(f"{entry['account']}: {entry['remedy'][0]}")


def _owed(count: int) -> str:
    return f"{counted(count, 'delivery')} {'is' if count == 1 else 'are'}"


def _account_state(entry: dict[str, Any], now: datetime) -> str:
    if entry["state"] == "suspended":
        return "suspended"
    if entry["quota_until"]:
        return f"quota used up until {local_moment(entry['quota_until'], now)}"
    if entry["resting_until"]:
        return f"resting until {local_moment(entry['resting_until'], now)}"
    return str(entry["state"])


def retry(ids: MessageIds = None, yes: Yes = False, as_json: Json = False, **filters: Unpack[_Filters]) -> None:
    """Try messages now, and end their accounts' rest."""
    _do("retry", "due now", ids, filters, yes=yes, as_json=as_json)


def hold(ids: MessageIds = None, yes: Yes = False, as_json: Json = False, **filters: Unpack[_Filters]) -> None:
    """Stop messages until they are released."""
    _do("hold", "held", ids, filters, yes=yes, as_json=as_json)


def release(ids: MessageIds = None, yes: Yes = False, as_json: Json = False, **filters: Unpack[_Filters]) -> None:
    """Let held messages go on."""
    _do("release", "released", ids, filters, yes=yes, as_json=as_json)


def remove(ids: MessageIds = None, yes: Yes = False, as_json: Json = False, **filters: Unpack[_Filters]) -> None:
    """Give messages up without sending them."""
    _do("remove", "removed", ids, filters, yes=yes, as_json=as_json)


def _do(action: str, done: str, ids: list[str] | None, given: _Filters, *, yes: bool, as_json: bool) -> None:
    filters = {name: value for name, value in given.items() if value is not None}
    if not ids and not filters:
        raise typer.BadParameter("is missing; give ids, or filters such as --account", param_hint="ID")
    if filters and not ids and not _agreed(action, filters, yes=yes):
        raise ControlError("nothing was changed", "answer yes, or give --yes")
    result = perform(f"queue.{action}", {"ids": ids, "filters": filters})
    if as_json:
        print_json(result)
    else:
        say(f"{counted(result['changed'], 'delivery')} {done}.")
    for account in result["suspended"]:
        note(f"{account} is suspended, so its mail still waits: relay account show {account}")


def _agreed(action: str, filters: Mapping[str, object], *, yes: bool) -> bool:
    """Count first; whoever is at a terminal is asked."""
    count = perform("queue.count", {"action": action, "filters": filters})
    deliveries, messages = count["deliveries"], count["messages"]
    if not deliveries:
        raise ControlError("nothing that waits fits these filters", "`relay queue list` takes the same ones")
    text = f"{action} {counted(deliveries, 'delivery')} of {counted(messages, 'message')}"
    if yes:
        note(f"{text}:")
        return True
    if not sys.stdin.isatty():
        raise ControlError(f"this would {text}", "give --yes")
    return typer.confirm(f"{text}?", err=True)
