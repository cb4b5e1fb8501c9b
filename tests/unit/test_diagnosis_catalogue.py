"""The catalogue: every sample lands on its entry, the two files agree, no pattern can be made slow."""

import json
import re
import subprocess
import sys
import time

import pytest

from relay.diagnosis import catalogue_entries, diagnose, explain
from relay.diagnosis.catalogue import LONGEST_LINE, match
from relay.diagnosis.regenerate import TARGET, from_source
from relay.mail.outcome import Refused, Stage
from relay.mail.reply import Reply

RAW = json.loads(TARGET.read_text("utf-8"))["entries"]
SAMPLES = [(entry, text) for entry in RAW for text in (entry["sample"], *entry.get("also_seen", []))]


def test_the_file_that_is_read_is_made_from_the_one_that_is_edited():
    assert from_source() == json.loads(TARGET.read_text("utf-8")), "run: python -m relay.diagnosis.regenerate"


def test_nothing_got_lost():
    assert len(catalogue_entries()) == 185
    assert len({entry.id for entry in catalogue_entries()}) == 185
    assert len(SAMPLES) == 224


def test_every_sample_means_what_the_catalogue_says():
    for entry, text in SAMPLES:
        found = match(text)
        assert found is not None, text
        expected = (entry["id"], entry["class"], entry["retry"])
        assert (found.id, found.cls, found.retry) == expected, text
        assert found.pause == entry["pause_account"], text
        diagnosis = explain(text)
        assert (diagnosis.id, diagnosis.cls, diagnosis.retry) == expected, text
        assert (diagnosis.cause, diagnosis.remedy) == (entry["cause"], tuple(entry["remedy"])), text
        assert diagnosis.remedy, text
        # Where the catalogue pauses the account, so do we; we rest it for throttles and before MAIL as well.
        assert diagnosis.pause or not entry["pause_account"], text


def test_every_sample_as_it_comes_off_the_wire():
    for entry, text in SAMPLES:
        stage = Stage.DATA if entry["stage"] == "any" else Stage(entry["stage"])
        diagnosis = diagnose(Refused(Reply.from_wire(int(text[:3]), [text[4:]]), stage))
        assert (diagnosis.id, diagnosis.retry) == (entry["id"], entry["retry"]), text


def test_a_reply_of_several_lines_is_one_line():
    lines = ["5.7.8 Username and Password not accepted. For more information, go to", "5.7.8  https://support.example"]
    assert diagnose(Refused(Reply.from_wire(535, lines), Stage.AUTH)).id == "gmail-bad-credentials"


def test_a_status_with_nothing_behind_it_is_still_found():
    assert match("550 5.1.3").id == "generic-recipient-syntax"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "530 5.7.57 Client not authenticated to send mail. Error: 535 5.7.139 Authentication unsuccessful, "
            "SmtpClientAuthentication is disabled for the Mailbox.",
            "m365-smtp-auth-disabled-mailbox",
        ),
        (
            "550 5.0.0 host mx.example said: 550 5.1.1 The email account that you tried to reach does not exist.",
            "gmail-no-such-user",
        ),
        ("554 5.4.0 rejected: (451 4.0.0 later)", "fallback-permanent"),  # nothing known inside: the outer words count
        ("550 5.7.1 Unfortunately 550 5.7.1 again", "generic-policy"),  # its own status repeated is no inner reply
    ],
)
def test_a_reply_within_a_reply_is_asked_first(text, expected):
    assert match(text).id == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ErrorSendAsDenied", "graph-send-as-denied"),
        ("403 ErrorSendAsDenied", "graph-send-as-denied"),
        ('{"error":{"code":"ErrorAccessDenied","message":"Access is denied."}}', "graph-access-denied"),
        ("ErrorMessageSizeExceeded", "graph-too-large"),
        ("MailboxNotEnabledForRESTAPI", "graph-no-mailbox"),
        ("ErrorQuotaExceeded", "graph-mailbox-full"),
        ("429 ApplicationThrottled", "graph-throttled"),
        ("InvalidAuthenticationToken", "graph-token-refused"),
        ("userRateLimitExceeded", "gmail-api-rate"),
        ("dailyLimitExceeded", "gmail-api-day"),
        ("failedPrecondition", "gmail-api-precondition"),
        ('"reason": "insufficientPermissions"', "gmail-api-scope"),
        ("invalidArgument", "gmail-api-bad-request"),
        ("invalidArgument: Recipient address required", "gmail-api-recipient"),
    ],
)
def test_errors_of_the_apis_are_known_by_their_names(text, expected):
    assert explain(text).id == expected


def test_an_api_status_is_not_read_as_one_of_smtp():
    assert not explain("403 ErrorSendAsDenied").retry
    assert explain("503 serviceNotAvailable").retry


def test_the_name_of_a_block_list_is_no_verdict_on_the_content():
    text = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"
    assert match(text).id == "generic-ip-blocked"


def test_text_is_cut_before_it_is_searched():
    assert match("450 " + "x" * LONGEST_LINE + " Relay access denied").id == "fallback-temporary"


def _hostile(pattern: str) -> list[str]:
    """Long texts made of the pattern's own words, which is what makes a search go back again and again."""
    words = re.findall(r"[A-Za-z0-9;:'@ ]{3,}", re.sub(r"\\(.)", r"\1", pattern)) or ["x"]
    plain = re.sub(r"\\(.)", r"\1", pattern).replace("^", "").replace(".*", " ")[:60]
    codes = ("550 5.7.1 ", "451 4.3.0 ")
    texts = [code + word * (LONGEST_LINE // len(word)) for code in codes for word in (plain, words[0], words[-1])]
    return [*texts, "550 " * 1024, "5.7.139 " * 512, "5.7.1 " * 700, "5" * LONGEST_LINE, " ." * 2048]


def test_no_pattern_can_be_made_slow():
    for entry in catalogue_entries():
        pattern = re.compile(entry.pattern, re.IGNORECASE | re.DOTALL)
        for text in _hostile(entry.pattern):
            begun = time.process_time()
            pattern.search(text[:LONGEST_LINE])
            assert time.process_time() - begun < 0.05, (entry.id, text[:80])


@pytest.mark.parametrize("text", ["550 " + "a" * 10_000_000, "4.3.2 " * 100_000, "550 5.7.1 " * 100_000, "\x00" * 9999])
def test_a_hostile_reply_costs_little(text):
    begun = time.process_time()
    diagnose(Refused(Reply(550, "", text), Stage.DATA))
    assert time.process_time() - begun < 0.2
    explain(text)
    assert time.process_time() - begun < 1


def test_importing_reads_nothing():
    code = (
        "import sys; import relay.diagnosis as d; from relay.diagnosis.catalogue import _compiled;"
        "assert _compiled.cache_info().currsize == 0; assert 'yaml' not in sys.modules;"
        "d.explain('550 no'); assert _compiled.cache_info().currsize == 1; assert 'yaml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
