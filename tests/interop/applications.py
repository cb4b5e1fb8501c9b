"""Applications as sites have them: each hands one mail to a port without login or TLS, the way its manual says."""

from __future__ import annotations

import asyncio
import os
import shutil
import smtplib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 30
NET_SMTP = """\
use strict; use Net::SMTP;
my ($port, $sender, $recipient, $file) = @ARGV;
open(my $input, '<:raw', $file) or die; local $/; my $content = <$input>;
my $smtp = Net::SMTP->new('127.0.0.1', Port => $port, Hello => 'app.example', Timeout => 20) or die "connect: $@";
($smtp->mail($sender) && $smtp->to($recipient) && $smtp->data() && $smtp->datasend($content) && $smtp->dataend())
    or die $smtp->code . ' ' . $smtp->message;
$smtp->quit;
"""


@dataclass(frozen=True)
class Submission:
    """One mail to hand in at 127.0.0.1:`port`; `content` has LF line ends, as files on disk have."""

    port: int
    sender: str
    recipient: str
    content: bytes
    folder: Path

    def file(self, *, crlf: bool = False) -> Path:
        """The content as a file."""
        path = self.folder / "mail.eml"
        path.write_bytes(self.content.replace(b"\n", b"\r\n") if crlf else self.content)
        return path


@dataclass(frozen=True)
class Application:
    """`send` raises RuntimeError with the program's words when it reports a failure. `program` must be installed."""

    name: str
    program: str
    send: Callable[[Submission], Awaitable[None]]

    def absent(self) -> str:
        """Why it cannot run here; empty if it can."""
        return "" if not self.program or shutil.which(self.program) else f"{self.name} is not installed"

    def __str__(self) -> str:
        return self.name


async def _run(*command: str, stdin: bytes = b"") -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "LANG": "C"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate(stdin)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {output.decode(errors='replace')[-2000:]}")


async def swaks(it: Submission) -> None:
    """Swiss army knife SMTP."""
    server = ("--server", "127.0.0.1", "--port", str(it.port), "--ehlo", "app.example")
    await _run("swaks", *server, "--from", it.sender, "--to", it.recipient, "--data", f"@{it.file()}", "--silent", "2")


async def msmtp(it: Submission) -> None:
    """The usual sendmail stand-in of cron jobs and scripts."""
    server = ("--host=127.0.0.1", f"--port={it.port}", "--domain=app.example", "--tls=off", "--auth=off")
    await _run("msmtp", "--file=/dev/null", *server, f"--from={it.sender}", "--", it.recipient, stdin=it.content)


async def curl(it: Submission) -> None:
    """libcurl, which many programs embed."""
    url = f"smtp://127.0.0.1:{it.port}/app.example"
    envelope = ("--mail-from", it.sender, "--mail-rcpt", it.recipient)
    await _run("curl", "--silent", "--show-error", "--url", url, *envelope, "--upload-file", str(it.file(crlf=True)))


async def net_smtp(it: Submission) -> None:
    """Perl's Net::SMTP: a library that is not Python's."""
    await _run("perl", "-e", NET_SMTP, str(it.port), it.sender, it.recipient, str(it.file()))


async def python_smtplib(it: Submission) -> None:
    """Python's standard library."""

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", it.port, local_hostname="app.example", timeout=TIMEOUT_S) as client:
            client.sendmail(it.sender, [it.recipient], it.content)

    try:
        await asyncio.to_thread(send)
    except smtplib.SMTPException as error:
        raise RuntimeError(str(error)) from error


APPLICATIONS = (
    Application("swaks", "swaks", swaks),
    Application("msmtp", "msmtp", msmtp),
    Application("curl", "curl", curl),
    Application("Net::SMTP", "perl", net_smtp),
    Application("smtplib", "", python_smtplib),
)
