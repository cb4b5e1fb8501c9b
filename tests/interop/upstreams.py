"""Real submission servers in folders of their own: Debian's Postfix with Dovecot's SASL, and Dovecot's own service.

Both deliver through that Postfix into a Maildir, where a test reads what arrived for a recipient.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.certificates import Certificates, write_certificates
from tests.peers.postfix import PrivatePostfix, free_port, missing, search_path, wait_for_port

NOBODY = 65534
ACCOUNTS = {"ann@example.com": "correct horse", "bob@example.com": "bättery staple"}

SUBMISSION = """\
127.0.0.1:{port} inet n - n - - smtpd
  -o syslog_name=submission-{port}
  -o smtpd_tls_wrappermode={wrapped}
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_mechanism_filter={mechanisms}
"""
BEHIND_DOVECOT = """\
127.0.0.1:{port} inet n - n - - smtpd
  -o smtpd_authorized_xclient_hosts=127.0.0.1
  -o smtpd_tls_security_level=none
  -o smtpd_tls_auth_only=no
"""
DOVECOT = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = submission
hostname = dovecot.example
ssl = required
ssl_cert = <{chain}
ssl_key = <{key}
auth_mechanisms = plain login
auth_failure_delay = 0
auth_verbose = yes
first_valid_uid = 1
mail_location = maildir:{folder}/none
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={folder}/none
}}
service auth {{
  unix_listener auth-postfix {{
    mode = 0660
    user = postfix
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service submission-login {{
  inet_listener submission {{
    address = 127.0.0.1
    port = {starttls}
  }}
  inet_listener submissions {{
    address = 127.0.0.1
    port = {implicit}
    ssl = yes
  }}
}}
submission_relay_host = 127.0.0.1
submission_relay_port = {behind}
submission_relay_trusted = yes
"""


@dataclass(frozen=True)
class Door:
    """A port to submit to: how TLS starts, and the mechanisms it offers."""

    server: str
    tls: str  # starttls | implicit, as `relay account add --tls` has it
    mechanisms: str
    port: int

    def __str__(self) -> str:
        return f"{self.server}-{self.tls}-{self.mechanisms.replace(', ', '+')}"


DOORS = [
    ("postfix", "starttls", "plain, login"),
    ("postfix", "implicit", "plain, login"),
    ("postfix", "starttls", "plain"),
    ("postfix", "starttls", "login"),
    ("postfix", "implicit", "login"),
    ("dovecot", "starttls", "plain, login"),
    ("dovecot", "implicit", "plain, login"),
]


@dataclass(frozen=True)
class Mail:
    """What lies in a mailbox. Lines end in LF there: `header` without its empty line, `body` as bytes."""

    header: str
    body: bytes

    @property
    def recipient(self) -> str:
        """Whom it was delivered to."""
        return self.header.partition("Delivered-To: ")[2].partition("\n")[0]

    @property
    def authenticated_as(self) -> str:
        """Who had logged in at the Postfix that wrote the topmost Received field."""
        found = re.search(r"Authenticated sender: (\S+?)\)", self.header)
        return found[1] if found else ""


class Upstream:
    """Both servers, running. `doors` in the order of `DOORS`; `ca` is what a client must trust."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.folder = folder
        self.ca = certificates.ca
        self.doors = [Door(*door, free_port()) for door in DOORS]
        self._certificates = certificates
        self._behind = free_port()
        self._mail = folder / "mail"
        self._read: dict[str, Mail] = {}
        self._owners = {login: login for login in ACCOUNTS}
        self._dovecot: subprocess.Popen[bytes] | None = None
        self._postfix = self._configured_postfix()

    def door(self, server: str, tls: str, mechanisms: str = "plain, login") -> Door:
        """The door with these properties."""
        return next(it for it in self.doors if (it.server, it.tls, it.mechanisms) == (server, tls, mechanisms))

    def set_passwords(self, accounts: dict[str, str]) -> None:
        """Replace all logins; takes effect at the next one."""
        fresh = self.folder / "users.new"
        fresh.write_text("".join(f"{login}:{password}\n" for login, password in accounts.items()))
        os.chown(fresh, -1, _group("dovecot"))
        fresh.chmod(0o640)
        fresh.replace(self.folder / "users")

    def set_owner(self, sender: str, login: str) -> None:
        """Let `login` use the envelope sender `sender`."""
        self._owners[sender] = login
        self._postfix.table("owners", self._owners)

    def postfix_log(self) -> str:
        """Postfix's log so far."""
        return self._postfix.log.read_text()

    def logins(self) -> list[tuple[str, str]]:
        """Mechanism and user of each mail that came in through one of Postfix's own doors, oldest first."""
        return re.findall(r"submission-\S+ .*sasl_method=(\S+), sasl_username=(\S+)", self.postfix_log())

    def mails(self, recipient: str) -> list[Mail]:
        """What has arrived for `recipient`."""
        for path in sorted((self._mail / "inbox/new").glob("*")):
            if path.name not in self._read:
                header, _, body = path.read_bytes().partition(b"\n\n")
                self._read[path.name] = Mail(header.decode("utf-8", "surrogateescape"), body)
        return [mail for mail in self._read.values() if mail.recipient == recipient]

    async def arrived(self, recipient: str, count: int = 1, timeout_s: float = 15) -> list[Mail]:
        """Wait until `count` mails are there (a Maildir raises no event: it is looked at every 10 ms)."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(found := self.mails(recipient)) < count:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log = self.postfix_log()[-1500:]
            raise TimeoutError(f"{len(self.mails(recipient))} of {count} mails for {recipient}; {log}") from None
        return found

    def start(self) -> None:
        """Start both and wait for every port."""
        self._mail.mkdir()
        os.chown(self._mail, NOBODY, NOBODY)
        self.set_passwords(ACCOUNTS)
        config = self.folder / "dovecot.conf"
        config.write_text(
            DOVECOT.format(
                folder=self.folder,
                chain=self._certificates.chain,
                key=self._certificates.key,
                starttls=self.door("dovecot", "starttls").port,
                implicit=self.door("dovecot", "implicit").port,
                behind=self._behind,
            )
        )
        self._dovecot = subprocess.Popen(
            ("dovecot", "-F", "-c", str(config)), env={"PATH": search_path()}, stdin=subprocess.DEVNULL
        )
        self._postfix.start()
        for door in self.doors:
            wait_for_port(door.port)

    def stop(self) -> None:
        """Stop both."""
        self._postfix.stop()
        if self._dovecot is not None:
            self._dovecot.send_signal(signal.SIGTERM)
            try:
                self._dovecot.wait(10)
            except subprocess.TimeoutExpired:
                self._dovecot.kill()
                self._dovecot.wait()

    def _configured_postfix(self) -> PrivatePostfix:
        services = BEHIND_DOVECOT.format(port=self._behind)
        for door in self.doors:
            if door.server == "postfix":
                wrapped = "yes" if door.tls == "implicit" else "no"
                services += SUBMISSION.format(
                    port=door.port, wrapped=wrapped, mechanisms=door.mechanisms.replace(" ", "")
                )
        folder = self.folder / "postfix"
        folder.mkdir()
        settings = {
            "myhostname": "upstream.example",
            "mynetworks": "",
            "smtpd_tls_cert_file": str(self._certificates.chain),
            "smtpd_tls_key_file": str(self._certificates.key),
            "smtpd_tls_auth_only": "yes",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": str(self.folder / "run/auth-postfix"),
            "smtpd_sasl_authenticated_header": "yes",
            "smtpd_sender_login_maps": f"hash:{folder}/config/owners",
            "smtpd_sender_restrictions": "reject_sender_login_mismatch",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            "virtual_mailbox_domains": "example.org, example.com",
            "virtual_mailbox_base": str(self._mail),
            "virtual_mailbox_maps": "static:inbox/",
            "virtual_uid_maps": f"static:{NOBODY}",
            "virtual_gid_maps": f"static:{NOBODY}",
            "virtual_mailbox_limit": "0",
            "message_size_limit": "104857600",
            "smtpd_error_sleep_time": "0",
        }
        ports = [door.port for door in self.doors if door.server == "postfix"]
        postfix = PrivatePostfix(folder, settings, services, (*ports, self._behind))
        postfix.configure()
        postfix.table("owners", self._owners)
        return postfix


def absent() -> str:
    """Why the servers cannot run here; empty if they can."""
    if shutil.which("dovecot", path=search_path()) is None:
        return "Dovecot is not installed"
    if not Path("/usr/lib/dovecot/submission-login").exists():
        return "Dovecot's submission service is not installed"
    return missing()


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    """Both servers in a folder that is removed afterwards; not in pytest's own, which only its owner may enter."""
    folder = Path(tempfile.mkdtemp(prefix="relay-interop-"))
    folder.chmod(0o755)
    try:
        upstream = Upstream(folder, write_certificates(folder))
        try:
            upstream.start()
            yield upstream
        finally:
            upstream.stop()
    finally:
        deadline = time.monotonic() + 5
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)


def _group(name: str) -> int:
    import grp

    return grp.getgrnam(name).gr_gid
