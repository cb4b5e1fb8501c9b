"""What people read about trouble: words, and mail that other programs parse to what we meant."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.accounts.conditions import Condition, ConditionKind
from relay.accounts.model import Account, AccountState
from relay.aftercare import trouble_words as words
from relay.aftercare.carrier import Standing, carriers
from relay.aftercare.letters import MARK, Postmark, own_mail, plain
from relay.aftercare.trouble_words import Trouble
from relay.aftercare.wording import line, span, wrapped
from relay.diagnosis.model import Who
from relay.mail.content import unstuff
from relay.queue.ours import OwnMail

AT = 1_790_000_000_000
BILLING = Account(1, "billing@example.com", "m365", "password")
ALARM = Account(2, "alarm@example.com", "m365", "oauth-device", owner="eve@example.com")
RELAY = "relay.example.com"


def trouble(
    *accounts: Account,
    kind: ConditionKind = ConditionKind.SUSPENDED,
    cause: str = "m365-smtp-auth-disabled-tenant",
    who: Who = Who.ADMINISTRATOR,
    detail: str = "535 5.7.139 SmtpClientAuthentication is disabled",
    repeated: bool = False,
) -> Trouble:
    conditions = tuple(
        Condition(n, account.id, "", kind, cause, who, detail, AT + n, closed_at=AT + 60_000)
        for n, account in enumerate(accounts, 1)
    )
    return Trouble(kind, cause, who, conditions, {one.id: one for one in accounts}, {1: 3, 2: 4}, repeated)


def parsed(mail: OwnMail) -> EmailMessage:
    assert mail.content.endswith(b"\r\n")
    assert b"\n" not in mail.content.replace(b"\r\n", b"")
    message = message_from_bytes(unstuff(mail.content), policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def made(subject: str, body: str, carrier: Account = BILLING, recipient: str = "eve@example.com") -> OwnMail:
    return own_mail(
        plain(subject, body),
        id=99,
        kind="trouble",
        carrier=carrier,
        recipient=recipient,
        postmark=Postmark(RELAY),
        now=AT,
    )


def test_an_owner_reads_plain_words_with_the_numbered_remedy() -> None:
    subject, body = words.to_owner(trouble(BILLING), relay=RELAY, repeat_s=86_400, administrators=("it@example.com",))
    assert subject == "Mail from billing@example.com cannot be sent"
    assert "3 mails wait." in body
    assert "Nothing is lost" in body
    assert re.search(r"^1\. ", body, re.M)
    assert "once a day" in body
    assert "it@example.com" in body
    assert "5.7.139" not in body, "the reply is for the administrator"
    assert max(map(len, body.splitlines())) <= 76


def test_an_administrator_reads_accounts_cause_reply_number_queue_and_commands() -> None:
    told = trouble(BILLING, ALARM, cause="aadsts7000222", detail="invalid_client AADSTS7000222: secret expired")
    subject, body = words.to_administrator(told, relay=RELAY, repeat_s=86_400)
    assert subject == "Suspended: billing@example.com and alarm@example.com (aadsts7000222)"
    for expected in (
        "aadsts7000222 (AADSTS7000222)",
        "billing@example.com, 3 waiting, logs in by password",
        "2, 7 deliveries wait",
        "    invalid_client AADSTS7000222: secret expired",
        "    relay account set-password billing@example.com",
        "    relay account connect alarm@example.com",
        "    relay queue list --account billing@example.com",
        "    relay explain aadsts7000222",
    ):
        assert expected in body
    assert words.headline(trouble(BILLING, repeated=True)).startswith("Still suspended: ")


@pytest.mark.parametrize("kind", list(ConditionKind))
def test_every_kind_has_words_for_everybody(kind: ConditionKind) -> None:
    for told in (trouble(BILLING, kind=kind), trouble(BILLING, ALARM, kind=kind, who=Who.OWNER, cause="no-such-cause")):
        texts = [
            words.to_owner(told, relay=RELAY, repeat_s=60, administrators=()),
            words.to_administrator(told, relay=RELAY, repeat_s=60),
            words.to_chat(told),
            words.over(told, relay=RELAY),
        ]
        for subject, body in texts:
            assert subject
            assert "\n" not in subject
            assert "\n\n\n" not in body


def test_what_concerns_the_relay_as_a_whole_has_no_account() -> None:
    one = Condition(1, None, "", ConditionKind.SUSPENDED, "credential-unreadable", Who.ADMINISTRATOR, "", AT, AT)
    told = Trouble(one.kind, one.cause, one.who, (one,), {}, {})
    assert words.to_administrator(told, relay=RELAY, repeat_s=60)[0] == (
        "Suspended: the relay as a whole (credential-unreadable)"
    )
    assert "the relay" in words.over(told, relay=RELAY)[0]


def test_a_hundred_accounts_make_a_short_notice() -> None:
    many = [Account(n, f"a{n}@example.com", "m365", "password") for n in range(1, 101)]
    subject, body = words.to_administrator(trouble(*many), relay=RELAY, repeat_s=60)
    assert "and 98 other accounts" in subject
    assert "and 80 more" in body
    assert len(body) < 8000


def test_a_mail_of_ours_parses_back_and_asks_for_no_answer() -> None:
    body = "Grüße aus Köln\n.\n.point\nFrom here\n" + "long " * 400 + "\n"
    mail = made("Übersicht für Jürgen", body)
    message = parsed(mail)
    assert message["Subject"] == "Übersicht für Jürgen"
    assert message.get_content().replace("\r\n", "\n") == body
    assert message["From"].addresses[0].addr_spec == "billing@example.com"
    assert message["To"].addresses[0].addr_spec == "eve@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message[MARK] == f"trouble; relay={RELAY}"
    assert message["Date"].datetime.timestamp() == AT / 1000
    assert message["Message-ID"] == mail.header_message_id
    assert f"(relay {RELAY})" in message["Received"]
    assert mail.content.isascii()
    assert max(map(len, mail.content.split(b"\r\n"))) <= 998
    assert mail == made("Übersicht für Jürgen", body), "the same notice is the same mail"


def test_an_address_beyond_ascii_makes_a_mail_for_smtputf8() -> None:
    wide = Account(1, "jürgen@example.com", "custom", "password")
    mail = made("x", "y\n", carrier=wide)
    assert mail.smtputf8
    assert "From: Mail relay relay.example.com <jürgen@example.com>\r\n".encode() in mail.content.replace(b'"', b"")


def test_only_an_account_whose_upstream_takes_it_sends_with_the_null_path() -> None:
    assert made("x", "y\n").reverse_path == "billing@example.com"
    taking = Account(1, "billing@example.com", "custom", "password", null_sender=True)
    assert made("x", "y\n", carrier=taking).reverse_path == ""


@settings(deadline=None)  # the parser of the standard library takes its time
@given(text=st.text(max_size=300))
def test_what_others_wrote_stays_on_one_harmless_line(text: str) -> None:
    cleaned = line(text)
    assert cleaned.isprintable()
    message = parsed(made(f"about {cleaned}", wrapped(f"1. {cleaned}\n")))
    assert set(message.keys()) == set(parsed(made("x", "y\n")).keys())


@given(text=st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "Zs"]), max_size=500))
def test_wrapping_loses_no_word(text: str) -> None:
    assert wrapped(text).split() == text.split()


def test_a_span_is_in_its_largest_unit() -> None:
    assert [span(s) for s in (30, 60, 14_400, 86_400, 432_000)] == [
        "30 seconds",
        "1 minute",
        "4 hours",
        "1 day",
        "5 days",
    ]


def test_a_carrier_is_healthy_named_or_near() -> None:
    stopped = Account(3, "notices@example.com", "m365", "password", state=AccountState.SUSPENDED)
    other = Account(4, "a@other.example", "gmail", "password")
    everybody = [other, stopped, BILLING, ALARM]
    known = Standing(
        {account.id: {"password", "refresh_token"} for account in everybody}, {account.id for account in everybody}
    )

    def order(named: str, near: str, troubled: tuple[Account, ...] = ()) -> list[Account]:
        return carriers(everybody, known, named=named, near=near, troubled=lambda account: account in troubled)

    assert order("", "x@example.com") == [ALARM, BILLING, other]
    assert order("", "x@example.com", (ALARM,)) == [BILLING, other]
    assert order("A@Other.Example", "x@example.com")[0] == other
    assert order("notices@example.com", "x@other.example")[0] == other, "the named one is in trouble itself"
    assert order("", "x", (ALARM, BILLING, other)) == []


def test_a_carrier_has_a_credential_and_one_that_was_proved_comes_first() -> None:
    new = Account(5, "aa@example.com", "m365", "oauth-code")
    app = Account(6, "app@example.com", "m365", "oauth-app")
    open_ = Account(7, "open@example.com", "custom", "none")
    away = Account(8, "a@other.example", "gmail", "password")
    secrets = {6: {"client_certificate"}, 8: {"password"}, 5: {"client_secret", "access_token"}}

    def order(named: str = "", proved: tuple[int, ...] = ()) -> list[Account]:
        everybody = (new, app, open_, away)
        found = carriers(
            everybody, Standing(secrets, proved), named=named, near="x@example.com", troubled=lambda one: False
        )
        assert new not in found, "nobody has signed in to it"
        return found

    assert order() == [app, open_, away]
    assert order(proved=(8,)) == [away, app, open_]
    assert order(proved=(8, 7)) == [open_, away, app]
    assert order("app@example.com", proved=(8, 7)) == [app, open_, away]
    assert order("aa@example.com") == [app, open_, away], "the named one has no credential"
