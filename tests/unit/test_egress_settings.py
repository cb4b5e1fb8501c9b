"""Proxies and ways out as they are written: read, refused, and never shown with a password."""

from __future__ import annotations

import pytest

from relay.accounts.egress import own_login, way_of, way_of_all
from relay.accounts.model import Account
from relay.accounts.upstream import fill, imap_of, may_log_in
from relay.config.check import load
from relay.config.egress import EgressSettings
from relay.config.proxy import Proxy, exception_of, is_exception, parse_proxy
from relay.config.settings import ImapDefaults, UpstreamDefaults
from relay.config.wording import SettingsError
from relay.diagnosis import diagnose
from relay.diagnosis.egress_conditions import EGRESS_CONDITIONS
from relay.mail.outcome import Stage, Unreachable
from relay.net.way import Way

PASSWORD = "hush-hush"


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy.example:8080", Proxy("http", "proxy.example", 8080)),
        ("http://proxy.example", Proxy("http", "proxy.example", 3128)),
        ("socks5://10.0.0.1", Proxy("socks5", "10.0.0.1", 1080)),
        ("SOCKS5H://Proxy.Example:9/", Proxy("socks5", "proxy.example", 9)),
        ("http://[2001:db8::1]:3128", Proxy("http", "2001:db8::1", 3128)),
        ("http://DOM%5Cann:p%40ss%2F@proxy:1", Proxy("http", "proxy", 1, "DOM\\ann", "p@ss/")),
    ],
)
def test_a_proxy_as_people_write_it(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text) == proxy
    shown = str(proxy)
    assert parse_proxy(shown) == Proxy(proxy.scheme, proxy.host, proxy.port, proxy.login)
    assert proxy.password == "" or (proxy.password not in shown and proxy.password not in repr(proxy))


@pytest.mark.parametrize(
    "text",
    [
        "https://proxy.example:443",
        "socks4://proxy.example",
        "ftp://proxy.example",
        "http://",
        "http://proxy:0",
        "http://proxy:99999",
        "http://proxy:x",
        "http://two words:1",
        f"http://ann:{PASSWORD}/x@proxy:1",
        f"http://ann:{PASSWORD}@proxy/path",
        f"http://:{PASSWORD}@proxy:1",
        f"http://a%3Ab:{PASSWORD}@proxy:1",
        f"http://ann:{PASSWORD}%0d%0aX@proxy:1",
        "http://ann:" + PASSWORD * 40 + "@proxy:1",
        "http://[::1",
        "proxy.example",
        "proxy.example:3128",
        "foo",
        "",
    ],
)
def test_what_is_no_proxy_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_proxy(text)
    assert PASSWORD not in str(refused.value)
    if text:
        with pytest.raises(SettingsError) as stopped:
            load({"RELAY_EGRESS__PROXY": text})
        assert str(stopped.value).startswith("RELAY_EGRESS__PROXY: ")
        assert PASSWORD not in str(stopped.value)


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("mail.corp.example", True),
        ("corp.example", True),
        ("CORP.example.", True),
        ("evilcorp.example", False),
        ("10.1.2.3", True),
        ("[fd00::1]", True),
        ("11.1.2.3", False),
        ("exact", True),
        ("smtp.office365.com", False),
    ],
)
def test_internal_hosts(host: str, direct: bool) -> None:
    entries = tuple(map(exception_of, (".corp.example", "10.0.0.0/8", "fd00::/8", "Exact")))
    assert is_exception(host, entries) is direct
    assert is_exception(host, ("*",))


def test_the_settings_of_all() -> None:
    settings = load(
        {
            "RELAY_EGRESS__PROXY": "http://relay@proxy:3128",
            "RELAY_EGRESS__PROXY_PASSWORD": PASSWORD,
            "RELAY_EGRESS__NO_PROXY": "*.corp.example, 10.1.2.3/8",
            "RELAY_EGRESS__SOURCE_ADDRESS": "10.0.0.5,fd00::5",
            "RELAY_EGRESS__IP": "4",
        }
    ).egress
    way = way_of_all(settings)
    assert way == Way(
        Proxy("http", "proxy", 3128, "relay", PASSWORD), ("10.0.0.5", "fd00::5"), "4", ("corp.example", "10.0.0.0/8")
    )
    assert PASSWORD not in f"{settings!r} {way!r} {way.described('x')}"
    assert way.described("x") == "through proxy http://relay@proxy:3128 from 10.0.0.5 or fd00::5 by IPv4"
    assert way.described("mail.corp.example") == "from 10.0.0.5 or fd00::5 by IPv4"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"RELAY_EGRESS__PROXY_PASSWORD": PASSWORD}, "no login"),
        ({"RELAY_EGRESS__PROXY": "http://proxy", "RELAY_EGRESS__PROXY_PASSWORD": PASSWORD}, "no login"),
        ({"RELAY_EGRESS__PROXY": "http://a:b@proxy", "RELAY_EGRESS__PROXY_PASSWORD": PASSWORD}, "one of the two"),
        ({"RELAY_EGRESS__PROXY": "http://a@proxy", "RELAY_EGRESS__PROXY_PASSWORD": PASSWORD * 40}, "longer than"),
        ({"RELAY_EGRESS__SOURCE_ADDRESS": "10.0.0.5,10.0.0.6"}, "two addresses"),
        ({"RELAY_EGRESS__SOURCE_ADDRESS": "eth0"}, "not an address of this machine"),
        ({"RELAY_EGRESS__IP": "5"}, "auto, 4 or 6"),
        ({"RELAY_EGRESS__NO_PROXY": "a b"}, "neither a host name"),
        ({"RELAY_EGRESS__CA_FILE": "/nowhere.pem"}, "does not exist"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as stopped:
        load(given)
    assert words in str(stopped.value)
    assert PASSWORD not in str(stopped.value)


def account(**settings: object) -> Account:
    return Account(id=1, address="ann@example.com", **{"provider": "custom", "auth": "password", **settings})  # type: ignore[arg-type]


def test_an_account_has_its_own_way_or_that_of_all() -> None:
    of_all = way_of_all(EgressSettings(proxy="http://ann:secret@proxy", ip="4"))  # type: ignore[arg-type]
    assert way_of(account(), of_all) is not None
    assert way_of(account(), of_all) == of_all
    assert own_login(account()) is None
    direct = way_of(account(proxy="direct", ip="6", source_address="::1"), of_all)
    assert (direct.proxy, direct.ip, direct.source) == (None, "6", ("::1",))
    own = way_of(account(proxy="socks5://bob@other:1"), of_all)
    assert own.proxy == Proxy("socks5", "other", 1, "bob")  # the password of all never goes to another proxy
    assert own_login(account(proxy="socks5://bob@other:1")) == own.proxy


@pytest.mark.parametrize("entry", EGRESS_CONDITIONS, ids=lambda entry: entry.id)
def test_what_goes_wrong_at_a_proxy_never_returns_mail(entry) -> None:  # type: ignore[no-untyped-def]
    diagnosis = diagnose(Unreachable(Stage.CONNECT, entry.id, "x"))
    assert (diagnosis.id, diagnosis.retry, diagnosis.scope) == (entry.id, True, "upstream")
    assert len(diagnosis.remedy) >= 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"provider": "default"}, ("outlook.office365.com", 993, "implicit")),
        ({"provider": "outlook-com"}, ("outlook.office365.com", 993, "implicit")),
        ({"provider": "gmail"}, ("imap.gmail.com", 993, "implicit")),
        ({"provider": "gmail", "imap_tls": "starttls"}, ("imap.gmail.com", 143, "starttls")),
        ({"imap_host": "mail.example", "imap_port": 143}, ("mail.example", 143, "starttls")),
        ({"imap_host": "mail.example", "imap_port": 1143}, ("mail.example", 1143, "implicit")),
        ({"imap_host": "mail.example", "imap_port": 1143, "imap_tls": "starttls"}, ("mail.example", 1143, "starttls")),
    ],
)
def test_where_a_mailbox_is_read(given: dict[str, object], expected: tuple[object, ...]) -> None:
    mine = account(**given)
    server = imap_of(mine, fill(mine, UpstreamDefaults()), ImapDefaults())
    assert server is not None
    assert (server.host, server.port, server.tls) == expected


def test_no_mailbox_is_sought_where_nobody_said() -> None:
    mine = account(host="mail.example")
    assert imap_of(mine, fill(mine, UpstreamDefaults()), ImapDefaults()) is None
    named = imap_of(mine, fill(mine, UpstreamDefaults()), ImapDefaults(host="imap.campus.example", port=143))
    assert named is not None
    assert (named.host, named.port) == ("imap.campus.example", 143)
    gmail = account(provider="gmail")
    theirs = imap_of(gmail, fill(gmail, UpstreamDefaults()), ImapDefaults(host="imap.campus.example"))
    assert theirs is not None
    assert theirs.host == "imap.gmail.com"


@pytest.mark.parametrize(
    ("given", "may"),
    [
        ({"imap_host": "imap.campus.example"}, True),  # what the settings name
        ({"provider": "outlook-com"}, True),  # it has its own, with TLS
        ({"imap_host": "127.0.0.1", "imap_tls": "none"}, True),
        ({"imap_host": "imap.other.example", "imap_tls": "none"}, False),  # the store was written by hand
    ],
)
def test_imap_in_clear_is_for_the_one_host_that_the_settings_name(given: dict[str, object], may: bool) -> None:
    mine = account(**given)
    in_clear = ImapDefaults(host="imap.campus.example", port=143, tls="none")
    server = imap_of(mine, fill(mine, UpstreamDefaults()), in_clear)
    assert server is not None
    assert may_log_in(server) is may
    unnamed = imap_of(
        account(provider="outlook-com"), fill(mine, UpstreamDefaults()), ImapDefaults(port=143, tls="none")
    )
    assert unnamed is None or not may_log_in(unnamed) or unnamed.tls != "none"


def test_a_pin_is_of_one_host() -> None:
    mine = account(host="mail.example", trust="name:mail.example", imap_host="imap.example", imap_login="ann")
    server = imap_of(mine, fill(mine, UpstreamDefaults()), ImapDefaults())
    assert server is not None
    assert (server.trust, server.login) == (None, "ann")
    same = account(host="mail.example", trust="name:other.example", imap_host="mail.example")
    there = imap_of(same, fill(same, UpstreamDefaults()), ImapDefaults())
    assert there is not None
    assert there.trust == "name:other.example"
