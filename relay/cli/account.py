"""`relay account …`: mailboxes at providers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Unpack, get_args

import typer

from relay.accounts.advice import BY_ITSELF
from relay.accounts.model import Auth
from relay.cli.account_options import AccountOptions, account_arguments
from relay.cli.account_shown import Address, list_, show, where
from relay.cli.asking import PasswordFile, read_password
from relay.cli.connecting import connect
from relay.cli.console import link_of
from relay.cli.output import Json, complain, note, print_json, say, steps
from relay.cli.session import perform
from relay.cli.spreading import spread
from relay.control.refusal import ControlError

_AUTH = typer.Option(
    "--auth",
    metavar="password|oauth-code|oauth-device|oauth-app|service-account|none",
    help="How to log in; none: the server asks for no login.",
)


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("add", epilog="Example: relay account add billing@example.com --provider m365")(spread(add))
    group.command("set", epilog="Example: relay account set billing@example.com --per-minute 20 --default host")(
        spread(change)
    )
    group.command("list", epilog="Example: relay account list")(list_)
    group.command("show", epilog="Example: relay account show billing@example.com")(show)
    group.command("test", epilog="Example: relay account test billing@example.com --to me@example.com")(try_mail)
    group.command("set-password", epilog="Example: relay account set-password billing@example.com --password-file -")(
        set_password
    )
    group.command("connect", epilog="Example: relay account connect billing@example.com")(connect)
    group.command("suspend", epilog="Example: relay account suspend billing@example.com")(suspend)
    group.command("resume", epilog="Example: relay account resume billing@example.com")(resume)
    group.command("remove", epilog="Example: relay account remove billing@example.com")(remove)


def add(
    address: Address,
    auth: Annotated[str, _AUTH] = "password",
    password_file: PasswordFile = None,
    invite: Annotated[
        bool,
        typer.Option("--invite", help="Its owner gives the password: print a link; mail waits."),
    ] = False,
    sender: Annotated[
        bool, typer.Option("--sender/--no-sender", help="Register the address as a sender of this account, too.")
    ] = True,
    as_json: Json = False,
    **given: Unpack[AccountOptions],
) -> None:
    """Add an account. Secrets come from a prompt, a file or standard input, never from the command line."""
    arguments = {"address": address, "auth": auth, "sender": sender, **account_arguments(address, auth, given)}
    if invite:
        if password_file is not None:
            raise ControlError("its owner will give the password", "leave out either --invite or --password-file")
        arguments["invite"] = True
    elif auth == "password":
        arguments["password"] = read_password(password_file, address)
    elif password_file is not None and auth in get_args(Auth):  # else that is what is wrong
        raise ControlError(f"an account with --auth {auth} has no password", "leave --password-file out")
    result = perform("account.add", arguments)
    if invite:
        given_link = perform("user.invite", {"name": result["address"], "accounts": [result["address"]]})
        result["invitation"] = link_of(given_link)
    if as_json:
        print_json(result)
        return
    say(f"Added {result['address']}: {where(result)}, login {result['login']}.")
    if result["senders"]:
        say(f"Mail from {', '.join(result['senders'])} goes through it.")
    else:
        say(f"No sender uses it yet: relay sender add ADDRESS {result['address']}")
    if result["hint"]:
        note(f"This looks like an address at {result['hint']}: relay account set {address} --provider {result['hint']}")
    if result["warning"]:
        note(f"Warning: {result['warning']}")
    if invite:
        say(f"Its owner stores the password here: {result['invitation']}")
    elif result["to_do"]:
        say(f"Next: {result['to_do']}")
    else:
        say(f"Try it: relay account test {result['address']}")


def change(
    address: Address,
    auth: Annotated[str | None, _AUTH] = None,
    default: Annotated[
        list[str] | None,
        typer.Option("--default", metavar="NAME", help="Back to the preset's value: host, port, tls, trust, login, …"),
    ] = None,
    as_json: Json = False,
    **given: Unpack[AccountOptions],
) -> None:
    """Change an account's settings. Mail that waits already uses them."""
    back = [name.replace("-", "_") for name in default or []]
    fields = account_arguments(address, auth, given)
    result = perform("account.set", {"account": address, "auth": auth, "defaults": back, **fields})
    if as_json:
        print_json(result)
    else:
        say(f"Changed {result['address']}: {where(result)}, login {result['login']}.")
        if result["warning"]:
            note(f"Warning: {result['warning']}")
        if result["resumed"]:
            say("It was suspended and goes on now.")
        if result["to_do"]:
            say(f"Next: {result['to_do']}")


def try_mail(
    address: Address,
    to: Annotated[
        str | None, typer.Option("--to", metavar="ADDR", help="Who gets it; the account itself if left out.")
    ] = None,
    imap: Annotated[
        bool, typer.Option("--imap", help="Open the mailbox by IMAP instead; nothing in it is changed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send a real test mail, and show each step. On failure: its cause and what to do."""
    if imap and to is not None:
        raise typer.BadParameter("sends no mail", param_hint="--imap")

    def told(step: Mapping[str, Any]) -> None:
        if not as_json:
            say(f"{'ok    ' if step['ok'] else 'FAILED'}  {step['step']:<8}  {step['detail']}")

    if imap:
        result = perform("account.test_imap", {"account": address}, told)
    else:
        result = perform("account.test", {"account": address, "to": to}, told)
    if as_json:
        print_json(result)
    elif result["ok"] and imap:
        say(f"The mailbox of {result['account']} at {result['host']} can be read.")
    elif result["ok"]:
        say(f"The upstream took the test mail to {result['to']}: {result['reply']}")
    if result.get("resumed"):
        note(f"{result['account']} was suspended and goes on now.")
    elif result["ok"] and result.get("state") == "suspended":
        note(f"{result['account']} is still suspended: relay account resume {result['account']}")
    if not result["ok"]:
        if not as_json:
            say(f"Cause: {result['cause']}")
            say("What to do:")
            steps(result["remedy"])
        # What the relay does by itself with mail that waits is no remedy for a person who tests.
        first = next((step for step in result["remedy"] if not step.startswith(BY_ITSELF)), "see the daemon's log")
        complain(f"the test failed at {result['failed_at']}: {result['reply']}; {first}")
        raise typer.Exit(1)


def set_password(address: Address, password_file: PasswordFile = None, as_json: Json = False) -> None:
    """Store a new password. An account that was suspended for its login goes on at once."""
    password = read_password(password_file, address)
    result = perform("account.set_password", {"account": address, "password": password})
    if as_json:
        print_json(result)
    else:
        say(f"Stored the new password of {result['account']}.")
        if result["resumed"]:
            say("It was suspended and goes on now.")


def suspend(address: Address, as_json: Json = False) -> None:
    """Stop sending for an account; its mail waits."""
    result = perform("account.suspend", {"account": address})
    if as_json:
        print_json(result)
    else:
        say(f"{result['account']} is suspended{'' if result['changed'] else ' already'}; its mail waits.")


def resume(address: Address, as_json: Json = False) -> None:
    """Let an account send again."""
    result = perform("account.resume", {"account": address})
    done = "sends again" if result["changed"] else "was not suspended"
    print_json(result) if as_json else say(f"{result['account']} {done}; {result['waiting']} waiting.")


def remove(
    address: Address,
    force: Annotated[bool, typer.Option("--force", help="Also remove the senders that use it.")] = False,
    as_json: Json = False,
) -> None:
    """Remove an account. Its own sender entry and its stored password go, too."""
    result = perform("account.remove", {"account": address, "force": force})
    if as_json:
        print_json(result)
        return
    say(f"Removed {result['account']} and its stored password.")
    if result["senders"]:
        say(f"No longer registered as senders: {', '.join(result['senders'])}")
