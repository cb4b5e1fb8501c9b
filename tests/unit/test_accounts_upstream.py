"""Where an account submits: its own settings, the provider's preset, the settings' defaults."""

from dataclasses import replace

import pytest

from relay.accounts.model import Account
from relay.accounts.presets import PRESETS, preset_by_host, preset_for
from relay.accounts.upstream import ApiPlaces, fill, may_log_in, tells_in_clear
from relay.config.settings import UpstreamDefaults

OFFICE = UpstreamDefaults()
CAMPUS = UpstreamDefaults(host="mail.campus.example", port=2465, tls="implicit", trust="name:mail.campus.example")
SITE = UpstreamDefaults(host="mail.site.example", port=25, tls="none")
PLAIN = UpstreamDefaults(host="127.0.0.1", port=1025, tls="none")


def account(provider="default", **settings):
    return Account(id=1, address="Ann@example.com", provider=provider, auth="password", **settings)


@pytest.mark.parametrize(
    ("given", "defaults", "expected"),
    [
        (account(), OFFICE, ("smtp.office365.com", 587, "starttls")),
        (account(), CAMPUS, ("mail.campus.example", 2465, "implicit")),
        (account("custom"), CAMPUS, ("mail.campus.example", 2465, "implicit")),
        (account("m365"), CAMPUS, ("smtp.office365.com", 587, "starttls")),
        (account("yahoo"), OFFICE, ("smtp.mail.yahoo.com", 465, "implicit")),
        (account("yahoo", tls="starttls"), OFFICE, ("smtp.mail.yahoo.com", 587, "starttls")),
        (account("gmail", port=465), OFFICE, ("smtp.gmail.com", 465, "implicit")),
        (account("m365", host="127.0.0.1", port=2587), CAMPUS, ("127.0.0.1", 2587, "starttls")),
        (account(host="smtp.gmail.com"), CAMPUS, ("smtp.gmail.com", 587, "starttls")),
        (account(host="other.example"), CAMPUS, ("other.example", 2465, "implicit")),
        (account(host="other.example", port=587), CAMPUS, ("other.example", 587, "starttls")),
        (account(host="other.example", tls="starttls"), CAMPUS, ("other.example", 587, "starttls")),
        (account("custom", host="other.example"), CAMPUS, ("other.example", 587, "starttls")),
        (account("custom", host="other.example"), PLAIN, ("other.example", 587, "starttls")),
        (account("custom", host="mail.campus.example"), CAMPUS, ("mail.campus.example", 2465, "implicit")),
        (account("custom", host="other.example", port=465), OFFICE, ("other.example", 465, "implicit")),
        (account("custom", host="other.example", port=2525), OFFICE, ("other.example", 2525, "starttls")),
        (account(), PLAIN, ("127.0.0.1", 1025, "none")),
        (account("m365"), PLAIN, ("smtp.office365.com", 587, "starttls")),
        (account("ses", host="email-smtp.eu.amazonaws.com"), PLAIN, ("email-smtp.eu.amazonaws.com", 587, "starttls")),
        (account("gone-since"), OFFICE, ("smtp.office365.com", 587, "starttls")),
    ],
)
def test_every_gap_is_filled(given, defaults, expected):
    upstream = fill(given, defaults)
    assert (upstream.host, upstream.port, upstream.tls) == expected


@pytest.mark.parametrize(
    ("given", "defaults", "limits"),
    [
        (account("m365"), OFFICE, (2, 25, 10_000, 300)),
        (account(), OFFICE, (2, 25, 10_000, 300)),
        (account(host="SMTP.Office365.com"), CAMPUS, (2, 25, 10_000, 300)),
        (account("custom", host="smtp.office365.com"), CAMPUS, (2, 25, 10_000, 300)),
        (account(), CAMPUS, (4, 0, 0, 100)),
        (account("custom", host="127.0.0.1"), OFFICE, (4, 0, 0, 100)),
        (account("m365", max_connections=0, per_minute=0, per_day=0), OFFICE, (0, 0, 0, 300)),
        (account("m365", per_minute=5), OFFICE, (2, 5, 10_000, 300)),
        (account("gmail"), OFFICE, (4, 0, 2_000, 100)),
    ],
)
def test_limits_are_the_providers_unless_set(given, defaults, limits):
    upstream = fill(given, defaults)
    assert limits == (
        upstream.max_connections,
        upstream.per_minute,
        upstream.per_day,
        upstream.recipients_per_transaction,
    )


def test_trust_of_the_settings_is_not_for_hosts_that_a_preset_brought():
    assert fill(account(), CAMPUS).trust == "name:mail.campus.example"
    assert fill(account(host="other.example"), CAMPUS).trust == "name:mail.campus.example"
    assert fill(account("gmail"), CAMPUS).trust is None
    assert fill(account("gmail", trust="name:x.example"), CAMPUS).trust == "name:x.example"


def test_the_login_is_the_address_as_given_unless_set_or_the_same_for_everybody():
    assert fill(account(), OFFICE).login == "Ann@example.com"
    assert fill(account(login="delegate@example.com"), OFFICE).login == "delegate@example.com"
    assert fill(account("sendgrid"), OFFICE).login == "apikey"


def test_a_changed_credential_makes_another_upstream():
    assert fill(account(revision=1), OFFICE) == fill(account(revision=1), OFFICE)
    assert fill(account(revision=1), OFFICE) != fill(account(revision=2), OFFICE)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.id)
def test_presets_are_sound(preset):
    assert preset.tls != "none"
    assert (preset.tls, preset.port) in {("starttls", 587), ("implicit", 465), (None, None)}
    assert preset.max_connections >= 1
    assert preset.recipients_per_transaction >= 1
    if preset.host is not None:
        assert preset_by_host(preset.host) is preset


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann@gmail.com", "gmail"),
        ("ann@Contoso.onmicrosoft.com", "m365"),
        ("ann@hotmail.co.uk", "outlook-com"),
        ("smtp.zoho.eu", "zoho"),
        ("email-smtp.us-east-1.amazonaws.com", "ses"),
        ("ann@example.com", None),
        ("mail.example.com", None),
        ("", None),
    ],
)
def test_a_guess_for_help_text(text, expected):
    preset = preset_for(text)
    assert (preset.id if preset else None) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (account("m365", transport="graph"), ("graph.microsoft.com", 443, 4, 25, 10_000, 300)),
        (account("m365-gcch", transport="graph"), ("graph.microsoft.us", 443, 4, 25, 10_000, 300)),
        (account("m365-dod", transport="graph"), ("dod-graph.microsoft.us", 443, 4, 25, 10_000, 300)),
        (account("m365-cn", transport="graph"), ("microsoftgraph.chinacloudapi.cn", 443, 4, 25, 10_000, 300)),
        (
            account("m365", transport="graph", oauth='{"provider": "microsoft", "cloud": "dod"}'),
            ("dod-graph.microsoft.us", 443, 4, 25, 10_000, 300),
        ),
        (account("gmail", transport="gmail", per_day=7), ("gmail.googleapis.com", 443, 4, 50, 7, 100)),
        # What the account says of its submission server is for the day on which it goes back there.
        (
            account("m365", transport="graph", host="mail.example", port=2587, tls="none", trust="name:x.example"),
            ("graph.microsoft.com", 443, 4, 25, 10_000, 300),
        ),
    ],
)
def test_an_api_is_where_its_cloud_is(given, expected):
    upstream = fill(given, CAMPUS)
    limits = (upstream.max_connections, upstream.per_minute, upstream.per_day, upstream.recipients_per_transaction)
    assert (upstream.host, upstream.port, *limits) == expected
    assert (upstream.tls, upstream.trust, upstream.transport) == ("implicit", None, given.transport)


def test_a_place_in_the_settings_comes_before_the_clouds():
    places = ApiPlaces("https://graph.example:8443", "https://gmail.example")
    graph = fill(account("m365", transport="graph"), OFFICE, places)
    gmail = fill(account("gmail", transport="gmail"), OFFICE, places)
    assert (graph.host, graph.port, gmail.host, gmail.port) == ("graph.example", 8443, "gmail.example", 443)
    assert fill(account("m365"), OFFICE, places).host == "smtp.office365.com"


@pytest.mark.parametrize(
    ("given", "defaults", "tells", "may"),
    [
        (account("custom", host="mail.example", tls="none"), OFFICE, True, False),
        (account("custom", host="mail.example"), OFFICE, False, True),
        (account("custom", host="127.0.0.1", tls="none"), OFFICE, False, True),
        (account("custom", host="[::1]", tls="none"), OFFICE, False, True),
        (account("custom", host="localhost", tls="none"), OFFICE, False, True),
        (account(), SITE, True, True),
        (account("custom", host="other.example", tls="none"), SITE, True, False),
        (account("m365", tls="none"), SITE, True, False),
        (replace(account("custom", host="mail.example", tls="none"), auth="none"), OFFICE, False, True),
    ],
)
def test_a_login_goes_in_clear_only_where_the_settings_opt_out_for_that_host(given, defaults, tells, may):
    upstream = fill(given, defaults)
    assert (tells_in_clear(upstream), may_log_in(upstream)) == (tells, may)
