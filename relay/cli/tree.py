"""The command tree, and what an exit status is made of."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def run(argv: list[str]) -> int:
    """Run one command; 0 done, 1 refused or not found (one line on standard error), 2 wrong usage."""
    if os.path.basename(sys.argv[0]) == "sendmail":  # a link of that name
        return sendmail(argv)
    if argv == ["--version"]:
        from relay import __version__

        sys.stdout.write(f"relay {__version__}\n")
        return 0
    if argv == ["serve"]:  # the daemon lives long: what only commands need stays out of its memory
        return serve()
    if argv[:1] == ["sendmail"] and argv[1:] not in (["--help"], ["-h"]):
        return sendmail(argv[1:])
    import typer
    from typer.exceptions import TyperException

    from relay.cli.output import complain
    from relay.control.refusal import ControlError

    try:
        status = build()(argv, prog_name="relay", standalone_mode=False)
    except ControlError as refused:
        complain(f"{refused.text}; {refused.remedy}")
        return 1
    except typer.Exit as ended:
        return ended.exit_code
    except (typer.Abort, KeyboardInterrupt):
        complain("stopped; what was done until now stays done")
        return 1
    except TyperException as wrong:
        return _wrong_usage(wrong)
    except BrokenPipeError:  # the reader of a list has seen enough
        sys.stderr.close()
        return 0
    return status if isinstance(status, int) else 0


def serve() -> int:
    """Run the daemon in the foreground. Its settings are read by another process while this one loads its parts."""
    from relay.config.wording import SettingsError
    from relay.daemon.apart import FirstReading

    try:
        reading = FirstReading()
    except OSError as error:
        sys.stderr.write(f"relay: no process can be started to read the settings: {error.strerror}; allow it more\n")
        return 1
    from relay.cli.session import refused_settings
    from relay.daemon.run import serve as serve_daemon

    try:
        settings = reading.settings()
    except SettingsError as error:
        refused = refused_settings(error)
        sys.stderr.write(f"relay: {refused.text}; {refused.remedy}\n")
        return 1
    return serve_daemon(settings)


def sendmail(argv: list[str]) -> int:
    """Hand in a mail, as /usr/sbin/sendmail does; called for each mail, so nothing else is loaded. sysexits.h."""
    from relay.cli.sendmail import sendmail as hand_in

    return hand_in(argv)


def build() -> typer.Typer:
    """All commands. Called for one command only, never by the daemon."""
    import typer

    from relay.cli import (
        account,
        applying,
        backup,
        check,
        client,
        console,
        demo,
        health,
        history,
        importing,
        key,
        node,
        notice,
        queue,
        sender,
        sendmail,
        service,
    )

    app = _group("A local SMTP relay that logs in upstream with each sender's own, encrypted credentials.")
    app.callback(epilog="Example: relay account add billing@example.com")(_root)
    for name, module, text in (
        ("account", account, "Mailboxes at providers: add, test, suspend, remove."),
        ("sender", sender, "Which sender's mail goes through which account."),
        ("client", client, "Which application may send as whom."),
        ("queue", queue, "What waits, and what an operator does to it."),
        ("import", importing, "Accounts and senders from another relay's configuration."),
        ("notice", notice, "What people were told about trouble and bounces."),
        ("key", key, "The master keys that stored passwords are sealed with."),
        ("node", node, "The daemons that share this store."),
        ("console", console, "Who may sign in to the console; tokens of programs."),
    ):
        group = _group(text)
        module.register(group)
        app.add_typer(group, name=name)
    for register in (
        service.register,
        health.register,
        backup.register,
        sendmail.register,
        check.register,
        applying.register,
        demo.register,
        history.register,
    ):
        register(app)
    assert isinstance(app, typer.Typer)
    return app


def _group(text: str) -> typer.Typer:
    import typer

    return typer.Typer(
        help=text,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,  # help without Rich: quicker
        pretty_exceptions_enable=False,  # they show local variables, and one of those may be a password
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _root() -> None:
    pass


def _wrong_usage(wrong: Exception) -> int:
    from relay.cli.output import complain

    context = getattr(wrong, "ctx", None)
    command = context.command_path if context is not None else "relay"
    text = wrong.format_message() if hasattr(wrong, "format_message") else str(wrong)
    if type(wrong).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(text + "\n")
    else:
        sentence = " ".join(text.split()).rstrip(".")
        complain(f"{sentence}{'' if sentence.endswith('?') else '.'} See `{command} --help`")
    return int(getattr(wrong, "exit_code", 2))
