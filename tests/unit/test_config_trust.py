"""SMTP_AUTH_SSL_TRUST: what may be trusted, and that nothing means everything."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from relay.config.check import load
from relay.config.settings import UpstreamDefaults
from relay.config.trust import trust_anchor
from relay.config.wording import SettingsError

FINGERPRINT = "0123456789abcdef" * 4


def test_a_ca_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "campus-ca.pem"))
    (tmp_path / "bare").write_bytes((tmp_path / "campus-ca.pem").read_bytes())
    assert trust_anchor("campus-ca.pem") == str(tmp_path / "campus-ca.pem")
    assert trust_anchor("./bare") == str(tmp_path / "bare")
    assert trust_anchor("bare") == str(tmp_path / "bare")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (f"sha256:{FINGERPRINT}", f"sha256:{FINGERPRINT}"),
        (f"SHA256:{FINGERPRINT.upper()}", f"sha256:{FINGERPRINT}"),
        ("sha256:" + ":".join(FINGERPRINT[i : i + 2] for i in range(0, 64, 2)), f"sha256:{FINGERPRINT}"),
        ("name:Mail.Example.EDU", "name:mail.example.edu"),
        ("mail.example.edu", "name:mail.example.edu"),
        ("mailhost", "name:mailhost"),
    ],
)
def test_one_written_form(text: str, written: str) -> None:
    assert trust_anchor(text) == written
    assert trust_anchor(written) == written


@pytest.mark.parametrize("text", ["*", "all", "any", "none", "ALL", "name:*", "no", "off", "name:any"])
def test_nothing_trusts_everything(text: str) -> None:
    with pytest.raises(ValueError, match="never does; give a CA file"):
        trust_anchor(text)


@pytest.mark.parametrize(
    "text", ["sha256:1234", "sha256:", "sha1:" + "0" * 40, "name:", "name:*.example.org", "a b", "name:a..b"]
)
def test_wrong_forms_are_told_the_right_one(text: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        trust_anchor(text)


def test_a_file_must_exist_and_hold_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        trust_anchor("/nowhere/ca.pem")
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    with pytest.raises(ValueError, match="no certificate in PEM form"):
        trust_anchor(str(tmp_path / "ca.pem"))


def test_the_settings_name_the_variable(tmp_path: Path) -> None:
    assert load({"SMTP_AUTH_SSL_TRUST": "mail.example.edu"}).upstream == UpstreamDefaults(trust="name:mail.example.edu")
    with pytest.raises(SettingsError, match=r"^SMTP_AUTH_SSL_TRUST: \* would trust every certificate or none"):
        load({"SMTP_AUTH_SSL_TRUST": "*"})
