"""Hands a mail to a front door over SMTP, for `relay sendmail`."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from relay.cli.stdin_mail import Mail

PORT = 2525
_CONNECT_S = 30.0
_REPLY_S = 600.0  # RFC 5321 4.5.3.2.6; a door that answers `direct` asks its upstream first
_LEAVE_S = 5.0  # the mail is accepted or refused by then, and nothing depends on the reply to QUIT
_CHUNK = 65_536


class Server(NamedTuple):
    """A front door: `path` of its Unix socket, or host and port."""

    host: str = "127.0.0.1"
    port: int = PORT
    path: str = ""

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]" if ":" in self.host else self.host) + f":{self.port}"

    def connect(self) -> socket.socket:
        """Raises OSError."""
        if not self.path:
            connected = socket.create_connection((self.host, self.port), _CONNECT_S)
            # The final dot would wait for the acknowledgement of what is before it, which comes 40 ms late.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connected.settimeout(_CONNECT_S)
                connected.connect(self.path)
            except BaseException:
                connected.close()
                raise
        connected.settimeout(_REPLY_S)
        return connected


class Envelope(NamedTuple):
    """Addresses, and what is asked about notifications: `notify`, `ret`, `envid` as on the wire (RFC 3461 4)."""

    sender: str
    recipients: tuple[str, ...]
    notify: str = ""
    ret: str = ""
    envid: str = ""


class Refusal(NamedTuple):
    """A reply that is a no. `recipient`: the first one it is about; `sent`: others were accepted, the mail is gone."""

    stage: str  # CONNECT, EHLO, MAIL, RCPT, DATA, DONE
    code: int
    text: str
    recipient: str = ""
    sent: bool = False


class _Client(smtplib.SMTP):
    """smtplib on a socket that is connected already."""

    def __init__(self, connected: socket.socket) -> None:
        name = socket.gethostname() or "localhost"  # not the default: that one asks the name service
        super().__init__(local_hostname=name, timeout=_REPLY_S)
        self.sock = connected
        self.file: Any = None

    def ask(self, stage: str, command: str, *good: int) -> Refusal | None:
        """Send `command`; None: the reply was one of `good`."""
        self.putcmd(command)
        return self.answer(stage, *good)

    def answer(self, stage: str, *good: int, recipient: str = "") -> Refusal | None:
        """Read a reply; None: it was one of `good`."""
        code, text = self.getreply()
        return None if code in good else Refusal(stage, code, _text(text), recipient)


def submit(server: Server, envelope: Envelope, mail: Mail) -> Refusal | None:
    """Send `mail` to all recipients; None: every one was accepted.

    Recipients that are refused for good do not keep the mail from the others; one that is refused for now does, so
    that the caller may send it again without making duplicates.  Raises OSError (smtplib's exceptions are) when the
    server cannot be reached or hangs up.
    """
    with server.connect() as connected:
        client = _Client(connected)
        refusal = client.answer("CONNECT", 220) or _introduce(client) or _send(client, envelope, mail)
        connected.settimeout(_LEAVE_S)
        try:
            client.quit()
        except OSError:  # it hung up first
            client.close()
        return refusal


def _introduce(client: _Client) -> Refusal | None:
    code, text = client.ehlo()
    if code != 250:
        code, text = client.helo()
    return None if code == 250 else Refusal("EHLO", code, _text(text))


def _send(client: _Client, envelope: Envelope, mail: Mail) -> Refusal | None:
    """One transaction, or more when the door takes fewer recipients at a time."""
    if not all(address.isascii() for address in (envelope.sender, *envelope.recipients)):
        if not client.has_extn("smtputf8"):
            return Refusal("MAIL", 553, "5.6.7 the server takes no addresses outside ASCII")
        client.command_encoding = "utf-8"
    left: Sequence[str] = envelope.recipients
    refused: list[Refusal] = []
    sent = False
    while left:
        refusal = client.ask("MAIL", _mail_command(client, envelope, mail), 250)
        if refusal is not None:
            return refusal._replace(sent=sent)
        accepted, left, more = _offer(client, envelope, left)
        temporary = next((refusal for refusal in more if refusal.code < 500), None)
        if temporary is not None:
            return temporary._replace(sent=sent)
        refused += more
        if accepted:
            refusal = _content(client, mail)
            if refusal is not None:
                return refusal._replace(sent=sent)
            sent = True
    return refused[0]._replace(sent=sent) if refused else None


def _mail_command(client: _Client, envelope: Envelope, mail: Mail) -> str:
    command = f"MAIL FROM:<{envelope.sender}>"
    if client.has_extn("size"):
        command += f" SIZE={mail.size}"
    if mail.eight_bit and client.has_extn("8bitmime"):
        command += " BODY=8BITMIME"
    if client.command_encoding == "utf-8":
        command += " SMTPUTF8"
    if client.has_extn("dsn"):
        command += f" RET={envelope.ret}" if envelope.ret else ""
        command += f" ENVID={envelope.envid}" if envelope.envid else ""
    return command


def _offer(client: _Client, envelope: Envelope, recipients: Sequence[str]) -> tuple[int, Sequence[str], list[Refusal]]:
    """How many were accepted, which are left for the next transaction, which were refused. One for now ends it."""
    asked = f" NOTIFY={envelope.notify}" if envelope.notify and client.has_extn("dsn") else ""
    accepted = 0
    refused: list[Refusal] = []
    for at, recipient in enumerate(recipients):
        client.putcmd(f"RCPT TO:<{recipient}>{asked}")
        refusal = client.answer("RCPT", 250, 251, recipient=recipient)
        if refusal is None:
            accepted += 1
        elif refusal.code == 452 and refusal.text.startswith("4.5.3") and accepted:  # RFC 5321 4.5.3.1.10
            return accepted, recipients[at:], refused
        else:
            refused.append(refusal)
            if refusal.code < 500:
                break
    return accepted, (), refused


def _content(client: _Client, mail: Mail) -> Refusal | None:
    refusal = client.ask("DATA", "DATA", 354)
    if refusal is not None:
        return refusal
    assert client.sock is not None
    mail.file.seek(0)
    try:
        _write(client.sock, mail.file)
    except (BrokenPipeError, ConnectionResetError):  # it hung up, and may have said why
        return client.answer("DONE")
    return client.answer("DONE", 250)


def _write(connected: socket.socket, file: IO[bytes]) -> None:
    """CRLF lines with their dots doubled (RFC 5321 4.5.2), and the end of data."""
    before = b"\r\n"
    while chunk := file.read(_CHUNK):
        chunk = before + chunk  # a line end may have been cut from the dot behind it
        connected.sendall(chunk.replace(b"\r\n.", b"\r\n..")[2:])
        before = chunk[-2:]
    connected.sendall(b".\r\n" if before == b"\r\n" else b"\r\n.\r\n")


def _text(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split())
