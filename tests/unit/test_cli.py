"""The command tree in this process, on a store without a daemon: help, JSON, exit statuses, one-line refusals."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from relay.cli import output, tree
from relay.config.settings import RelaySettings
from relay.daemon.build import open_control
from tests.store import arrival
from tests.unit.command_line import PASSWORD, Run, add, refused


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the tree with the words that lead to it."""
    for name, member in group.commands.items():
        if hasattr(member, "commands"):
            yield from commands(member, (*path, name))
        else:
            yield (*path, name), member


ALL = dict(commands(typer.main.get_command(tree.build())))
INTERFACE = """serve check demo migrate trace explain audit backup restore
import/postfix import/msmtp import/emailproxy import/decke
account/add account/list account/show account/test account/set-password account/connect account/suspend account/resume
account/remove sender/add sender/list sender/remove sender/which client/add client/set client/list client/show
client/remove client/switches
queue/list queue/show queue/retry queue/hold queue/release queue/remove queue/summary key/list key/add key/rotate
key/drop"""


def test_every_command_of_the_interface_is_there() -> None:
    assert {tuple(name.split("/")) for name in INTERFACE.split()} <= ALL.keys()


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_help_with_an_example_of_itself(path: tuple[str, ...], run: Run) -> None:
    answer = run(*path, "--help")
    assert answer.status == 0
    [example] = [line.strip() for line in answer.out.splitlines() if line.strip().startswith("Example: relay ")]
    assert shlex.split(example)[2 : 2 + len(path)] == list(path)
    if path != ("serve",):
        assert "--json" in answer.out


def test_no_command_takes_a_secret_as_an_argument() -> None:
    not_secret = {"--password-file", "--proxy-password-file", "--client-secret-file", "--secret-expires", "--token-url"}
    for path, command in ALL.items():
        names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        secret = {name for name in names if "pass" in name or "secret" in name or "token" in name}
        assert secret <= not_secret, path


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["account", "nonsense"],
        ["account", "show"],
        ["account", "list", "--nonsense"],
        ["account", "add", "a@example.com", "--port", "0"],
        ["queue", "list", "--limit", "many"],
        ["account", "add", "a@example.com", "--host", "h.example.com"],  # no terminal, no --password-file
        ["client", "add", "erp"],  # neither a network nor a login
        ["client", "add", "erp", "--auth", "login", "--password-file", "-"],
        ["client", "add", "erp", "--login", "erp"],  # no terminal, no --password-file
        ["client", "set", "erp", "--messages-per-minute", "-1"],
        ["serve", "now"],
        ["acount", "list"],
    ],
)
def test_wrong_usage_is_status_2_and_one_line(argv: list[str], run: Run) -> None:
    answer = run(*argv)
    assert answer.status == 2
    assert answer.out == ""
    [line] = answer.err.splitlines()
    assert line.startswith("relay: ")
    assert "--help`" in line
    assert "?." not in line


def test_a_first_account_and_its_life(run: Run) -> None:
    answer = add(run)
    assert answer.status == 0
    assert "Mail from ann@example.com goes through it." in answer.out
    [entry] = run("account", "list", "--json").json
    assert (entry["address"], entry["host"], entry["port"], entry["state"]) == (
        "ann@example.com",
        "mail.example.com",
        587,
        "ok",
    )
    assert entry["senders"] == ["ann@example.com"]
    assert run("account", "suspend", "ann@example.com").status == 0
    shown = run("account", "show", "ann@example.com")
    assert "suspended (operator)" in shown.out
    assert "relay account resume ann@example.com" in shown.out
    assert run("account", "resume", "ann@example.com", "--json").json["state"] == "ok"
    assert run("account", "set", "ann@example.com", "--per-minute", "7").status == 0
    assert run("account", "show", "ann@example.com", "--json").json["per_minute"] == 7
    assert run("account", "set-password", "ann@example.com", "--password-file", "-", stdin=PASSWORD + "2\n").status == 0
    assert run("account", "remove", "ann@example.com").status == 0
    assert run("account", "list", "--json").json == []
    refused(run("account", "remove", "ann@example.com"), "no account ann@example.com", "relay account list")


def test_a_password_comes_from_a_file_without_its_line_end(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\r\n")
    assert run("account", "add", "ann@example.com", "--host", "h.example.com", "--password-file", str(file)).status == 0
    refused(run("account", "set-password", "ann@example.com", "--password-file", str(tmp_path / "none")), "file")
    refused(run("account", "set-password", "ann@example.com", "--password-file", "-", stdin="\n"), "empty")
    big = run("account", "set-password", "ann@example.com", "--password-file", "-", stdin="x" * 70_000)
    refused(big, "64 KiB")


def test_refusals_of_accounts(run: Run) -> None:
    add(run)
    refused(add(run), "already", "relay account set")
    refused(add(run, "bob@example.com", "--tls", "none"), "clear text", "--tls starttls")
    refused(run("account", "connect", "ann@example.com"), "relay account set ann@example.com --auth")
    refused(run("account", "add", "b@example.com", "--auth", "oauth-code", "--provider", "m365"), "--client-id")
    refused(run("account", "show", "x\x1b[31m@example.com"), "\\x1b")


def test_a_ca_file_is_stored_with_its_full_path(run: Run, tmp_path: Path) -> None:
    from tests.peers.certificates import write_certificates

    write_certificates(tmp_path)
    assert add(run, "ann@example.com", "--trust", "ca.pem").status == 0
    assert run("account", "show", "ann@example.com", "--json").json["trust"] == str(tmp_path / "ca.pem")
    refused(add(run, "bob@example.com", "--trust", "none"), "trust")


def test_senders_and_the_way_they_go(run: Run) -> None:
    add(run)
    assert run("sender", "add", "@example.com", "ann@example.com").status == 0
    assert run("sender", "add", "*", "ann@example.com", "--from", "keep", "--json").json["pattern"] == "*"
    which = run("sender", "which", "Carol+news@Example.com")
    assert "goes through ann@example.com" in which.out
    assert "domain" in which.out
    assert run("sender", "which", "x@example.org", "--json").json["step"] == "default"
    assert [entry["pattern"] for entry in run("sender", "list", "--json").json] == [
        "*",
        "@example.com",
        "ann@example.com",
    ]
    assert run("sender", "remove", "*").status == 0
    refused(run("sender", "which", "x@example.org"), "no account may send as x@example.org", "relay sender add")
    refused(run("sender", "remove", "*"), "relay sender list")
    add(run, "bob@example.com")
    refused(run("sender", "add", "@example.com", "bob@example.com"), "goes through ann@example.com already")
    assert (
        run("sender", "add", "@example.net", "ann@example.com", "--from", "rewrite", "--json").json["from"] == "rewrite"
    )
    assert run("sender", "add", "@example.net", "ann@example.com", "--from", "refuse").status == 0
    assert "refuse" in run("sender", "list").out
    refused(run("sender", "add", "@example.net", "ann@example.com", "--from", "forge"), "keep, rewrite, refuse")
    refused(run("sender", "add", "example.com", "ann@example.com"), "@example.com")
    refused(run("sender", "add", "@example.net", "eve@example.com"), "no account eve@example.com")


def test_an_empty_queue(run: Run) -> None:
    add(run)
    assert run("queue", "list").out == "Nothing waits.\n"
    assert run("queue", "list", "--json").json == []
    assert run("queue", "summary", "--json").json == {"deliveries": 0, "oldest_s": 0, "states": {}, "accounts": []}
    for action in ("show", "retry", "hold", "release", "remove"):
        refused(run("queue", action, "0000000000001"), "no message 0000000000001")
    refused(run("queue", "list", "--state", "sent"), "relayed")
    refused(run("trace", "<nothing@example.com>"), "queued as")


def test_explain_needs_no_store(run: Run, tmp_path: Path) -> None:
    answer = run(
        "explain", "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant."
    )
    assert answer.status == 0
    assert "Who must act  the administrator of the mail organisation" in answer.out
    assert "  1. " in answer.out
    assert run("explain", "550", "5.1.1", "no such user", "--json").json["scope"] == "recipient"
    assert run("explain", "\x1b[31mgibberish").status == 0
    for nothing in ((), ("",), (" ", "\t")):
        asked = run("explain", *nothing)
        assert (asked.status, asked.out) == (2, "")
        assert "paste the reply of the upstream" in asked.err
    assert not (tmp_path / "data").exists()


def test_keys(run: Run) -> None:
    add(run)
    [first] = run("key", "list", "--json").json
    rotated = run("key", "rotate", "--json").json
    assert rotated["resealed"] == 1
    assert run("key", "drop", first["id"]).status == 0
    refused(run("key", "drop", rotated["primary"]), "primary")
    assert len(run("key", "list").out.splitlines()) == 2


def test_check_reports_and_its_status_tells(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(run)
    answer = run("check", "--no-login")
    assert answer.status == 0
    assert "WARNING  clients" in answer.out
    assert "notices" not in answer.out
    monkeypatch.setenv("RELAY_NOTICES__ACCOUNT", "nobody@example.com")
    assert "there is no account nobody@example.com" in run("check", "--no-login").out
    assert run("account", "remove", "ann@example.com").status == 0
    assert run("check", "--json").json["ok"]
    add(run)
    [key] = (tmp_path / "data" / "keys").glob("*.key")
    key.chmod(0o644)
    answer = run("check", "--no-login")
    assert answer.status == 1
    assert "FAILED" in answer.out
    assert "chmod 600" in answer.err
    refused(run("account", "list"), "chmod 600")
    key.chmod(0o600)
    key.rename(key.with_name("k2000-01-01-0000.key"))
    assert run("check", "--no-login", "--json").json["ok"] is False


def test_migrate_says_what_it_did(run: Run) -> None:
    add(run)
    assert "up to date" in run("migrate").out
    assert run("migrate", "--json").json["migrated"] is False
    refused(run("migrate", "--to", "sqlite:///x"), "relay backup")


def test_audit_shows_who_and_what(run: Run) -> None:
    add(run)
    [entry] = run("audit", "--since", "1h", "--json").json
    assert entry["action"] == "account.add"
    assert entry["target"] == "ann@example.com"
    assert "account.add" in run("audit").out
    refused(run("audit", "--since", "soon"), "7d")


def test_bad_settings_are_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_LISTENER__PORT", "many")
    refused(run("account", "list"), "RELAY_LISTENER__PORT")
    answer = run("serve")
    assert answer.status == 1
    assert "RELAY_LISTENER__PORT" in answer.err


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    answer = run("account")
    assert answer.status == 2
    assert "set-password" in answer.out


def test_nothing_that_is_shown_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "\x1b]0;owned\x07\r\nrelay: forged \u2028\x9b31m"
    output.say(nasty)
    output.complain(nasty)
    output.note(nasty)
    output.facts([("Reply", nasty)])
    output.table(("REPLY",), [(nasty,)], nothing="")
    output.print_json({"reply": nasty})
    out, err = capsys.readouterr()
    assert all(character.isprintable() or character == "\n" for character in out + err)
    assert len(err.splitlines()) == 2
    assert json.loads(out[out.index("{") :])["reply"] == nasty


def test_the_version(run: Run) -> None:
    assert run("--version").out.startswith("relay ")


@pytest.mark.parametrize(
    "group", [[], ["account"], ["sender"], ["client"], ["queue"], ["key"], ["notice"], ["console"]]
)
def test_no_line_of_a_group_s_help_is_cut(group: list[str], run: Run) -> None:
    lines = run(*group, "--help").out.splitlines()
    assert [line for line in lines if line.endswith("...") and "Usage" not in line] == []


@pytest.mark.parametrize("password", ["a\0b", "one\ntwo", "tab\there"])
def test_a_password_with_a_control_character_is_refused(password: str, run: Run) -> None:
    answer = run("account", "add", "a@example.com", "--host", "h.example.com", "--password-file", "-", stdin=password)
    refused(answer, "control character")


def test_bulk_actions_count_first_and_need_a_yes(run: Run) -> None:
    add(run)
    refused(run("queue", "hold", "--account", "ann@example.com"), "nothing that waits fits")
    assert run("queue", "hold").status == 2
    queued(run)
    refused(run("queue", "hold", "--account", "ann@example.com"), "would hold 2 deliveries of 1 message;", "--yes")
    done = run("queue", "hold", "--account", "ann@example.com", "--yes")
    assert (done.status, done.out) == (0, "2 deliveries held.\n")
    assert run("queue", "release", "--recipient", "*@example.org", "--yes", "--json").json["changed"] == 2
    shown = run("queue", "summary").out
    assert "GONE AT" in shown
    assert "no relay runs" in shown


def test_a_content_is_written_to_a_private_file_only(run: Run, tmp_path: Path) -> None:
    add(run)
    queued(run)
    [entry, _] = run("queue", "list", "--json").json
    shown = run("queue", "show", entry["id"])
    assert "Subject: x" in shown.out
    assert "hello" not in shown.out
    written = run("queue", "show", entry["id"], "--content", str(tmp_path / "mail.eml"))
    assert written.status == 0
    assert (tmp_path / "mail.eml").read_bytes() == b"Subject: x\r\n\r\nhello\r\n"
    assert (tmp_path / "mail.eml").stat().st_mode & 0o777 == 0o600
    refused(run("queue", "show", entry["id"], "--content", str(tmp_path / "mail.eml")), "File exists")
    assert "queue.content" in run("audit").out
    assert "hello" not in run("trace", "--recipient", "a@example.org").out


def queued(run: Run) -> None:
    """One message to a@ and b@example.org, put into the store of `run`."""

    async def accept() -> None:
        async with open_control(RelaySettings(data_dir=Path(os.environ["RELAY_DATA_DIR"]))) as control:
            account = control.directory.by_address("ann@example.com")
            assert account is not None
            given = arrival("a@example.org", "b@example.org", account=account.id, sender="ann@example.com")
            await control.queue.accept(given)

    asyncio.run(accept())
