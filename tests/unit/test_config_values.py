"""Values of settings: what is right, what is wrong and how that is said, doors and contradictions among them."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.config.doubts import warnings
from relay.config.wording import SettingsError
from tests.unit.test_config_load import Loader, problems
from tests.unit.test_config_load import settings as settings  # a fixture

PORT = "a port; give a number from 1 to 65535"


SIZE = "a size in bytes; give a whole number of bytes, 1024 or more, without a unit"


HOST = "a host; give a host name or an address, without port or scheme"


NETWORKS = "RELAY_LISTENER__ALLOWED_NETWORKS"


URL = "RELAY_DATABASE__URL"


GRAPH_URL = "RELAY_SUBMISSION__GRAPH_URL"
HTTPS = "give https://HOST or https://HOST:PORT, without a path"
BAD_PLACES = (
    ("http://graph.example", "not the address of an HTTPS service"),
    ("graph.example", "not the address of an HTTPS service"),
    ("https://", "not the address of an HTTPS service"),
    ("https://graph.example:99999", "not the address of an HTTPS service"),
    ("https://u:hunter2@graph.example", "more than the address of a service"),
    ("https://graph.example/v1.0", "more than the address of a service"),
    ("https://graph.example?x=1", "more than the address of a service"),
    ("https://graph.example#x", "more than the address of a service"),
    ("https://gra ph.example", "not a host name"),
)
STORE = "give postgresql://user@host/database, or sqlite:///<path>"
PASSWORD_GIVEN = "holds a password, which logs and process lists would show; put it into RELAY_DATABASE__PASSWORD_FILE"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("RELAY_LISTENER__PORT", "70000", f"70000 is not {PORT}"),
        ("RELAY_LISTENER__PORT", "smtp", f"smtp is not {PORT}"),
        ("SMTP_AUTH_PORT", "-1", f"-1 is not {PORT}"),
        (
            "RELAY_LISTENER__ALLOW_PUBLIC",
            "perhaps",
            "perhaps is not yes or no; give Y or N (yes, no, true, false, 1, 0)",
        ),
        ("SMTP_AUTH_TLS", "maybe", "maybe is not yes or no; give Y or N"),
        ("SMTP_AUTH_SSL", "ssl", "ssl is not yes or no; give Y or N"),
        ("IMAP_TLS", "x", "x is not yes or no; give Y or N"),
        ("RELAY_DISPATCH__FIRST_RETRY_S", "0", "0 is not a time in seconds; give a number above 0, in seconds"),
        ("RELAY_DISPATCH__LIFETIME_S", "nan", "nan is not a time in seconds; give a number above 0, in seconds"),
        ("RELAY_DISPATCH__PROBE_S", "-1", "-1 is not a time in seconds; give 0 or a number above, in seconds"),
        ("RELAY_LISTENER__MAX_RECIPIENTS", "0", "0 is not a count; give a whole number from 1 to 1000000"),
        ("RELAY_LISTENER__MAX_MESSAGE_BYTES", "50MB", f"50MB is not {SIZE}"),
        ("RELAY_LISTENER__MAX_MESSAGE_BYTES", "10", f"10 is not {SIZE}"),
        ("RELAY_LISTENER__HOST", "a b", f"a b is not {HOST}"),
        ("SMTP_AUTH_HOST", "smtp://x", f"smtp://x is not {HOST}"),
        ("RELAY_LISTENER__HOSTNAME", "x\r\n250 evil", rf"x\r\n250 evil is not {HOST}"),
        (NETWORKS, "10.0.0.0/8,lan", "lan is not a network; give addresses or CIDR blocks such as 10.0.0.0/8"),
        (NETWORKS, "10.1.2.3/8", "10.1.2.3/8 has host bits set; give 10.0.0.0/8"),
        (NETWORKS, "[1,", "[1, is not a list of networks; give CIDR blocks with commas between, or a JSON list"),
        ("RELAY_LOG__LEVEL", "loud", "loud is not a log level; give debug, info, warning or error"),
        ("RELAY_LOG__FORMAT", "xml", "xml is not a log format; give console or json"),
        ("RELAY_ACCOUNTS_FILE", "/no/a", "/no/a does not exist or is not a file; give the path of a readable file"),
        (
            "RELAY_NOTICES__ADMINISTRATOR",
            "it@example.com,it",
            "it is not a mail address; give one such as postmaster@example.com",
        ),
        ("RELAY_NOTICES__ACCOUNT", "it", "it is not a mail address; give one such as mailer@example.com"),
        (
            "RELAY_NOTICES__URLS",
            "hunter2,json://a/b",
            "URL number 1 is not of the form scheme://…; see the Apprise documentation",
        ),
        (URL, "postgresql://u:hunter2@h/db", PASSWORD_GIVEN),
        (URL, "postgresql://u@h/db?password=hunter2", PASSWORD_GIVEN),
        (URL, "postgresql:///db", f"names no host; {STORE}"),
        (URL, "postgresql://h", f"names no database; {STORE}"),
        (
            URL,
            "postgresql://h/db?options=-c",
            "parameter 'options' does not belong into the address of a store; leave it out",
        ),
        (URL, "mysql://u:hunter2@h/db", f"not the address of a store; {STORE}, or leave it out"),
        (URL, "sqlite://", f"not the address of a store; {STORE}, or leave it out"),
        *[(GRAPH_URL, value, f"{why}; {HTTPS}") for value, why in BAD_PLACES],
        (URL, "sqlite:///:memory:", f"not the address of a store; {STORE}, or leave it out"),
    ],
)
def test_a_bad_value_gets_one_line(settings: Loader, name: str, value: str, line: str) -> None:
    assert problems(settings, **{name: value}) == (f"{name}: {line}",)


def test_a_value_cannot_break_the_line_or_act_on_the_terminal(settings: Loader) -> None:
    (line,) = problems(settings, RELAY_LOG__LEVEL="\x1b[2J\n\u2028" + "x" * 500)
    assert line.isprintable()
    assert len(line) < 200


def test_the_traceback_of_a_bad_value_shows_no_value(settings: Loader) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(RELAY_DATABASE__URL="mysql://u:hunter2@h/db")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("word", ["Y", "y", "yes", "YES", "true", "True", "1"])
def test_ways_to_say_yes(settings: Loader, word: str) -> None:
    assert settings(RELAY_LISTENER__ALLOW_PUBLIC=word).listener.allow_public is True
    assert settings(SMTP_AUTH_SSL=word).upstream.tls == "implicit"


@pytest.mark.parametrize("word", ["N", "n", "no", "NO", "false", "False", "0"])
def test_ways_to_say_no(settings: Loader, word: str) -> None:
    assert settings(RELAY_CONSOLE__ENABLED=word).console.enabled is False
    assert settings(SMTP_AUTH_SSL=word).upstream.tls == "starttls"


@pytest.mark.parametrize("text", ["10.0.0.0/8,fd00::/8", " 10.0.0.0/8 , fd00::/8 ,", '["10.0.0.0/8", "fd00::/8"]'])
def test_lists_take_commas_or_json(settings: Loader, text: str) -> None:
    found = settings(RELAY_LISTENER__ALLOWED_NETWORKS=text).listener.allowed_networks
    assert found == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def test_several_doors(settings: Loader) -> None:
    second = '{"host": "10.1.2.3", "port": 25, "allowed_networks": ["10.0.0.0/8"], "allow_public": "N"}'
    found = settings(RELAY_LISTENERS=f'[{{"port": 2525}}, {second}]')
    assert [(door.host, door.port) for door in found.doors] == [("127.0.0.1", 2525), ("10.1.2.3", 25)]
    assert found.doors[1].allowed_networks == (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("2525", "RELAY_LISTENERS: not a JSON list of front doors"),
        ("[]", "RELAY_LISTENERS: not a JSON list of front doors"),
        ("[{", "RELAY_LISTENERS: not a JSON list of front doors"),
        ('[{"port": 70000}]', "RELAY_LISTENERS[0].port: 70000 is not a port; give a number from 1 to 65535"),
        ('[{"port": 1}, {"prt": 2}]', "RELAY_LISTENERS[1].prt: there is no such setting"),
        ('[{"port": 25}, {"port": 25}]', "RELAY_LISTENERS: 127.0.0.1 port 25 appears twice"),
    ],
)
def test_bad_doors(settings: Loader, text: str, line: str) -> None:
    (found,) = problems(settings, RELAY_LISTENERS=text)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("environ", "name", "part"),
    [
        ({"RELAY_LISTENER__TLS_CERT": "c.pem"}, "RELAY_LISTENER__TLS_KEY", "not set, but RELAY_LISTENER__TLS_CERT is"),
        ({"RELAY_LISTENER__TLS_KEY": "c.pem"}, "RELAY_LISTENER__TLS_CERT", "not set, but RELAY_LISTENER__TLS_KEY is"),
        (
            {"RELAY_LISTENER__ALLOWED_NETWORKS": "0.0.0.0/0"},
            "RELAY_LISTENER__ALLOWED_NETWORKS",
            "0.0.0.0/0 is public; give private networks only, or set RELAY_LISTENER__ALLOW_PUBLIC=yes",
        ),
        ({"RELAY_LISTENER__ALLOWED_NETWORKS": "10.0.0.0/7"}, "RELAY_LISTENER__ALLOWED_NETWORKS", "is public"),
        ({"RELAY_LISTENER__ALLOWED_NETWORKS": "::/0"}, "RELAY_LISTENER__ALLOWED_NETWORKS", "is public"),
        (
            {"RELAY_DISPATCH__FIRST_RETRY_S": "7200"},
            "RELAY_DISPATCH__MAX_RETRY_S",
            "3600 is below RELAY_DISPATCH__FIRST_RETRY_S",
        ),
        (
            {"RELAY_DISPATCH__LIFETIME_S": "60", "RELAY_DISPATCH__DELAY_NOTICE_S": "90"},
            "RELAY_DISPATCH__DELAY_NOTICE_S",
            "90 is not below RELAY_DISPATCH__LIFETIME_S, 60",
        ),
        ({"RELAY_LISTENERS": '[{"port": 25}]', "RELAY_LISTENER__PORT": "26"}, "RELAY_LISTENERS", "set together"),
        ({"RELAY_CONSOLE__PORT": "2525"}, "RELAY_CONSOLE__PORT", "2525 is the front door's as well"),
        ({"SMTP_AUTH_SSL": "Y", "SMTP_AUTH_PORT": "587"}, "SMTP_AUTH_SSL", "speaks STARTTLS"),
        ({"SMTP_AUTH_PORT": "465"}, "SMTP_AUTH_PORT", "give SMTP_AUTH_SSL=Y with it"),
        ({"SMTP_AUTH_TLS": "N"}, "SMTP_AUTH_TLS", "would send passwords in clear text"),
        (
            {"SMTP_AUTH_TLS": "N", "SMTP_AUTH_SSL": "N", "SMTP_AUTH_SSL_TRUST": "name:a.b"},
            "SMTP_AUTH_SSL_TRUST",
            "without TLS",
        ),
        ({"IMAP_TLS": "N", "IMAP_PORT": "993", "IMAP_HOST": "imap.campus.example"}, "IMAP_TLS", "993 speaks TLS"),
        ({"IMAP_TLS": "N"}, "IMAP_TLS", "give IMAP_HOST as well"),
    ],
)
def test_a_contradiction_names_the_variable(
    settings: Loader, tmp_path: Path, environ: dict[str, str], name: str, part: str
) -> None:
    (tmp_path / "c.pem").write_text("x")
    (line,) = problems(settings, **environ)
    assert line.startswith(f"{name}: ")
    assert part in line


def test_public_networks_with_consent(settings: Loader) -> None:
    found = settings(
        RELAY_LISTENER__HOST="0.0.0.0", RELAY_LISTENER__ALLOWED_NETWORKS="0.0.0.0/0", RELAY_LISTENER__ALLOW_PUBLIC="yes"
    )
    assert [line.partition(":")[0] for line in warnings(found)] == ["RELAY_LISTENER__ALLOW_PUBLIC"]


def test_a_door_to_the_network_that_lets_nobody_in_is_warned_about(settings: Loader) -> None:
    (line,) = warnings(settings(RELAY_LISTENER__HOST="0.0.0.0"))
    assert line.startswith("RELAY_LISTENER__ALLOWED_NETWORKS: only loopback may connect")


@pytest.mark.parametrize("lifetime", ["5", "60"])
def test_a_short_lifetime_alone_contradicts_no_default(settings: Loader, lifetime: str) -> None:
    assert settings(RELAY_DISPATCH__LIFETIME_S=lifetime).dispatch.lifetime_s == float(lifetime)


@pytest.mark.parametrize(
    ("environ", "port", "tls"),
    [
        ({"SMTP_AUTH_SSL": "Y"}, 465, "implicit"),
        ({"SMTP_AUTH_SSL": "Y", "SMTP_AUTH_TLS": "Y"}, 465, "implicit"),
        ({"SMTP_AUTH_SSL": "Y", "SMTP_AUTH_TLS": "N"}, 465, "implicit"),
        ({"SMTP_AUTH_SSL": "Y", "SMTP_AUTH_PORT": "4465"}, 4465, "implicit"),
        ({"SMTP_AUTH_TLS": "Y"}, 587, "starttls"),
        ({"SMTP_AUTH_TLS": "Y", "SMTP_AUTH_SSL": ""}, 587, "starttls"),
        ({"SMTP_AUTH_TLS": "Y", "SMTP_AUTH_SSL": "N", "SMTP_AUTH_PORT": "25"}, 25, "starttls"),
        ({"SMTP_AUTH_TLS": "N", "SMTP_AUTH_SSL": "N"}, 587, "none"),
        ({"SMTP_AUTH_HOST": "mail.example.edu"}, 587, "starttls"),
    ],
)
def test_the_campus_names(settings: Loader, environ: dict[str, str], port: int, tls: str) -> None:
    found = settings(**environ)
    assert (found.upstream.port, found.upstream.tls) == (port, tls)
    assert ("CLEAR TEXT" in " ".join(warnings(found))) is (tls == "none")


@pytest.mark.parametrize(
    ("environ", "port", "tls"),
    [
        ({"IMAP_PORT": "143"}, 143, "starttls"),
        ({"IMAP_TLS": "N", "IMAP_HOST": "imap.campus.example"}, 143, "none"),
        ({"IMAP_TLS": "Y", "IMAP_PORT": "10993"}, 10993, "implicit"),
    ],
)
def test_the_imap_names(settings: Loader, environ: dict[str, str], port: int, tls: str) -> None:
    found = settings(**environ)
    assert (found.imap.port, found.imap.tls) == (port, tls)
