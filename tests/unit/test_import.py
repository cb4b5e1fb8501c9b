"""Imports of real-looking configurations: afterwards each sender goes where the other relay would have sent it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.cli.importing import as_request
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.imports.decke import read_decke
from relay.control.imports.emailproxy import read_emailproxy
from relay.control.imports.msmtp import read_msmtp
from relay.control.imports.plan import BadConfiguration
from relay.control.imports.postfix import read_postfix
from relay.daemon.build import open_control
from tests.lengths import examples
from tests.store import lay_store
from tests.unit.command_line import Run, refused

SAMPLES = Path(__file__).parents[1] / "samples" / "import"
SECRETS = (
    *("bill:ing-secret", "fax-secret", "shop-secret", "default-secret", "scan secret", "pinned-secret"),
    *("the-app-secret-value", "google-secret-value", "bill/secret", "bill%2Fsecret", "key-secret", "all-secret"),
)
READERS = {"postfix": read_postfix, "msmtp": read_msmtp, "emailproxy": read_emailproxy, "decke": read_decke}
FILES = {"postfix": "postfix", "msmtp": "msmtprc", "emailproxy": "emailproxy.config", "decke": "smtprelay.ini"}

# What the other program does with a sender: login, host and port, TLS, and how it logs in.
DOES = {
    "postfix": {
        "billing@example.com": ("billing@example.com", "smtp.office365.com", 587, "starttls", "password"),
        "fax@example.com": ("fax-login", "smtp.default.example", 587, "starttls", "password"),
        "any.one@shop.example.com": ("shop@shop.example.com", "smtp.fastmail.com", 465, "implicit", "password"),
        "alarm@example.com": ("alarm@example.com", "smarthost.lan", 25, "starttls", "none"),
        "somebody@else.example": ("relay@example.com", "smtp.default.example", 587, "starttls", "password"),
    },
    "msmtp": {
        "scan@example.com": ("scan@example.com", "smtp.office365.com", 587, "starttls", "password"),
        "invoices@example.com": ("scan@example.com", "smtp.office365.com", 587, "starttls", "password"),
        "me@alumni.example.com": ("someone@gmail.com", "smtp.gmail.com", 465, "implicit", "password"),
        "pinned@example.net": ("pinned", "mail.example.net", 587, "starttls", "password"),
        "other@example.org": ("scan@example.com", "smtp.office365.com", 587, "starttls", "password"),
    },
    "emailproxy": {
        "erp@contoso.example": ("erp@contoso.example", "smtp.office365.com", 587, "starttls", "oauth-code"),
        "daemon@contoso.example": ("daemon@contoso.example", "smtp.office365.com", 587, "starttls", "oauth-app"),
        "someone@gmail.com": ("someone@gmail.com", "smtp.gmail.com", 587, "starttls", "oauth-code"),
    },
    "decke": {
        "billing@example.com": ("billing@example.com", "smtp.office365.com", 587, "starttls", "password"),
        "news@example.com": ("apikey", "smtp.sendgrid.net", 465, "implicit", "password"),
        "other@example.com": ("all@example.com", "mail.example.com", 587, "starttls", "password"),
    },
}
LEFT = {
    "postfix": [
        "main.cf:5:",
        "main.cf:12: smtp_sasl_password_maps of the kind ldap",
        "canonical:1: root@mx.example.com",
    ],
    "msmtp": ["msmtprc:21: passwordeval"],
    "emailproxy": ["emailproxy.config:28: erp@contoso.example: its tokens", "emailproxy.config:45: the catch-all"],
    "decke": ["smtprelay.users:2: the login scanner", "smtprelay.ini:3: listen", "smtprelay.ini:4: allowed_nets"],
}


@pytest.mark.parametrize("source", DOES)
async def test_each_sender_goes_where_the_other_relay_sent_it(tmp_path: Path, source: str) -> None:
    plan = READERS[source]([SAMPLES / FILES[source]])
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path))) as control:
        done = await registry.run(control, "import.apply", as_request(source, plan))
        assert (len(done["added"]["accounts"]), done["there"]["accounts"]) == (len(plan.accounts), [])
        accounts = {entry["address"]: entry for entry in await registry.run(control, "account.list", {})}
        for sender, does in DOES[source].items():
            found = accounts[(await registry.run(control, "sender.which", {"address": sender}))["account"]]
            assert (found["login"], found["host"], found["port"], found["tls"], found["auth"]) == does
        again = await registry.run(control, "import.apply", as_request(source, plan))
        assert again["added"] == {"accounts": [], "senders": []}
        assert again["there"]["accounts"] == [each.address for each in plan.accounts]
        audited = str(await registry.run(control, "audit", {}))
        assert f"'import': '{source}'" in audited
        assert not [secret for secret in SECRETS if secret in audited + str(accounts)]


@pytest.mark.parametrize("source", DOES)
def test_the_plan_is_shown_first_with_what_is_left_out(run: Run, source: str) -> None:
    shown = run("import", source, str(SAMPLES / FILES[source]), "--dry-run", "--yes")
    assert shown.status == 0
    assert "Nothing was changed" in shown.err
    for line in LEFT[source]:
        assert line in shown.out
    as_json = run("import", source, str(SAMPLES / FILES[source]), "--json")
    assert as_json.json["done"] is None
    assert not [secret for secret in SECRETS if secret in shown.out + shown.err + as_json.out]


def test_yes_does_it(run: Run) -> None:
    done = run("import", "msmtp", str(SAMPLES / "msmtprc"), "--yes")
    assert (done.status, "Added 3 accounts and 5 senders." in done.out) == (0, True), done.err
    assert run("sender", "which", "scan@example.com").status == 0


def test_passwords_are_carried_over_as_they_are() -> None:
    for source, wanted in {
        "postfix": ["bill:ing-secret", "shop-secret", "fax-secret", "default-secret"],
        "msmtp": ["scan secret", "pinned-secret"],
        "decke": ["bill/secret", "key-secret", "all-secret"],
    }.items():
        plan = READERS[source]([SAMPLES / FILES[source]])
        assert sorted(each.secrets["password"] for each in plan.accounts if each.secrets) == sorted(wanted)
        assert not [secret for secret in wanted if secret in repr(plan)]
    app = {each.address: each.secrets for each in read_emailproxy([SAMPLES / "emailproxy.config"]).accounts}
    assert app["daemon@contoso.example"] == {"client_secret": "the-app-secret-value"}


def test_what_cannot_be_stored_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    (tmp_path / "msmtprc").write_text(
        "account a\nhost mail.example.com\nfrom a@example.com\nuser a@example.com\nauth on\npassword x-secret\n"
        "account b\nhost mail.example.com\nfrom b@@example.com\nuser b\nauth on\npassword y-secret\n"
    )
    answer = run("import", "msmtp", str(tmp_path / "msmtprc"), "--yes")
    assert answer.status == 1
    assert "b@@example.com" in answer.err
    assert "y-secret" not in answer.out + answer.err
    assert run("account", "list", "--json").json == []


@pytest.mark.parametrize(
    ("source", "name", "text", "words"),
    [
        ("postfix", "main.cf", "relayhost [x]:587\n", "main.cf:1"),
        ("postfix", "main.cf", "relayhost = [x]:port\n", "main.cf:1"),
        ("postfix", "main.cf", "a = $b\nb = $a\nrelayhost = $a\n", "refers to itself"),
        (
            "postfix",
            "main.cf",
            "relayhost=[x]:1\nsmtp_sasl_auth_enable=yes\nsmtp_sasl_password_maps=hash:nope\n",
            "nope: ",
        ),
        ("postfix", "other.cf", "", "neither main.cf"),
        ("msmtp", "rc", "account a : b\n", "rc:1"),
        ("msmtp", "rc", "account a\nhost h\nport x\n", "rc:3"),
        ("emailproxy", "c", "no equals sign\n", "c:1"),
        ("decke", "c", "[section]\n", "c:1"),
        ("decke", "c", "\nremotes = ftp://x\n", "c:2"),
        ("decke", "c", "x" * 70_000, "c:1"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    run: Run, tmp_path: Path, source: str, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    refused(run("import", source, str(tmp_path / name)), words)
    refused(run("import", source, str(tmp_path / "missing"), "--yes"), "missing")


@given(text=st.text(alphabet=st.sampled_from('abc@.:=[]{}$#; \t\n"%/host from account remotes'), max_size=400))
@settings(max_examples=examples(40), deadline=None)
def test_no_text_breaks_a_reader(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "main.cf"
    path.write_text(text)
    for read in READERS.values():
        try:
            plan = read([path])
        except BadConfiguration:  # names the place; anything else is a bug
            continue
        else:
            json.dumps([each.settings for each in plan.accounts])


def test_a_table_that_rewrites_senders_is_done_by_mapping(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("sender_canonical_maps = regexp:/etc/postfix/canonical\n")
    (left,) = READERS["postfix"]([tmp_path]).left
    assert "--from rewrite" in left.by_hand
