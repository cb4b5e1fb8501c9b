"""Client entries in a real store: what is taken, what is refused and why, and what a change leaves alone."""

import codecs
import json
from dataclasses import replace
from ipaddress import ip_network

import pytest
from sqlalchemy import create_engine, insert, select

from relay.accounts import client_settings, store
from relay.accounts.errors import BadSetting, ClientExists, ClientNotFound, LoginTaken, NetworkTaken
from relay.accounts.model import Client
from relay.accounts.passwords import DUMMY_HASH
from relay.database.schema import clients, metadata
from relay.mail.tolerance import SWITCHES, tolerance

NOW = 1_790_000_000_000
HASH = DUMMY_HASH
EVERYTHING = {
    "networks": ["192.0.2.0/24", ip_network("2001:db8::1"), "192.0.2.0/24"],
    "senders": ["ERP@Example.com", "<>"],
    "answer": "direct",
    "tolerate": ["no-brackets", "no-bare-lf", "raw-8bit", "bare-recipients", "raw-8bit"],
    "auth": "login",
    "login": "Erp User",
    "password_hash": HASH,
    "identity": "map",
    "sender_map": [
        ("Root@LOCALHOST", "App@Bücher.example"),
        ("@Old.example", "app@example.com"),
        ("<>", "b@e.example"),
    ],
    "messages_per_minute": 60,
    "recipients_per_minute": 1_000_000_000,
    "bytes_per_day": 50_000_000_000,
    "recipients": ["Ann@Example.ORG", "@Example.net", "@*.Example.net"],
    "denied": ["@*.evil.example"],
    "capture": "Tests@EXAMPLE.com",
    "default_domain": "@Example.COM",
    "charset": "Latin1",
}


@pytest.fixture
def connection():
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


def add(connection, name="erp", **settings):
    return store.add_client(connection, name, now_ms=NOW, **{"networks": ["192.0.2.0/24"], **settings})


def test_a_client_reads_back_as_it_was_added_in_normal_form(connection):
    client = add(connection, **EVERYTHING)
    assert client == Client(
        name="erp",
        networks=(ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128")),
        senders=("erp@example.com", "<>"),
        answer="direct",
        tolerate=("no-brackets", "no-bare-lf", "raw-8bit", "bare-recipients"),
        created_at=NOW,
        auth="login",
        login="Erp User",
        password_hash=HASH,
        identity="map",
        sender_map=(
            ("root@localhost", "App@xn--bcher-kva.example"),
            ("@old.example", "app@example.com"),
            ("<>", "b@e.example"),
        ),
        messages_per_minute=60,
        recipients_per_minute=1_000_000_000,
        bytes_per_day=50_000_000_000,
        recipients=("ann@example.org", "@example.net", "@*.example.net"),
        denied=("@*.evil.example",),
        capture="Tests@example.com",
        default_domain="example.com",
        charset="iso-8859-1",
    )
    assert store.load(connection).clients == (client,)
    assert json.loads(connection.scalar(select(clients.c.networks))) == ["192.0.2.0/24", "2001:db8::1/128"]
    store.remove_client(connection, "erp")
    with pytest.raises(ClientNotFound):
        store.remove_client(connection, "erp")


def test_a_client_needs_no_more_than_a_network(connection):
    assert add(connection) == Client("erp", (ip_network("192.0.2.0/24"),), created_at=NOW)
    row = connection.execute(select(clients)).one()
    assert (row.options, row.login, row.password_hash) == ("{}", None, None)
    assert store.load(connection).clients == (Client("erp", (ip_network("192.0.2.0/24"),), created_at=NOW),)


def test_a_client_that_logs_in_needs_no_network(connection):
    client = add(connection, networks=[], login="erp", password_hash=HASH)
    assert (client.auth, client.networks) == ("login", ())


def test_a_map_alone_says_how_the_sender_is_found(connection):
    assert add(connection, sender_map=[("*", "app@example.com")]).identity == "map"
    by_header = add(connection, "web", networks=["10.0.0.1"], sender_map=[("*", "app@example.com")], identity="header")
    assert by_header.identity == "header"


def test_the_hash_is_not_shown_with_the_entry(connection):
    assert HASH not in repr(add(connection, **EVERYTHING))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"name": "erp"}, ClientExists, "erp"),
        ({"networks": ["192.0.2.0/24"]}, NetworkTaken, "192.0.2.0/24"),
        ({"login": "erp", "password_hash": HASH}, LoginTaken, "belongs to client erp"),
        ({"name": ""}, BadSetting, "letters"),
        ({"name": "a b"}, BadSetting, "letters"),
        ({"name": "a\nb"}, BadSetting, "letters"),
        ({"name": "x" * 65}, BadSetting, "at most 64"),
        ({"networks": []}, BadSetting, "--network"),
        ({"networks": [], "auth": "accept-any"}, BadSetting, "--network"),
        ({"networks": ["192.0.2.1/24"]}, BadSetting, "write 192.0.2.0/24"),
        ({"networks": ["host.example"]}, BadSetting, "CIDR"),
        ({"senders": ["example.com"]}, BadSetting, "@example.com"),
        ({"answer": "later"}, BadSetting, "one of queued, direct"),
        ({"tolerate": ["Bare LF"]}, BadSetting, "did you mean bare-lf"),
        ({"tolerate": ["no_brackets"]}, BadSetting, "did you mean no-brackets"),
        ({"tolerate": ["zzz"]}, BadSetting, "known are bare-lf"),
        ({"tolerate": [""]}, BadSetting, "known are bare-lf"),
        ({"tolerate": ["no-bare-lf", "bare-lf"]}, BadSetting, "one of the two"),
        ({"tolerate": ["bare-recipients"]}, BadSetting, "--default-domain"),
        ({"auth": "kerberos"}, BadSetting, "none, login, accept-any"),
        ({"auth": "login"}, BadSetting, "--login"),
        ({"auth": "login", "login": "u"}, BadSetting, "--password-file"),
        ({"auth": "none", "login": "u"}, BadSetting, "--auth login"),
        ({"auth": "accept-any", "login": "u", "password_hash": HASH}, BadSetting, "--auth login"),
        ({"password_hash": HASH}, BadSetting, "--auth login"),
        ({"auth": "login", "login": "u", "password_hash": "a plain password"}, BadSetting, "hash_password"),
        ({"login": "a\x00"}, BadSetting, "control"),
        ({"login": "a" * 321}, BadSetting, "320"),
        ({"identity": "body"}, BadSetting, "envelope, header, map"),
        ({"identity": "map"}, BadSetting, "--map FROM=TO"),
        ({"sender_map": [("root", "a@example.com")]}, BadSetting, "@root"),
        ({"sender_map": [("*", "@example.com")]}, BadSetting, "name@example.com"),
        ({"sender_map": [("*", "é@example.com")]}, BadSetting, "SMTPUTF8"),
        ({"sender_map": [("A@b.example", "a@example.com"), ("a@B.example", "b@example.com")]}, BadSetting, "already"),
        ({"messages_per_minute": -1}, BadSetting, "0 means no limit"),
        ({"recipients_per_minute": 1_000_000_001}, BadSetting, "up to 1000000000"),
        ({"bytes_per_day": True}, BadSetting, "whole number"),
        ({"recipients": ["*"]}, BadSetting, "@*.example.com"),
        ({"recipients": ["example.com"]}, BadSetting, "@example.com"),
        ({"denied": ["@*"]}, BadSetting, "domain"),
        ({"denied": ["@*.*.example"]}, BadSetting, "domain"),
        ({"capture": "me"}, BadSetting, "name@example.com"),
        ({"capture": "a%b@example.com"}, BadSetting, "another destination"),
        ({"capture": "a@[127.0.0.1]"}, BadSetting, "domain name"),
        ({"default_domain": "a b"}, BadSetting, "domain name"),
        ({"default_domain": "ex_ample.com"}, BadSetting, "domain name"),
        ({"charset": "iso-8859-15"}, BadSetting, "--tolerate raw-8bit"),
        *[
            ({"tolerate": ["raw-8bit"], "charset": charset}, BadSetting, "windows-1252")
            for charset in ("nonsense", "utf-16", "utf-7", "base64", "cp037", "us-ascii", "../x", "x" * 99, "é")
        ],
    ],
)
def test_a_client_that_cannot_be_is_refused_with_the_remedy(connection, settings, error, words):
    add(connection, login="erp", password_hash=HASH)
    new = {"name": "new", "networks": ["198.51.100.0/24"], **settings}
    with pytest.raises(error) as caught:
        add(connection, **new)
    assert words in str(caught.value)
    assert HASH not in str(caught.value)
    assert len(store.load(connection).clients) == 1


def test_every_switch_may_be_said_and_taken_back(connection):
    switches = tuple(SWITCHES)
    assert add(connection, tolerate=switches, default_domain="example.com").tolerate == switches
    without = tuple(f"no-{name}" for name in SWITCHES)
    assert store.change_client(connection, "erp", tolerate=without).tolerate == without


@pytest.mark.parametrize("charset", sorted(client_settings._CHARSETS.values()))
def test_a_charset_that_is_taken_reads_ascii_as_ascii_under_its_mime_name(charset):
    assert client_settings.checked_charset(charset.upper()) == charset
    ascii_text = bytes(range(128))
    assert codecs.decode(ascii_text, charset) == ascii_text.decode()


def test_a_change_leaves_alone_what_is_not_given(connection):
    before = add(connection, **EVERYTHING)
    after = store.change_client(connection, "erp", messages_per_minute=5, denied=["x@example.com"])
    assert after == replace(before, messages_per_minute=5, denied=("x@example.com",))
    assert store.load(connection).clients == (after,)
    assert store.change_client(connection, "erp") == after


def test_an_empty_value_takes_the_default_again(connection):
    add(connection, **EVERYTHING)
    cleared = {
        "senders": [],
        "answer": "",
        "tolerate": [],
        "auth": "",
        "identity": "",
        "sender_map": [],
        "messages_per_minute": 0,
        "recipients_per_minute": 0,
        "bytes_per_day": 0,
        "recipients": [],
        "denied": [],
        "capture": "",
        "default_domain": "",
        "charset": "",
    }
    networks = (ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128"))
    assert store.change_client(connection, "erp", **cleared) == Client("erp", networks, created_at=NOW)
    assert connection.scalar(select(clients.c.options)) == "{}"


def test_who_need_not_log_in_any_more_has_no_password_left(connection):
    add(connection, login="erp", password_hash=HASH)
    client = store.change_client(connection, "erp", auth="accept-any")
    assert (client.login, client.password_hash) == ("", "")
    assert connection.scalar(select(clients.c.password_hash)) is None


def test_a_login_may_change_and_keeps_its_password(connection):
    add(connection, login="erp", password_hash=HASH)
    client = store.change_client(connection, "erp", login="erp2")
    assert (client.auth, client.login, client.password_hash) == ("login", "erp2", HASH)


def test_a_change_that_cannot_be_changes_nothing(connection):
    before = add(connection, **EVERYTHING)
    other = add(connection, "web", networks=["198.51.100.0/24"])
    for settings, error in (
        ({"networks": ["198.51.100.0/24"]}, NetworkTaken),
        ({"login": ""}, BadSetting),
        ({"sender_map": []}, BadSetting),
        ({"default_domain": ""}, BadSetting),
        ({"tolerate": ["bare-recipients"]}, BadSetting),
        ({"messages_per_minute": 1, "capture": "x"}, BadSetting),
    ):
        with pytest.raises(error):
            store.change_client(connection, "erp", **settings)
    with pytest.raises(LoginTaken):
        store.change_client(connection, "web", login="Erp User", password_hash=HASH)
    with pytest.raises(ClientNotFound):
        store.change_client(connection, "nobody", answer="direct")
    assert store.load(connection).clients == (before, other)


@pytest.mark.parametrize(
    ("given", "after"),
    [
        (["+no-brackets"], ("raw-8bit", "no-bare-cr", "no-brackets")),
        (["-raw-8bit"], ("no-bare-cr",)),
        (["+bare-cr"], ("raw-8bit",)),
        (["-bare-cr"], ("raw-8bit", "no-bare-cr")),
        (["-bare-lf", "+raw-8bit"], ("no-bare-cr", "no-bare-lf", "raw-8bit")),
        (["+bare-lf", "-odd-dots"], ("raw-8bit", "no-bare-cr")),
        (["odd-dots"], ("odd-dots",)),
        ([], ()),
    ],
)
def test_switches_with_a_sign_leave_the_others_alone(connection, given, after):
    add(connection, tolerate=["raw-8bit", "no-bare-cr"])
    changed = store.change_client(connection, "erp", tolerate=given)
    assert changed.tolerate == after
    assert set(tolerance(changed.tolerate)) >= {one[1:] for one in given if one[0] == "+"}
    assert not set(tolerance(changed.tolerate)) & {one[1:] for one in given if one[0] == "-"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["+raw-8bit", "odd-dots"], "give each with + or -"),
        (["+raw-8bit", "-raw-8bit"], "both +raw-8bit and -raw-8bit"),
        (["+no-bare-lf"], "write -bare-lf"),
        (["-no-bare-lf"], "write +bare-lf"),
        (["+bare_lf"], "did you mean bare-lf?"),
        (["+"], "known are bare-lf"),
        (["-"], "known are bare-lf"),
        (["++bare-lf"], "did you mean bare-lf?"),
    ],
)
def test_signs_that_make_no_sense_change_nothing(connection, given, words):
    before = add(connection, tolerate=["raw-8bit"])
    with pytest.raises(BadSetting) as caught:
        store.change_client(connection, "erp", tolerate=given)
    assert words in str(caught.value)
    assert store.get_client(connection, "erp") == before


def test_a_new_client_may_be_given_signs(connection):
    assert add(connection, tolerate=["+raw-8bit", "-bare-lf"]).tolerate == ("raw-8bit", "no-bare-lf")


def test_an_entry_of_an_older_store_is_read(connection):
    row = {"name": "old", "networks": '["10.0.0.0/8"]', "senders": "[]", "tolerate": '["bare-lf", "of-another-time"]'}
    connection.execute(insert(clients).values(**row, created_at=NOW))
    assert store.load(connection).clients == (
        Client("old", (ip_network("10.0.0.0/8"),), tolerate=("bare-lf",), created_at=NOW),
    )
