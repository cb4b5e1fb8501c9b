"""`relay serve`, `relay reload`, `relay migrate`: the daemon and its store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.applying import line_of
from relay.cli.output import Json, note, print_json, say
from relay.cli.session import perform, settings_or_refuse
from relay.control.refusal import ControlError

if TYPE_CHECKING:
    from relay.config.database import DatabaseSettings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("serve", epilog="Example: relay serve")(serve)
    app.command("reload", epilog="Example: relay reload")(reload)
    app.command("migrate", epilog="Example: relay migrate")(migrate)


def serve() -> None:
    """Run the daemon in the foreground; SIGTERM ends it in order."""
    from relay.cli import tree

    raise typer.Exit(tree.serve())


def reload(as_json: Json = False) -> None:
    """Have the running daemon read its settings again, as SIGHUP does. No session is dropped."""
    from relay.control import wire

    settings = settings_or_refuse()
    try:
        result = wire.call(settings.data_dir, "reload", {})
    except wire.NoDaemon:
        raise ControlError(
            f"no daemon answers in {settings.data_dir}", "settings count from its start on: relay serve"
        ) from None
    if as_json:
        print_json(result)
        return
    say(f"In force: {', '.join(result['changed']) or 'the same settings as before'}.")
    say(f"Doors: {', '.join(result['doors'])}.")
    if result["accounts_file"] is not None:
        for change in result["accounts_file"]["changes"]:
            say(line_of(change))
        if "refused" in result["accounts_file"]:
            note(f"The accounts file is not applied: {result['accounts_file']['refused']}.")
    if result["restart"]:
        note(f"Restart the relay for these to count: {', '.join(result['restart'])}.")


def migrate(
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="Copy everything into this empty store; the relay must be stopped."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="The password for the store of --to.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring the store to this program's schema. With SQLite every start does that, too."""
    if to is not None:
        _move(to, password_file, as_json)
        return
    from relay.control.migrate import schema_of

    settings = settings_or_refuse()
    if settings.database.postgresql:
        _migrate_postgresql(settings.database, as_json)
        return
    before = schema_of(settings.database.file)  # None: no SQLite store that could be read
    result = perform("migrate", {})
    result["migrated"] = before != result["schema"]
    if as_json:
        print_json(result)
    elif result["migrated"]:
        say(f"Migrated {result['database']} from schema {before or 'none'} to {result['schema']}.")
    else:
        say(f"{result['database']} is up to date: schema {result['schema']}.")


def _move(to: str, password_file: Path | None, as_json: bool) -> None:
    import asyncio

    from pydantic import ValidationError

    from relay.cli.session import check_owner, store_or_refuse
    from relay.config.database import DatabaseSettings
    from relay.control.moving_store import move_store
    from relay.mail.errors import RelayError

    settings = settings_or_refuse()
    check_owner(settings.data_dir)
    store_or_refuse(settings)
    try:
        target = DatabaseSettings(url=to, password_file=password_file)
    except ValidationError as error:
        reason, _, remedy = str(error.errors()[0]["msg"]).removeprefix("Value error, ").partition("; ")
        raise ControlError(f"--to: {reason}", remedy) from None
    try:
        result = asyncio.run(move_store(settings, target))
    except RelayError as error:
        if isinstance(error, ControlError):
            raise
        raise ControlError(str(error), "see docs/postgresql.md") from None
    if as_json:
        print_json(result)
        return
    say(f"Copied {result['from']} to {result['to']}, and compared it.")
    say(f"  {sum(result['rows'].values())} rows, {result['contents']} large contents")
    for name in result["missing"][:10]:
        note(f"The large content {name} was gone already: its mail cannot be sent.")
    note(
        f"Set RELAY_DATABASE__URL={result['to']} and start the relay. Never start it on both: mail would go out twice."
    )


def _migrate_postgresql(database: DatabaseSettings, as_json: bool) -> None:
    """Past any daemon: there may be none, and one that runs has refused to start with the schema of before."""
    from relay.config.extras import require_driver
    from relay.database.migration import HEAD
    from relay.mail.errors import RelayError

    try:
        require_driver()
        from relay.database.postgresql import migrating

        before = migrating.schema_of(database)
        migrated = migrating.upgrade(database)
    except RelayError as error:
        raise ControlError(str(error), "see docs/postgresql.md") from None
    if as_json:
        print_json({"database": database.shown, "schema": HEAD, "migrated": migrated})
    elif migrated:
        say(f"Migrated {database.shown} from schema {before or 'none'} to {HEAD}.")
    else:
        say(f"{database.shown} is up to date: schema {HEAD}.")
