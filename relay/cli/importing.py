"""`relay import …`: accounts and senders of another relay's configuration; first the plan, then the doing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.cli.output import Json, note, print_json, say, table
from relay.cli.session import perform
from relay.control.imports.plan import Plan, PlannedAccount
from relay.mail.counted import counted

Paths = Annotated[list[Path], typer.Argument(metavar="PATH…", help="Its configuration.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan; that is all without --yes, too.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("postfix", epilog="Example: relay import postfix /etc/postfix")(postfix)
    group.command("msmtp", epilog="Example: relay import msmtp ~/.msmtprc /etc/msmtprc")(msmtp)
    group.command("emailproxy", epilog="Example: relay import emailproxy emailproxy.config")(emailproxy)
    group.command("decke", epilog="Example: relay import decke /etc/smtprelay.ini --yes")(decke)


def postfix(paths: Paths, yes: Yes = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Of Postfix: the folder of main.cf, or main.cf and its maps."""
    from relay.control.imports.postfix import read_postfix

    _run("postfix", read_postfix, paths, yes=yes and not dry_run, as_json=as_json, ask=not dry_run)


def msmtp(paths: Paths, yes: Yes = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Of msmtp: .msmtprc, /etc/msmtprc."""
    from relay.control.imports.msmtp import read_msmtp

    _run("msmtp", read_msmtp, paths, yes=yes and not dry_run, as_json=as_json, ask=not dry_run)


def emailproxy(paths: Paths, yes: Yes = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Of email-oauth2-proxy: emailproxy.config."""
    from relay.control.imports.emailproxy import read_emailproxy

    _run("emailproxy", read_emailproxy, paths, yes=yes and not dry_run, as_json=as_json, ask=not dry_run)


def decke(paths: Paths, yes: Yes = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Of decke/smtprelay: smtprelay.ini."""
    from relay.control.imports.decke import read_decke

    _run("decke", read_decke, paths, yes=yes and not dry_run, as_json=as_json, ask=not dry_run)


def _run(
    source: str, read: Callable[[list[Path]], Plan], paths: list[Path], *, yes: bool, as_json: bool, ask: bool
) -> None:
    plan = read([path.expanduser() for path in paths])
    if not as_json:
        _show(plan)
    if not yes and ask and not as_json and sys.stdin.isatty() and (plan.accounts or plan.senders):
        yes = typer.confirm("Do it?", err=True)
    result = perform("import.apply", as_request(source, plan)) if yes else None
    if as_json:
        print_json(_facts(plan) | {"done": result})
    elif result is None:
        note("Nothing was changed. --yes does it.")
    else:
        accounts, senders = (len(result["added"][kind]) for kind in ("accounts", "senders"))
        say(f"Added {counted(accounts, 'account')} and {counted(senders, 'sender')}.")
        for kind, names in result["there"].items():
            for name in names:
                note(f"{name} is there already and was left as it is ({kind})")
    if plan.left and not as_json:
        note(f"{len(plan.left)} lines were not carried over: see above for what to do by hand.")


def _show(plan: Plan) -> None:
    table(
        ("ACCOUNT", "LOGIN", "UPSTREAM", "AUTH", "SECRET", "FROM"),
        [
            (
                account.address,
                account.settings.get("login"),
                _upstream(account.settings),
                account.settings.get("auth", "password"),
                ", ".join(account.secrets) or None,
                account.place,
            )
            for account in plan.accounts
        ],
        nothing="No account could be made of it.",
    )
    if plan.senders:
        say()
        rows = [(sender.pattern, sender.account, sender.place) for sender in plan.senders]
        table(("SENDER", "ACCOUNT", "FROM"), rows, nothing="")
    if plan.left:
        say()
        say("Not carried over:")
    for left in plan.left:
        say(f"  {left.place}: {left.what}")
        say(f"      by hand: {left.by_hand}")


def _upstream(settings: dict[str, str]) -> str:
    if "host" not in settings:
        return settings.get("provider", "")
    return f"{settings['host']}:{settings.get('port', '')} {settings.get('tls', '')}"


def as_request(source: str, plan: Plan) -> dict[str, Any]:
    """The arguments of import.apply: the only place where the secrets of a plan come out."""
    return {
        "source": source,
        "accounts": [{"address": each.address, **each.settings, **each.secrets} for each in plan.accounts],
        "senders": [{"pattern": each.pattern, "account": each.account} for each in plan.senders],
    }


def _facts(plan: Plan) -> dict[str, Any]:
    """The plan for programs: of secrets only which there are."""

    def account(each: PlannedAccount) -> dict[str, Any]:
        return {"address": each.address, **each.settings, "secrets": sorted(each.secrets), "from": str(each.place)}

    return {
        "accounts": [account(each) for each in plan.accounts],
        "senders": [{"pattern": s.pattern, "account": s.account, "from": str(s.place)} for s in plan.senders],
        "not_carried": [{"from": str(left.place), "what": left.what, "by_hand": left.by_hand} for left in plan.left],
    }
