"""A provider to try things with: submission with STARTTLS and AUTH on loopback, for `relay demo`."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

_HOST = "127.0.0.1"
_MAX_ARRIVALS = 1000
_LIBRARY_LOG = logging.getLogger("mail.log")  # aiosmtpd's


@dataclass(frozen=True, slots=True)
class Arrival:
    """A mail the sandbox took: who was logged in, over which TLS, and what came. `content` as the author sent it."""

    login: str
    tls: str
    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes


class Sandbox:
    """Takes mail from whoever logs in with `login` and `password`, after STARTTLS only. Keeps what came in memory."""

    def __init__(self, folder: Path, *, login: str, password: str) -> None:
        self.ca = folder / "sandbox-ca.pem"
        self.port = 0
        self.arrivals: asyncio.Queue[Arrival] = asyncio.Queue(_MAX_ARRIVALS)
        self.refused_logins = 0
        self._folder = folder
        self._login, self._password = login, password
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Make a CA and a certificate in the folder, listen on a free port of 127.0.0.1."""
        _LIBRARY_LOG.setLevel(logging.ERROR)  # it warns of its own deprecations at every login
        chain = await asyncio.to_thread(_make_certificates, self._folder, self.ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(chain)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._session(context), _HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port."""
        _LIBRARY_LOG.setLevel(logging.NOTSET)
        if self._server is not None:
            self._server.close()

    def _session(self, context: ssl.SSLContext) -> SMTP:
        return SMTP(
            self,
            hostname="sandbox.example",
            ident="sandbox provider",
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            auth_require_tls=True,
            authenticator=self._authenticate,
            timeout=60,
        )

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        if isinstance(data, LoginPassword):
            login, password = data.login.decode(errors="replace"), data.password
            if login == self._login and hmac.compare_digest(password, self._password.encode()):
                return AuthResult(success=True, auth_data=login)
        self.refused_logins += 1
        return AuthResult(success=False, handled=False)  # answered 535 5.7.8

    # The names that aiosmtpd calls:

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """A mailbox sends as itself only, as at every provider."""
        if address.lower() != str(session.auth_data).lower():
            return f"550 5.7.60 {session.auth_data} has no permission to send as this sender"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep it."""
        tls = session.ssl.get("ssl_object") if isinstance(session.ssl, dict) else None
        content = envelope.content
        arrival = Arrival(
            str(session.auth_data),
            tls.version() if tls is not None else "TLS",
            envelope.mail_from or "",
            tuple(envelope.rcpt_tos),
            content if isinstance(content, bytes) else (content or "").encode(),
        )
        try:
            self.arrivals.put_nowait(arrival)
        except asyncio.QueueFull:
            return "452 4.3.1 the sandbox is full"
        return f"250 2.0.0 OK, delivery number {self.arrivals.qsize()}"


def _make_certificates(folder: Path, ca_file: Path) -> Path:
    """Write the CA to `ca_file`; the file with the server's certificate and key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sandbox CA")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    ca = (
        builder(issuer, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(_HOST))])
    server = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .add_extension(authority, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    chain = folder / "sandbox.pem"
    chain.touch(mode=0o600)
    chain.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + server.public_bytes(serialization.Encoding.PEM)
    )
    return chain
