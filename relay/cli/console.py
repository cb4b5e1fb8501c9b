"""`relay console …`: who may sign in to the web console, and tokens for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relay.cli.asking import PasswordFile, read_password
from relay.cli.output import Json, note, print_json, say, table
from relay.cli.session import perform, settings_or_refuse

Name = Annotated[str, typer.Argument(metavar="NAME", help="What they type at the login page, such as their address.")]
Accounts = Annotated[
    list[str] | None, typer.Option("--account", metavar="ADDRESS", help="A mailbox they may manage; repeatable.")
]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("password", epilog="Example: relay console password")(password)
    group.command("invite", epilog="Example: relay console invite ann@example.com --account ann@example.com")(invite)
    group.command("users", epilog="Example: relay console users")(users)
    group.command("remove", epilog="Example: relay console remove ann@example.com")(remove)
    group.command("token", epilog="Example: relay console token nagios --scope read")(token)
    group.command("tokens", epilog="Example: relay console tokens")(tokens)
    group.command("revoke", epilog="Example: relay console revoke nagios")(revoke)


def password(
    password_file: PasswordFile = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Another administrator than admin.")] = "admin",
    as_json: Json = False,
) -> None:
    """Set the password of an administrator."""
    secret = read_password(password_file, name)
    result = perform("console.password", {"password": secret, "name": name})
    if as_json:
        print_json(result)
        return
    say(f"{'Made administrator' if result['made'] else 'Set the password of'} {result['name']}.")
    console = settings_or_refuse().console
    if console.enabled:
        say(f"Sign in at {console.url or f'http://{console.host}:{console.port}'}/login")


def invite(
    name: Name,
    account: Accounts = None,
    hours: Annotated[int, typer.Option("--hours", min=1, max=720, help="How long the link counts.")] = 72,
    as_json: Json = False,
) -> None:
    """Print a link that signs somebody in once."""
    result = perform("user.invite", {"name": name, "accounts": account, "hours": hours})
    result["url"] = link_of(result)
    if as_json:
        print_json(result)
        return
    say(result["url"])
    note(f"It signs {result['name']} in once, until {result['until']}; whoever has the link is them.")


def link_of(invitation: Mapping[str, Any]) -> str:
    """An invitation's address, by the settings."""
    console = settings_or_refuse().console
    return f"{console.url or f'http://{console.host}:{console.port}'}{invitation['path']}"


def users(as_json: Json = False) -> None:
    """Everybody who may sign in, and for what."""
    result = perform("user.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("NAME", "ROLE", "PASSWORD", "SECOND FACTOR", "MAILBOXES"),
        [
            (
                user["name"],
                "disabled" if user["disabled"] else user["role"],
                "yes" if user["has_password"] else None,
                "yes" if user["second_factor"] else None,
                ", ".join(user["accounts"]) or None,
            )
            for user in result
        ],
        nothing="Nobody yet: relay console password makes the first administrator.",
    )


def remove(name: Name, as_json: Json = False) -> None:
    """Remove a user and end their sessions."""
    result = perform("user.remove", {"name": name})
    print_json(result) if as_json else say(f"Removed {result['removed']}.")


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What uses it, such as nagios.")],
    scope: Annotated[
        list[str], typer.Option("--scope", metavar="SCOPE", help="read, queue, accounts or admin; repeatable.")
    ],
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it counts.")] = 365,
    as_json: Json = False,
) -> None:
    """Make a token for the API; printed once."""
    result = perform("token.add", {"name": name, "scopes": scope, "days": days})
    if as_json:
        print_json(result)
        return
    say(result["token"])
    note(f"Send it as Authorization: Bearer …; it may {', '.join(result['scopes'])} until {result['expires_at']}.")


def tokens(as_json: Json = False) -> None:
    """Every token of the API, without its secret."""
    result = perform("token.list", {})
    if as_json:
        print_json(result)
        return
    table(
        ("NAME", "SCOPES", "MADE BY", "EXPIRES", "LAST USED", "COUNTS"),
        [
            (
                one["name"],
                ", ".join(one["scopes"]),
                one["created_by"],
                one["expires_at"],
                one["used_at"],
                (one["rests"] and f"no: {one['rests']}") or ("no: it is over" if one["expired"] else "yes"),
            )
            for one in result
        ],
        nothing="No token yet: relay console token NAME --scope read",
    )


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")], as_json: Json = False
) -> None:
    """End a token."""
    result = perform("token.remove", {"name": name})
    print_json(result) if as_json else say(f"Nobody gets in with {result['removed']} any more.")
