"""TLS contexts: always verifying, kept for the next caller, made anew when a CA file changes."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme

from relay.net.tls import BadTrust, client_tls, is_cached

CA = trustme.CA()


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.mark.parametrize("trust", [None, "name:mail.example.org", "mail.example.org"])
def test_chain_and_name_are_verified(trust: str | None) -> None:
    made = client_tls(trust)
    assert made.context.verify_mode is ssl.CERT_REQUIRED
    assert made.context.check_hostname
    assert made.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert made.name == (trust and "mail.example.org")
    assert made.pin is None


def test_a_ca_file_is_the_only_authority(ca_file: Path) -> None:
    made = client_tls(str(ca_file))
    assert made.context.cert_store_stats()["x509_ca"] == 1
    assert made.context.verify_mode is ssl.CERT_REQUIRED
    assert made.context.check_hostname


def test_contexts_are_kept_until_the_file_changes(ca_file: Path) -> None:
    assert not is_cached(str(ca_file))
    first = client_tls(str(ca_file))
    assert is_cached(str(ca_file))
    assert client_tls(str(ca_file)) is first
    os.utime(ca_file, ns=(1, 1))
    assert client_tls(str(ca_file)) is not first


def test_a_pin_takes_the_place_of_the_chain_and_nothing_passes_unpinned() -> None:
    made = client_tls("SHA256:" + ":".join(["AB"] * 32))
    assert made.pin == b"\xab" * 32
    with pytest.raises(ssl.SSLCertVerificationError):
        made.verify_pin(None)


@pytest.mark.parametrize("trust", ["sha256:", "sha256:abc", "sha256:" + "g" * 64, "name:", "name: "])
def test_a_setting_that_means_nothing(trust: str) -> None:
    with pytest.raises(BadTrust):
        client_tls(trust)


def test_a_file_that_is_not_there_or_holds_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        client_tls(str(tmp_path / "gone.pem"))
    (tmp_path / "empty.pem").write_text("nothing here")
    with pytest.raises(BadTrust):
        client_tls(str(tmp_path / "empty.pem"))
