"""The same words mean different things at different stages: how far a refusal reaches, and what it may cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.diagnosis import catalogue_entries, diagnose, explain
from relay.diagnosis.conditions import CONDITIONS
from relay.mail.outcome import InDoubt, Refused, Stage, Unreachable
from relay.mail.reply import Reply

BEFORE_MAIL = [Stage.CONNECT, Stage.TLS, Stage.AUTH]
LATER = [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DONE]


def refused(stage, text, provider=""):
    return diagnose(Refused(Reply.from_wire(int(text[:3]), [text[4:]]), stage), provider=provider)


def returns_mail(diagnosis):
    return not diagnosis.retry and not diagnosis.pause


texts = st.one_of(
    st.sampled_from([entry.sample[4:] for entry in catalogue_entries()]),
    st.text(max_size=200),
)


@given(code=st.integers(400, 599), text=texts, stage=st.sampled_from(BEFORE_MAIL))
def test_nothing_before_mail_returns_a_message(code, text, stage):
    diagnosis = diagnose(Refused(Reply.from_wire(code, [text]), stage))
    assert diagnosis.pause
    assert diagnosis.scope == ("account" if stage is Stage.AUTH else "upstream")


@given(code=st.integers(500, 599), text=texts)
def test_a_refused_sign_in_is_tried_three_times_an_hour_at_most(code, text):
    diagnosis = diagnose(Refused(Reply.from_wire(code, [text]), Stage.AUTH))
    assert diagnosis.scope == "account"
    assert diagnosis.pause
    assert not diagnosis.retry or (diagnosis.pause_for_s or 0) >= 1200


@given(code=st.integers(400, 499), text=texts, stage=st.sampled_from(LATER))
def test_a_4yz_is_final_only_when_the_catalogue_knows_that_very_4yz(code, text, stage):
    diagnosis = diagnose(Refused(Reply.from_wire(code, [text]), stage))
    final = {entry.id for entry in catalogue_entries() if entry.code.startswith("4") and not entry.retry}
    assert diagnosis.retry or diagnosis.id in final


@given(
    code=st.integers(400, 599), text=texts, stage=st.sampled_from(list(Stage)), provider=st.sampled_from(["", "m365"])
)
def test_a_diagnosis_is_whole_and_always_the_same(code, text, stage, provider):
    outcome = Refused(Reply.from_wire(code, [text]), stage)
    diagnosis = diagnose(outcome, provider=provider)
    assert diagnosis == diagnose(outcome, provider=provider)
    assert diagnosis.cause
    assert diagnosis.remedy
    assert diagnosis.scope != "recipient" or stage is Stage.RCPT
    assert diagnosis.pause_for_s is None or diagnosis.retry


@pytest.mark.parametrize(
    ("stage", "text", "expected", "scope", "retry", "pause", "pause_for_s"),
    [
        (Stage.CONNECT, "554 No", "greeting-refused", "upstream", True, True, None),
        (Stage.CONNECT, "502 5.5.1 What is EHLO?", "greeting-refused", "upstream", True, True, None),
        (Stage.CONNECT, "554 5.7.1 looks like spam", "greeting-refused", "upstream", True, True, None),
        (Stage.CONNECT, "521 5.3.2 no mail here", "generic-host-no-mail", "upstream", False, True, None),
        (Stage.CONNECT, "421 4.3.2 busy", "generic-service-not-available", "upstream", True, True, None),
        (Stage.CONNECT, "450 wait", "fallback-temporary", "upstream", True, True, None),
        (Stage.TLS, "501 5.5.4 no parameters", "starttls-refused", "upstream", True, True, None),
        (Stage.TLS, "454 4.7.0 TLS not available", "generic-tls-not-available", "upstream", True, True, None),
        (Stage.AUTH, "535 5.7.8 bad", "generic-auth-credentials-invalid", "account", False, True, None),
        (Stage.AUTH, "550 go away", "auth-refused", "account", False, True, None),
        (Stage.AUTH, "503 5.5.1 AUTH not offered", "auth-refused", "account", False, True, None),
        (
            Stage.AUTH,
            "454 4.7.0 Temporary authentication failure",
            "generic-temporary-auth-failure",
            "account",
            True,
            True,
            None,
        ),
        (
            Stage.AUTH,
            "454 4.7.0 Too many login attempts, please try again later",
            "gmail-too-many-logins",
            "account",
            True,
            True,
            900,
        ),
        (Stage.AUTH, "421 4.7.66 TLS 1.0 and 1.1 are not supported.", "m365-tls-too-old", "account", False, True, None),
        (
            Stage.AUTH,
            "432 4.7.12 A password transition is needed",
            "generic-password-transition",
            "account",
            False,
            True,
            None,
        ),
        (Stage.MAIL, "550 5.0.0 No", "fallback-permanent", "message", False, False, None),
        (Stage.MAIL, "450 later", "fallback-temporary", "message", True, False, None),
        (Stage.MAIL, "530 5.7.0 Authentication required", "generic-auth-required", "account", False, True, None),
        (Stage.MAIL, "452 4.3.1 Insufficient system storage", "generic-storage", "upstream", True, False, None),
        (
            Stage.MAIL,
            "421 4.4.2 Message submission rate for this client has exceeded the configured limit",
            "m365-submission-rate",
            "account",
            True,
            True,
            60,
        ),
        (
            Stage.MAIL,
            "550 5.4.5 Daily user sending limit exceeded",
            "gmail-daily-user-limit",
            "account",
            True,
            True,
            3600,
        ),
        (Stage.RCPT, "550 5.1.1 User unknown", "generic-user-unknown", "recipient", False, False, None),
        (Stage.RCPT, "450 4.2.1 later", "fallback-temporary", "recipient", True, False, None),
        (Stage.RCPT, "451 4.3.0 oops", "generic-local-error", "recipient", True, False, None),
        (Stage.RCPT, "421 4.3.2 closing", "generic-service-not-available", "upstream", True, False, None),
        (Stage.RCPT, "450 4.7.1 Greylisted", "generic-greylisted", "recipient", True, False, 300),
        (Stage.RCPT, "452 4.0.0 mailbox over quota", "generic-rate-limited", "recipient", True, False, 60),
        (
            Stage.RCPT,
            "550 fabrikam.example does not accept mail",
            "fallback-permanent",
            "recipient",
            False,
            False,
            None,
        ),
        (Stage.RCPT, "554 5.7.1 Relay access denied", "generic-relay-denied", "recipient", False, False, None),
        (
            Stage.DATA,
            "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending",
            "m365-concurrent-connections",
            "account",
            True,
            True,
            60,
        ),
        (
            Stage.DONE,
            "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded",
            "m365-recipient-thread-limit",
            "message",
            True,
            False,
            None,
        ),
        (Stage.DONE, "451 4.7.1 rate limit exceeded", "generic-rate-limited", "account", True, True, 60),
        (Stage.DONE, "554 5.6.0 bad", "generic-malformed-message", "message", False, False, None),
        (Stage.DONE, "451 4.6.0 malformed", "generic-malformed-message", "message", True, False, None),
        (
            Stage.DONE,
            "421 is not allowed to send: Free accounts are for test purposes only.",
            "mailgun-sandbox",
            "message",
            False,
            False,
            None,
        ),
        (
            Stage.DONE,
            "554 5.2.252 SendAsDenied; a not allowed to send as b",
            "m365-send-as-5-2-252",
            "message",
            False,
            False,
            None,
        ),
    ],
)
def test_stage_decides_how_far_it_reaches(stage, text, expected, scope, retry, pause, pause_for_s):
    found = refused(stage, text)
    assert (found.id, found.scope, found.retry, found.pause, found.pause_for_s) == (
        expected,
        scope,
        retry,
        pause,
        pause_for_s,
    )


def test_a_throttle_or_a_used_up_quota_never_returns_mail():
    waiting = [entry for entry in catalogue_entries() if entry.cls in ("throttled", "quota")]
    assert waiting
    assert [(e.id, stage) for e in waiting for stage in Stage if returns_mail(refused(stage, e.sample))] == []


@pytest.mark.parametrize("stage", list(Stage))
def test_no_condition_of_the_way_to_the_upstream_returns_mail(stage):
    for reason in CONDITIONS:
        diagnosis = diagnose(Unreachable(stage, reason, ""))
        assert diagnosis.id == reason
        assert diagnosis.cause, reason
        assert diagnosis.remedy, reason
        returned = reason in {"local-size-limit", "no-8bitmime", "no-smtputf8", "not-recognised"}
        assert returns_mail(diagnosis) == returned, reason


@pytest.mark.parametrize(
    "reason",
    [
        "dns-failure",
        "connection-refused",
        "connection-timeout",
        "connection-lost",
        "tls-handshake",
        "certificate-invalid",
        "certificate-name",
        "certificate-expired",
        "starttls-missing",
        "cleartext-login",
        "starttls-refused",
        "protocol-error",
        "stage-timeout",
        "no-auth-mechanism",
        "credential-missing",
        "credential-unreadable",
        "lease-lost",
        "upstream-closed",
        "reply-lost",
        "local-size-limit",
        "no-8bitmime",
        "no-smtputf8",
        "content-missing",
        "greeting-refused",
    ],
)
def test_the_reasons_that_transports_give_are_known(reason):
    assert reason in CONDITIONS


@pytest.mark.parametrize(
    "reason", ["certificate-invalid", "certificate-name", "certificate-expired", "starttls-missing", "cleartext-login"]
)
def test_a_way_that_is_not_safe_stops_the_account(reason):
    diagnosis = diagnose(Unreachable(Stage.TLS, reason, ""))
    assert (diagnosis.retry, diagnosis.pause, diagnosis.scope) == (False, True, "upstream")


def test_a_connection_that_breaks_rests_the_account_before_mail_and_the_message_after():
    assert diagnose(Unreachable(Stage.CONNECT, "connection-lost", "")).pause
    assert not diagnose(Unreachable(Stage.DATA, "connection-lost", "")).pause


def test_an_unheard_of_reason_is_retried():
    diagnosis = diagnose(Unreachable(Stage.DATA, "sunspots", ""))
    assert (diagnosis.id, diagnosis.retry, diagnosis.pause) == ("unknown-failure", True, False)


@pytest.mark.parametrize("reason", ["reply-lost", "stage-timeout", "connection-lost", "protocol-error", "sunspots"])
def test_a_lost_reply_to_the_dot_may_be_a_duplicate(reason):
    diagnosis = diagnose(InDoubt(reason, ""))
    assert (diagnosis.id, diagnosis.retry, diagnosis.scope) == ("reply-lost", True, "message")
    assert "may have the message" in diagnosis.cause


def test_words_of_another_provider_are_said_to_be():
    text = "550 5.7.60 SMTP; Client does not have permissions to send as this sender"
    assert "microsoft365" in refused(Stage.MAIL, text, provider="gmail").cause
    assert refused(Stage.MAIL, text, provider="m365") == refused(Stage.MAIL, text)
    assert refused(Stage.MAIL, text, provider="custom") == refused(Stage.MAIL, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "SMTPAuthenticationError: (535, b'5.7.139 Authentication unsuccessful, basic authentication is disabled.')",
            "m365-basic-auth-disabled",
        ),
        (
            "smtplib error: (535, b'5.7.8 Username and Password not accepted. For more\\n5.7.8 https://example')",
            "gmail-bad-credentials",
        ),
        (
            "5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
            "m365-smtp-auth-disabled-tenant",
        ),
        (
            "host mx.example[192.0.2.1] said: 550 5.1.1 <bob@x.example>: User unknown (in reply to RCPT)",
            "generic-user-unknown",
        ),
        ("  '535-5.7.8 Username and Password not accepted'  ", "gmail-bad-credentials"),
        ("certificate-expired", "certificate-expired"),
        ("generic-greylisted", "generic-greylisted"),
        ("connect to smtp.example.com port 587: timed out", "connection-timeout"),
        ("[Errno 111] Connection refused", "connection-refused"),
        ("ssl.SSLCertVerificationError: certificate verify failed: certificate has expired", "certificate-expired"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'x'.", "certificate-name"),
        ("certificate verify failed: unable to get local issuer certificate", "certificate-invalid"),
        ("status=5.1.1", "generic-user-unknown"),
        ("hello", "not-recognised"),
        ("", "not-recognised"),
        ("250 2.0.0 Ok", "not-recognised"),
    ],
    ids=str,
)
def test_explain_reads_what_people_paste(text, expected):
    assert explain(text).id == expected


@given(st.text(max_size=300))
def test_explain_never_fails(text):
    assert explain(text).remedy
