"""`relay sendmail`: what programs call as /usr/sbin/sendmail, with the options of Postfix's."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, BinaryIO

from relay.mail.errors import RelayError

if TYPE_CHECKING:
    import typer

    from relay.cli.stdin_mail import Mail
    from relay.cli.submitting import Envelope, Refusal, Server

# sysexits.h; what callers of sendmail look at
OK, USAGE, DATA, NO_USER, UNAVAILABLE, TRY_AGAIN, NOT_PERMITTED = 0, 64, 65, 67, 69, 75, 77

# Those of Postfix's sendmail(1), which also takes them behind recipients.  What is not named below is ignored.
_OPTIONS = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"
_NOTHING_TO_DO = frozenset("ihH")  # -bi: there are no aliases; -bh, -bH: there is no host status
_MAX_ENVID = 100  # RFC 3461 4.4


class WrongUsage(RelayError):
    """The command line cannot be obeyed; the text says why not."""


class Command:
    """A command line, as far as it means anything to us. No dataclass: those take longer to load than SMTP."""

    def __init__(self) -> None:
        self.mode = "m"  # of -b: m reads a mail, s speaks SMTP; "" when there is nothing to do
        self.sender: str | None = None  # as it was given
        self.full_name = ""
        self.extract = False
        self.dot_ends = True
        self.notify = ""
        self.ret = ""
        self.envid = ""
        self.server = ""
        self.recipients: list[str] = []


def register(app: typer.Typer) -> None:
    """Add the command to the help; `tree` runs it without Typer, which could not parse it."""
    app.command("sendmail", epilog="Example: relay sendmail -t -i --server 127.0.0.1:2525")(_help)


def _help() -> None:
    """Hand in a mail from standard input, as /usr/sbin/sendmail does. A link of that name to relay does the same.

    \b
    RECIPIENT…              to whom; with -t those of To, Cc and Bcc, too
    -f ADDR, -r ADDR        the sender; if left out, the user's name at this host
    -F NAME                 the name in From, when the mail has no From
    -i, -oi                 a dot alone does not end the mail
    -N NOTIFY, -R RETURN, -V ENVID
                            ask for delivery status notifications
    -bs                     speak SMTP on standard input and output
    --server HOST:PORT|PATH
                            the relay; if left out, the settings' first door, a Unix socket before others

    All other options of Postfix's sendmail are accepted and ignored. There is no --json: the exit status says it all,
    by sysexits.h: 0 accepted, 64 wrong usage, 65 bad mail, 67 a recipient was refused, 69 refused,
    75 try again later, 77 not permitted; a line on standard error says why.
    """


def sendmail(argv: list[str], source: BinaryIO | None = None) -> int:
    """Run it; the exit status is of sysexits.h. `source` is where the mail comes from, None: standard input."""
    try:
        return _run(argv, source or sys.stdin.buffer)
    except WrongUsage as wrong:
        return _complain(USAGE, f"{wrong}; see `relay sendmail --help`")
    except KeyboardInterrupt:
        return _complain(TRY_AGAIN, "stopped; nothing was sent")


def _run(argv: list[str], source: BinaryIO) -> int:
    command = parse(argv)
    if not command.mode:
        return OK
    server = _server(command.server)
    if command.mode == "s":
        from relay.cli.pass_through import pass_through

        return pass_through(server)
    from relay.cli.stdin_mail import BadMail, read_mail
    from relay.cli.submitting import Envelope

    if not command.extract and not command.recipients:
        raise WrongUsage("no recipient; name one, or give -t to take them from To, Cc and Bcc")
    sender = _sender(command.sender)
    try:
        author = _author(command.full_name, sender or _user()) if command.full_name else ""
        mail = read_mail(source, dot_ends=command.dot_ends, extract=command.extract, author=author)
    except BadMail as bad:
        return _complain(DATA, f"{bad}; nothing was sent, correct the mail")
    except OSError as error:
        return _complain(TRY_AGAIN, f"the mail cannot be read: {error.strerror or error}; nothing was sent")
    with mail.file:
        recipients = tuple(dict.fromkeys((*command.recipients, *mail.recipients)))
        if not recipients:
            raise WrongUsage("no recipient in To, Cc or Bcc")
        if any(not address.isprintable() for address in recipients):  # half a character, too: RFC 6531 wants UTF-8
            return _complain(DATA, "an address is not UTF-8; nothing was sent, correct it")
        return _submit(server, Envelope(sender, recipients, command.notify, command.ret, command.envid), mail)


def parse(argv: list[str]) -> Command:
    """Raises WrongUsage."""
    import getopt

    command = Command()
    # A -q alone, which starts a queue run elsewhere, does not take what follows as its argument.
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = [argument for at, argument in enumerate(argv) if at > end or argument != "-q"]
    if len(arguments) < len(argv):
        command.mode = ""
    try:
        _no_abbreviations(arguments)
        options, given = getopt.gnu_getopt(arguments, _OPTIONS, ["server="])
    except getopt.GetoptError as error:
        raise WrongUsage(str(error)) from None
    for name, value in options:
        _option(command, name, value)
    from relay.cli.stdin_mail import addresses  # one argument may hold several, as in Postfix

    for text in given:
        found = addresses(text)
        if not found or not text.isprintable():
            raise WrongUsage("a recipient is no address")
        command.recipients += found
    return command


def _no_abbreviations(arguments: list[str]) -> None:
    """`--s=host` must not reach another server: programs put what users type behind our options."""
    for argument in arguments[: arguments.index("--") if "--" in arguments else None]:
        if argument.startswith("--") and argument.partition("=")[0] != "--server":
            raise WrongUsage(f"option {argument.partition('=')[0]} not recognized")


def _option(command: Command, name: str, value: str) -> None:
    match name:
        case "-t":
            command.extract = True
        case "-i":
            command.dot_ends = False
        case "-o" if value.startswith("i"):
            command.dot_ends = False
        case "-f" | "-r":
            command.sender = value
        case "-F":
            command.full_name = value
        case "--server":
            command.server = command.server or value  # the first: what comes behind may be a web form's
        case "-N":
            command.notify = _notify(value)
        case "-R":
            command.ret = {"full": "FULL", "hdrs": "HDRS"}.get(value.lower(), "")
        case "-V":
            command.envid = _xtext(value) if value.isascii() and value.isprintable() else ""
        case "-q" | "-I":
            command.mode = ""
        case "-b":
            _mode(command, value)
        case _:
            pass


def _mode(command: Command, value: str) -> None:
    letter = value[:1]
    if letter in _NOTHING_TO_DO:
        command.mode = ""
    elif letter == "p":
        raise WrongUsage("-bp is not supported, use `relay queue list`")
    elif letter == "d":
        raise WrongUsage("-bd is not supported, use `relay serve`")
    elif letter in ("m", "s"):
        command.mode = letter
    else:
        raise WrongUsage(f"-b{letter} is not supported")


def _notify(value: str) -> str:
    """RFC 3461 4.1; "" for what is neither `never` nor a list of the others: ignored, as Postfix does."""
    wanted = {word.strip().upper() for word in value.split(",")}
    if wanted == {"NEVER"} or wanted <= {"SUCCESS", "FAILURE", "DELAY"}:
        return ",".join(sorted(wanted))
    return ""


def _xtext(value: str) -> str:
    text = "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in value)  # RFC 3461 4
    return text if len(text) <= _MAX_ENVID else ""


def _sender(given: str | None) -> str:
    """The envelope sender; "" is the null one. What has no domain gets this host's name."""
    if given is None:
        return _user()
    if given.strip() in ("", "<>"):
        return ""
    if not given.isprintable():
        raise WrongUsage("the sender is no address")
    from relay.cli.stdin_mail import addresses

    found = addresses(given)
    if len(found) != 1:
        raise WrongUsage("the sender is no address")
    return found[0] if "@" in found[0] else f"{found[0]}@{socket.gethostname()}"


def _user() -> str:
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under numbers that nobody has
        name = f"user{os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def _author(name: str, address: str) -> str:
    """The value of a From field."""
    if not name.isprintable():
        raise WrongUsage("the name of -F is not printable text")
    if name.isascii():
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{address}>'
    from email.header import Header

    return f"{Header(name, 'utf-8').encode(linesep=chr(13) + chr(10))} <{address}>"


def _server(given: str) -> Server:
    from relay.cli.submitting import Server

    if not given:
        from relay.cli.nearest_door import nearest_door

        return nearest_door()
    if "/" in given:
        return Server(path=given)
    host, colon, port = given.rpartition(":")
    if not colon or given.endswith("]"):
        return Server(host=given.strip("[]"))
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536 and host):
        raise WrongUsage("--server needs HOST:PORT, or the path of a Unix socket")
    return Server(host=host.strip("[]"), port=int(port))


def _submit(server: Server, envelope: Envelope, mail: Mail) -> int:
    from relay.cli.submitting import submit

    try:
        refusal = submit(server, envelope, mail)
    except OSError as error:
        return _complain(
            TRY_AGAIN,
            f"no answer from the relay at {server}: {error.strerror or error}; "
            "start it (relay serve) or name another one with --server, then send the mail again",
        )
    return OK if refusal is None else _refused(refusal, envelope)


def _refused(refusal: Refusal, envelope: Envelope) -> int:
    status = exit_status(refusal)
    sender, recipient = envelope.sender or "<>", refusal.recipient or envelope.recipients[0]
    remedy = {
        TRY_AGAIN: "nothing was sent, send it again later",
        NOT_PERMITTED: f"`relay client try 127.0.0.1 {sender} {recipient}` says why",
        NO_USER: "correct the address",
        DATA: "correct the mail or its sender",
    }.get(status, "the relay's log says more")
    about = f"<{refusal.recipient}>: " if refusal.recipient else ""
    if refusal.sent and refusal.code < 500:
        remedy = "send it again to those that did not get it: the relay's log names who did"
    others = "; the other recipients get the mail" if refusal.sent else ""
    return _complain(status, f"{about}{refusal.code} {refusal.text}{others}; {remedy}")


def exit_status(refusal: Refusal) -> int:
    """What a reply means to whoever called."""
    status = refusal.text.partition(" ")[0]
    if 400 <= refusal.code < 500:
        return UNAVAILABLE if refusal.sent else TRY_AGAIN  # sending it all again would make duplicates
    if status.startswith("5.7."):
        return NOT_PERMITTED
    if refusal.stage == "RCPT":
        return NO_USER
    # RFC 3463: bad sender, message too big, anything about its content
    return DATA if status.startswith(("5.1.", "5.3.4", "5.6.")) or refusal.code == 552 else UNAVAILABLE


def _complain(status: int, text: str) -> int:
    from relay.cli.output import complain

    complain(text)
    return status
