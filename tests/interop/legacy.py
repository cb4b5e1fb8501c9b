"""Programs as sites have them that hand a mail to `sendmail`, or speak SMTP in their own way; each sends one mail."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
APART = Path("/usr/local/lib/relay-peers")  # where install-peers puts what cannot stand beside Postfix
MORE = os.environ.get("INTEROP_MORE", "")  # where install-more put its libraries
TIMEOUT_S = 50


@dataclass(frozen=True)
class Errand:
    """A mail to send to the relay at 127.0.0.1:`port`; `folder` has `sendmail` and is the program's own."""

    port: int
    sender: str
    recipient: str
    body: str
    folder: Path

    @property
    def sendmail(self) -> str:
        """What stands for /usr/sbin/sendmail."""
        return str(self.folder / "sendmail")

    def header(self, recipient: bool = True) -> str:
        to = f"To: {self.recipient}\n" if recipient else ""
        return f"From: {self.sender}\n{to}Subject: interop\n\n"


@dataclass(frozen=True)
class Program:
    """`send` raises RuntimeError with the program's words when it fails. `needs`: programs or files."""

    name: str
    needs: tuple[str, ...]
    send: Callable[[Errand], Awaitable[None]]
    more: bool = False  # only with INTEROP_MORE

    def absent(self) -> str:
        """Why it cannot run here; empty if it can."""
        if self.more and not MORE:
            return f"{self.name} is not asked for: make interop-more"
        missing = [need for need in self.needs if not (shutil.which(need) or Path(MORE or "/", need).exists())]
        return f"{', '.join(missing)} not installed" if missing else ""

    def __str__(self) -> str:
        return self.name


def make_sendmail(folder: Path, name: str = "sendmail") -> Path:
    """A link `name` to a script like the one that `make` and pip install as `relay`."""
    program = folder / "relay"
    lines = (
        "import sys",
        f"sys.path.insert(0, {str(REPOSITORY)!r})",
        "from relay.__main__ import main",
        "sys.exit(main())",
    )
    program.write_text("\n".join((f"#!{sys.executable}", *lines, "")))
    program.chmod(0o755)
    (folder / name).symlink_to(program)
    return folder / name


async def run(it: Errand, *command: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> None:
    """Run it where `sendmail` learns of the relay by its settings; RuntimeError unless it ends with 0."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(it.folder),
            "LANG": "C.UTF-8",
            "RELAY_LISTENER__PORT": str(it.port),
            **(environ or {}),
        },
        cwd=it.folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate(stdin.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0 or b"relay: " in output:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {output.decode(errors='replace')[-2000:]}")


async def as_cron(it: Errand) -> None:
    """Debian's cron: the job's output, To and From in the header, the mail's owner as recipient."""
    options = ("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "-r", it.sender, it.recipient)
    await run(it, it.sendmail, *options, stdin=it.header() + it.body)


async def as_a_script(it: Errand) -> None:
    """The here-document of a thousand shell scripts."""
    await run(it, it.sendmail, "-oi", "-t", "-f", it.sender, stdin=it.header() + it.body)


async def as_git(it: Errand) -> None:
    """git send-email, reportbug, Rails: -i, the sender, recipients behind it."""
    await run(it, it.sendmail, "-i", "-f", it.sender, "--", it.recipient, stdin=it.header(recipient=False) + it.body)


async def bsd_mailx(it: Errand) -> None:
    """Debian's `mail`."""
    (it.folder / ".mailrc").write_text(f"set sendmail={it.sendmail}\n")
    await run(it, "bsd-mailx", "-s", "interop", "-r", it.sender, it.recipient, stdin=it.body)


async def s_nail(it: Errand) -> None:
    """`mail` of Alpine, Arch, RHEL 9."""
    options = ("-:/", "-Sv15-compat", f"-Smta={it.sendmail}", "-Ssendcharsets=utf-8", f"-r{it.sender}")
    await run(it, "s-nail", *options, "-s", "interop", it.recipient, stdin=it.body)


async def php(it: Errand) -> None:
    """PHP's mail() with its default options of sendmail."""
    path = f"sendmail_path={it.sendmail} -t -i"
    await run(it, "php", "-n", "-d", path, str(PROGRAMS / "mail.php"), it.sender, it.recipient, it.body)


async def php_by_msmtp(it: Errand) -> None:
    """The same with msmtp for sendmail, which speaks SMTP to the relay."""
    msmtp = f"msmtp --file=/dev/null --host=127.0.0.1 --port={it.port} --tls=off --auth=off -t -i"
    path = f'sendmail_path="{msmtp}"'
    await run(it, "php", "-n", "-d", path, str(PROGRAMS / "mail.php"), it.sender, it.recipient, it.body)


async def ssmtp(it: Errand) -> None:
    """What Debian's old images have for sendmail; always says HELO."""
    (it.folder / "ssmtp.conf").write_text(
        f"mailhub=127.0.0.1:{it.port}\nhostname=app_server\nFromLineOverride=YES\nRoot={it.recipient}\n"
    )
    program = str(APART / "usr/sbin/ssmtp")
    await run(it, program, "-C", str(it.folder / "ssmtp.conf"), "-f", it.sender, "-t", stdin=it.header() + it.body)


async def nullmailer(it: Errand) -> None:
    """The part of nullmailer that speaks SMTP; the mail is a file of its queue, open as descriptor 3."""
    queued = it.folder / "queued"
    queued.write_text(f"{it.sender}\n{it.recipient}\n\n{it.header()}{it.body}")
    options = f"host=127.0.0.1\nport={it.port}\n\n"
    await run(
        it,
        "sh",
        "-c",
        f"exec {APART}/usr/lib/nullmailer/smtp 3<{queued}",
        stdin=options,
        environ={"HELOHOST": "app_server"},
    )


async def nodemailer(it: Errand) -> None:
    """Node."""
    command = ("node", str(PROGRAMS / "nodemailer.js"), "127.0.0.1", str(it.port), it.sender, it.recipient, it.body)
    await run(it, *command, environ={"NODE_PATH": str(Path(MORE, "node_modules"))})


async def java_mail(it: Errand) -> None:
    """Java, without compiling: `java FILE` does that."""
    await _java(it, PROGRAMS / "Send.java", "javax.mail.jar", "javax.activation.jar")


async def jakarta_mail(it: Errand) -> None:
    """The same program as it is since 2020, when the packages got another name."""
    source = it.folder / "Send.java"
    source.write_text((PROGRAMS / "Send.java").read_text().replace("javax.mail.", "jakarta.mail."))
    await _java(it, source, "jakarta-mail.jar", "jakarta-activation.jar")


async def _java(it: Errand, source: Path, *jars: str) -> None:
    path = ":".join(str(Path(MORE, JARS, name)) for name in jars)
    await run(it, "java", "-cp", path, str(source), "127.0.0.1", str(it.port), it.sender, it.recipient, it.body)


async def go(it: Errand) -> None:
    """Go."""
    program = shutil.which("go") or str(Path(MORE, "go").resolve())
    arguments = ("127.0.0.1", str(it.port), it.sender, it.recipient, it.body)
    environ = {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOROOT": str(Path(program).resolve().parents[1])}
    await run(it, program, "run", str(PROGRAMS / "send.go"), *arguments, environ=environ)


JARS = "java/usr/share/java"
LEGACY = (
    Program("cron", (), as_cron),
    Program("script", (), as_a_script),
    Program("git-send-email", (), as_git),
    Program("bsd-mailx", ("bsd-mailx",), bsd_mailx),
    Program("s-nail", ("s-nail",), s_nail),
    Program("php", ("php",), php),
    Program("php-msmtp", ("php", "msmtp"), php_by_msmtp),
    Program("ssmtp", (str(APART / "usr/sbin/ssmtp"),), ssmtp),
    Program("nullmailer", (str(APART / "usr/lib/nullmailer/smtp"),), nullmailer),
    Program("nodemailer", ("node", "node_modules/nodemailer"), nodemailer, more=True),
    Program("java", ("java", f"{JARS}/javax.mail.jar"), java_mail, more=True),
    Program("jakarta", ("java", f"{JARS}/jakarta-mail.jar"), jakarta_mail, more=True),
    Program("go", ("go",), go, more=True),
)
