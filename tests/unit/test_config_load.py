"""Settings: what is read from where, and the one line that each mistake gets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

import relay
from relay.config.check import load
from relay.config.described import describe
from relay.config.doubts import warnings
from relay.config.example import example
from relay.config.settings import ListenerSettings, RelaySettings
from relay.config.variables import variables
from relay.config.wording import SettingsError

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
    installed = Path(relay.__file__).resolve().parents[1] != ROOT  # these tests run in the image, too
    data_dir = Path("/var/lib/relay") if installed else ROOT / "var"
    assert found.data_dir == data_dir
    assert found.keys_dir == data_dir / "keys"
    assert found.database.url == f"sqlite:///{data_dir}/relay.db"
    assert found.database.file == data_dir / "relay.db"
    assert (found.listener.host, found.listener.port) == ("127.0.0.1", 2525)
    assert found.listener.allowed_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert found.doors == (found.listener,)
    assert (found.upstream.host, found.upstream.port, found.upstream.tls) == ("smtp.office365.com", 587, "starttls")
    assert (found.imap.host, found.imap.port, found.imap.tls) == ("outlook.office365.com", 993, "implicit")
    assert (found.log.format, found.log.level) == (None, "info")
    assert warnings(found) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_in_a_folder_of_somebody_else_there_is_no_settings_file(tmp_path: Path, settings: Loader) -> None:
    """As after `sudo -u relay` in the home of root, or in a container whose volume is another user's."""
    settings()
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        assert settings().listener.port == 2525
    finally:
        os.seteuid(0)
    (named,) = problems(settings, RELAY_ENV_FILE="x" * 300)
    assert named.endswith("does not exist or is not a file; give the path of a readable file")


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


def test_the_urls_of_notices_are_shown_to_nobody(settings: Loader, tmp_path: Path) -> None:
    environ = {"RELAY_NOTICES__URLS": '["slack://hunter2/a,b", "json://u:hunter2@h"]'}
    found = settings(**environ)
    assert [url.get_secret_value() for url in found.notices.urls] == ["slack://hunter2/a,b", "json://u:hunter2@h"]
    rows = {row.name: row.value for row in describe(found, environ, secrets_dir=tmp_path / "secrets")}
    assert rows["RELAY_NOTICES__URLS"] == "**********,**********"
    assert "hunter2" not in repr(found)
