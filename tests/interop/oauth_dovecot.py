"""Debian's Dovecot as a mail provider with OAuth alone: submission and IMAP, checking the authority's JWTs by itself.

It verifies signature, issuer, audience, times and user of each token (`passdb oauth2`, local validation), by XOAUTH2
or OAUTHBEARER.  What is submitted goes on, without TLS, to a scripted server of the test.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.interop.upstreams import absent as absent_submission
from tests.peers.authority import RESOURCE, Authority
from tests.peers.certificates import write_certificates
from tests.peers.postfix import free_port, search_path, wait_for_port

_CONFIG = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = submission imap
hostname = dovecot.example
ssl = required
ssl_cert = <{chain}
ssl_key = <{key}
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
auth_verbose = yes
first_valid_uid = 1
mail_location = maildir:{folder}/mail/%u
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={folder}/mail/%u
}}
namespace inbox {{
  inbox = yes
  separator = /
  mailbox "Gesendete Objekte" {{
    special_use = \\Sent
    auto = create
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap}
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {imaps}
    ssl = yes
  }}
}}
service submission-login {{
  inet_listener submission {{
    address = 127.0.0.1
    port = {submission}
  }}
}}
submission_relay_host = 127.0.0.1
submission_relay_port = {behind}
"""
_OAUTH = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
issuers = {issuer}
active_attribute = aud
active_value = {audience}
username_attribute = sub
"""


class OAuthDovecot:
    """Running; `mechanism` is the one it offers."""

    def __init__(self, folder: Path, authority: Authority, mechanism: str, behind: int) -> None:
        self.folder, self.mechanism = folder, mechanism
        self.submission, self.imap, self.imaps = free_port(), free_port(), free_port()
        files = write_certificates(folder)
        self.ca = files.ca
        keys = folder / "keys/default/RS256"  # <azp>/<alg>/<kid>
        keys.mkdir(parents=True)
        (keys / "default").write_bytes(authority.signing.as_pem(private=False))
        (folder / "mail").mkdir()
        os.chown(folder / "mail", 65534, 65534)
        (folder / "oauth2.conf").write_text(_OAUTH.format(folder=folder, issuer=authority.url(""), audience=RESOURCE))
        self._config = folder / "dovecot.conf"
        self._config.write_text(
            _CONFIG.format(
                folder=folder,
                chain=files.chain,
                key=files.key,
                mechanisms=mechanism.lower(),
                imap=self.imap,
                imaps=self.imaps,
                submission=self.submission,
                behind=behind,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def log(self) -> str:
        """What it logged so far."""
        return (self.folder / "dovecot.log").read_text()

    def logins(self) -> list[tuple[str, str]]:
        """Protocol and user of each login, oldest first."""
        return re.findall(r"(\w+)-login: Info: Login: user=<([^>]+)>", self.log())

    def deliver(self, octets: bytes) -> None:
        """A new mail in INBOX, as a delivery agent leaves it."""
        new = self._maildir("INBOX") / "new"
        name = f"{time.time_ns()}.M1P1.test"
        held = new.parent / "tmp" / name
        held.write_bytes(octets)
        os.chown(held, 65534, 65534)
        held.rename(new / name)

    def mails(self, mailbox: str) -> list[tuple[str, bytes]]:
        """File names, which end with the flags, and octets of what lies in a mailbox; lines end in CRLF."""
        folder = self._maildir(mailbox)
        found = sorted([*folder.glob("new/*"), *folder.glob("cur/*")])
        return [(path.name, path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")) for path in found]

    def _maildir(self, mailbox: str) -> Path:
        home = next((self.folder / "mail").iterdir())
        return home if mailbox == "INBOX" else home / f".{mailbox}"

    def start(self) -> None:
        """Start, and wait for every port."""
        self._process = subprocess.Popen(
            ("dovecot", "-F", "-c", str(self._config)), env={"PATH": search_path()}, stdin=subprocess.DEVNULL
        )
        for port in (self.submission, self.imap, self.imaps):
            wait_for_port(port)

    def stop(self) -> None:
        """Stop."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def absent() -> str:
    """Why it cannot run here; empty if it can."""
    if not Path("/usr/lib/dovecot/imap").exists():
        return "Dovecot's IMAP service is not installed"
    return absent_submission()


@contextmanager
def running_dovecot(authority: Authority, mechanism: str, behind: int) -> Iterator[OAuthDovecot]:
    """In a folder of its own, which its unprivileged processes may enter; removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="relay-dovecot-"))
    folder.chmod(0o755)
    try:
        dovecot = OAuthDovecot(folder, authority, mechanism, behind)
        try:
            dovecot.start()
            yield dovecot
        finally:
            dovecot.stop()
    finally:
        deadline = time.monotonic() + 5
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)
