"""A throw-away CA, written as files that other processes can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Paths: the CA's certificate, and a server certificate chain for `localhost` with its key."""

    ca: Path
    chain: Path
    key: Path


def write_certificates(folder: Path, *names: str) -> Certificates:
    """Make a new CA and a certificate for `names` (default: localhost, 127.0.0.1) in `folder`, which must exist."""
    authority = trustme.CA()
    server = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
    files = Certificates(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(files.ca)
    files.chain.write_bytes(b"".join(part.bytes() for part in server.cert_chain_pems))
    files.key.touch(mode=0o600)
    server.private_key_pem.write_to_path(files.key)
    return files
