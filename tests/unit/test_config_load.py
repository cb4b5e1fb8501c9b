"""Settings: what is read from where, and the one line that each mistake gets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.config.check import SettingsError, load, warnings
from relay.config.described import describe
from relay.config.example import example
from relay.config.settings import ListenerSettings, RelaySettings
from relay.config.variables import variables

Loader = Callable[..., RelaySettings]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Loads from exactly the variables given, in an empty working directory, with an empty secrets folder."""
    monkeypatch.chdir(tmp_path)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    return lambda **environ: load(environ, secrets_dir=secrets)


def problems(settings: Loader, **environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        settings(**environ)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return caught.value.problems


def test_defaults_are_those_of_the_documentation(settings: Loader) -> None:
    found = settings()
    assert found.data_dir == ROOT / "var"
    assert found.keys_dir == ROOT / "var/keys"
    assert found.database.url == f"sqlite:///{ROOT}/var/relay.db"
    assert found.database.path(found.data_dir) == ROOT / "var/relay.db"
    assert (found.listener.host, found.listener.port) == ("127.0.0.1", 2525)
    assert found.listener.allowed_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert found.doors == (found.listener,)
    assert (found.upstream.host, found.upstream.port, found.upstream.tls) == ("smtp.office365.com", 587, "starttls")
    assert (found.imap.host, found.imap.port, found.imap.tls) == ("outlook.office365.com", 993, "implicit")
    assert (found.log.format, found.log.level) == (None, "info")
    assert warnings(found) == []


def test_without_a_checkout_the_data_dir_is_the_systems(tmp_path: Path) -> None:
    for folder in ("", "config", "mail"):
        copy = tmp_path / "relay" / folder
        copy.mkdir()
        for source in (ROOT / "relay" / folder).glob("*.py"):
            shutil.copy(source, copy)
    program = "from relay.config.check import load; print(load({}).data_dir)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "/var/lib/relay"


def test_paths_follow_the_data_dir_and_are_absolute(settings: Loader, tmp_path: Path) -> None:
    found = settings(RELAY_DATA_DIR="store")
    assert found.data_dir == tmp_path / "store"
    assert found.keys_dir == tmp_path / "store/keys"
    assert found.database.url == f"sqlite:///{tmp_path}/store/relay.db"


def test_everything_is_frozen(settings: Loader) -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().listener.port = 25  # type: ignore[misc]


def test_constructing_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_LISTENER__PORT", "2600")
    assert RelaySettings().listener.port == 2525
    assert load({}).listener.port == 2525
    assert load().listener.port == 2600


# -- order of the sources


def test_environment_wins_over_file_over_secrets(settings: Loader, tmp_path: Path) -> None:
    (tmp_path / "relay.env").write_text("RELAY_LISTENER__PORT=2601\nRELAY_CONSOLE__PORT=8601\n")
    for name, value in (("RELAY_LISTENER__PORT", 2602), ("RELAY_CONSOLE__PORT", 8602), ("relay_log__level", "debug")):
        (tmp_path / "secrets" / name).write_text(f"{value}\n")
    (tmp_path / "secrets" / "another-programs-secret").write_text("x")
    (tmp_path / "secrets" / "relay-key-2024").write_text("a master key, read by the key ring")
    found = settings(RELAY_LISTENER__PORT="2600")
    assert (found.listener.port, found.console.port, found.log.level) == (2600, 8601, "debug")


def test_sections_merge_across_sources(settings: Loader, tmp_path: Path) -> None:
    (tmp_path / "relay.env").write_text("RELAY_LISTENER__HOST=10.0.0.1\n")
    assert settings(RELAY_LISTENER__PORT="2600").listener == ListenerSettings(host="10.0.0.1", port=2600)


def test_blank_means_not_set(settings: Loader, tmp_path: Path) -> None:
    (tmp_path / "relay.env").write_text("RELAY_LISTENER__PORT=2601\n")
    assert settings(RELAY_LISTENER__PORT=" ", SMTP_AUTH_SSL="").listener.port == 2601


def test_relay_env_file_names_another_file(settings: Loader, tmp_path: Path) -> None:
    (tmp_path / "relay.env").write_text("RELAY_LISTENER__PORT=2601\n")
    (tmp_path / "other.env").write_text(
        "# comment\nexport RELAY_CONSOLE__PORT='8601'\n\nRELAY_LOG__LEVEL=debug # why\n"
    )
    found = settings(RELAY_ENV_FILE=str(tmp_path / "other.env"))
    assert (found.listener.port, found.console.port, found.log.level) == (2525, 8601, "debug")
    assert problems(settings, RELAY_ENV_FILE="gone.env") == (
        "RELAY_ENV_FILE: gone.env does not exist or is not a file; give the path of a readable file",
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "RELAY_LISTENER__PORT=1\nRELAY_LISTENER__PORT=2\n",
            "RELAY_LISTENER__PORT: set twice; give one value (relay.env, line 2)",
        ),
        ("RELAY_LISTENR__PORT=1\n", "did you mean RELAY_LISTENER__PORT? (relay.env, line 1)"),
        ("MAIL=1\n", "MAIL: there is no such setting"),
        ("hello\n", "relay.env: line 1 is not understood; give NAME=value"),
        ("RELAY_MASTER_KEY=abc\n", "RELAY_MASTER_KEY: a key does not belong in this file"),
        (
            "RELAY_LISTENER__PORT=x\n",
            "RELAY_LISTENER__PORT: x is not a port; give a number from 1 to 65535 (relay.env)",
        ),
    ],
)
def test_mistakes_in_the_file_name_their_place(settings: Loader, tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "relay.env").write_text(content)
    (found,) = problems(settings)
    assert line in found


def test_a_file_that_is_no_text_is_named(settings: Loader, tmp_path: Path) -> None:
    (tmp_path / "relay.env").write_bytes(b"RELAY_LOG__LEVEL=\xff\n")
    assert problems(settings) == ("relay.env: not UTF-8 text; save it as UTF-8",)


# -- names


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("RELAY_LISTENER__PRT", "RELAY_LISTENER__PORT"),
        ("RELAY_LISTENR__PORT", "RELAY_LISTENER__PORT"),
        ("RELAY_LISTENER_PORT", "RELAY_LISTENER__PORT"),
        ("relay_listener__port", "RELAY_LISTENER__PORT"),
        ("RELAY_DATADIR", "RELAY_DATA_DIR"),
        ("RELAY_UPSTREAM__HOST", "SMTP_AUTH_HOST"),
        ("RELAY_IMAP__PORT", "IMAP_PORT"),
        ("SMTP_AUTH_PROT", "SMTP_AUTH_PORT"),
        ("smtp_auth_host", "SMTP_AUTH_HOST"),
        ("SMTP_AUTH_SSL_TURST", "SMTP_AUTH_SSL_TRUST"),
        ("IMAP_HOSTS", "IMAP_HOST"),
    ],
)
def test_a_misspelt_name_stops_the_start_with_the_nearest_right_one(settings: Loader, wrong: str, right: str) -> None:
    assert problems(settings, **{wrong: "value-not-shown"}) == (
        f"{wrong}: there is no such setting; did you mean {right}?",
    )


def test_a_name_like_none_points_to_the_list(settings: Loader) -> None:
    (line,) = problems(settings, RELAY_QQQQQQQQQQQQ="1")
    assert line == "RELAY_QQQQQQQQQQQQ: there is no such setting; relay.env.example lists all there are"


def test_names_of_others_are_left_alone(settings: Loader) -> None:
    settings(
        PATH="/bin",
        RELAYHOST="x",
        SMTP_AUTH_USER="another program's",
        SMTP_AUTH_PASSWORD="another program's",
        RELAY_MASTER_KEY="read by the key ring",
        # put there by Kubernetes for a service named "relay"
        RELAY_SERVICE_HOST="10.0.0.1",
        RELAY_SERVICE_PORT="2525",
        RELAY_SERVICE_PORT_SMTP="2525",
        RELAY_PORT="tcp://10.0.0.1:2525",
        RELAY_PORT_2525_TCP="tcp://10.0.0.1:2525",
        RELAY_PORT_2525_TCP_ADDR="10.0.0.1",
    )


def test_a_port_that_is_not_kubernetes_is_a_mistake(settings: Loader) -> None:
    assert "there is no such setting" in problems(settings, RELAY_PORT="2525")[0]


def test_every_problem_is_told_at_once(settings: Loader) -> None:
    found = problems(
        settings, RELAY_LISTENER__PORT="x", RELAY_LOG__LEVEL="loud", RELAY_NOPE__X="1", SMTP_AUTH_PORT="0x"
    )
    assert sorted(line.partition(":")[0] for line in found) == [
        "RELAY_LISTENER__PORT",
        "RELAY_LOG__LEVEL",
        "RELAY_NOPE__X",
        "SMTP_AUTH_PORT",
    ]


# -- values

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
SQLITE = "give sqlite:///<path>, or leave it out"


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
        (URL, "postgresql://u:hunter2@h/db", f"PostgreSQL is not in this release; {SQLITE}"),
        (URL, "mysql://u:hunter2@h/db", f"not the address of a database file; {SQLITE}"),
        (URL, "sqlite://", f"not the address of a database file; {SQLITE}"),
        *[(GRAPH_URL, value, f"{why}; {HTTPS}") for value, why in BAD_PLACES],
        (URL, "sqlite:///:memory:", f"not the address of a database file; {SQLITE}"),
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


# -- several doors


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


# -- contradictions


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
        ({"IMAP_TLS": "N", "IMAP_PORT": "993"}, "IMAP_TLS", "993 speaks TLS"),
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
        ({"IMAP_TLS": "N"}, 143, "none"),
        ({"IMAP_TLS": "Y", "IMAP_PORT": "10993"}, 10993, "implicit"),
    ],
)
def test_the_imap_names(settings: Loader, environ: dict[str, str], port: int, tls: str) -> None:
    found = settings(**environ)
    assert (found.imap.port, found.imap.tls) == (port, tls)


# -- what is derived from the models


def test_the_example_file_is_up_to_date() -> None:
    assert (ROOT / "relay.env.example").read_text() == example(), "run `make example`"


def test_the_example_uncommented_gives_the_defaults(settings: Loader, tmp_path: Path) -> None:
    lines = [line[1:] if line.startswith(("#RELAY", "#SMTP", "#IMAP")) else line for line in example().splitlines()]
    (tmp_path / "relay.env").write_text("\n".join(lines))
    assert settings() == RelaySettings()


def test_every_setting_is_told_about() -> None:
    with_words_of_their_own = ("SMTP_AUTH_SSL_TRUST", "RELAY_LISTENERS", "RELAY_DATABASE__URL")
    for variable in variables().values():
        assert variable.meaning, variable.name
        assert variable.form.noun != "of the right form" or variable.name in with_words_of_their_own, variable


def test_described_settings_say_where_they_came_from(settings: Loader, tmp_path: Path) -> None:
    (tmp_path / "relay.env").write_text("RELAY_CONSOLE__PORT=8601\n")
    environ = {"RELAY_LISTENER__PORT": "2600", "SMTP_AUTH_SSL": "Y"}
    empty = tmp_path / "secrets"
    rows = {row.name: row for row in describe(settings(**environ), environ, secrets_dir=empty)}
    assert (rows["RELAY_LISTENER__PORT"].value, rows["RELAY_LISTENER__PORT"].origin) == ("2600", "environment")
    assert (rows["RELAY_CONSOLE__PORT"].value, rows["RELAY_CONSOLE__PORT"].origin) == ("8601", "relay.env")
    assert (rows["RELAY_LISTENER__MAX_RECIPIENTS"].value, rows["RELAY_LISTENER__MAX_RECIPIENTS"].origin) == (
        "1000",
        "default",
    )
    assert (rows["SMTP_AUTH_SSL"].value, rows["SMTP_AUTH_PORT"].value) == ("Y", "465")
    assert list(rows) == list(variables())
