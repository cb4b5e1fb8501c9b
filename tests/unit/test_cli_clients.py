"""`relay client …` in this process, on a store without a daemon."""

from __future__ import annotations

from pathlib import Path

from tests.unit.command_line import PASSWORD, Run, add, refused


def test_clients(run: Run) -> None:
    add(run)
    argv = ["client", "add", "erp", "--network", "10.1.0.0/16,10.2.0.0/16", "--network", "192.0.2.7"]
    answer = run(*argv, "--sender", "@example.com", "--json")
    assert answer.json["networks"] == ["10.1.0.0/16", "10.2.0.0/16", "192.0.2.7/32"]
    assert "10.1.0.0/16" in run("client", "list").out
    assert "@example.com" in run("client", "show", "erp").out
    assert "any allowed network may use any registered sender" in run("client", "remove", "erp").out
    refused(run("client", "show", "erp"), "relay client list")
    refused(run("client", "add", "erp", "--network", "10.1.0.1/16"), "host bits")


def test_a_client_with_everything_and_its_changes(run: Run, tmp_path: Path) -> None:
    add(run)
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    options = """--network 10.1.0.0/16 --sender @example.com --answer direct --tolerate no-brackets,raw-8bit
    --tolerate bare-recipients --auth login --login erp --identity map --map root@localhost=app@example.com
    --map *=app@example.com --messages-per-minute 60 --recipients-per-minute 600 --bytes-per-day 1000000
    --recipient @example.org --recipient @*.example.org --deny boss@example.org --capture tests@example.com
    --default-domain example.org --charset latin1"""
    argv = ["client", "add", "erp", *options.split(), "--password-file", str(file)]
    answer = run(*argv)
    assert answer.status == 0
    assert "logged in as erp" in answer.out
    shown = run("client", "show", "erp")
    for words in (
        "10.1.0.0/16",
        "login",
        "erp (password set)",
        "by the envelope, through the map",
        "root@localhost=app@example.com, *=app@example.com",
        "@example.org, @*.example.org",
        "boss@example.org",
        "tests@example.com",
        "60 a minute",
        "600 a minute",
        "1000000 a day",
        "direct",
        "no-brackets, raw-8bit, bare-recipients",
        "iso-8859-1",
    ):
        assert words in shown.out
    assert "argon2" not in shown.out
    before = run("client", "show", "erp", "--json").json
    argv = ["client", "set", "erp", "--capture", "", "--deny", "", "--tolerate", "raw-8bit", "--default-domain", ""]
    after = run(*argv, "--json").json
    assert after.pop("warning")
    assert after.pop("changed").keys() == {"capture", "denied", "tolerate", "tolerated", "default_domain"}
    assert after == {
        **before,
        "capture": "",
        "denied": [],
        "tolerate": ["raw-8bit"],
        "tolerated": sorted({*before["tolerated"]} - {"no-brackets", "bare-recipients"}),
        "default_domain": "",
    }
    assert run("client", "set", "erp", "--password-file", "-", stdin=PASSWORD + "2").status == 0
    assert run("client", "set", "erp", "--auth", "none", "--json").json["password_set"] is False
    refused(run("client", "set", "erp"), "nothing to change", "relay client set --help")
    refused(run("client", "set", "erp", "--network", ""), "network is missing", "--auth login")
    refused(run("client", "set", "web", "--answer", "direct"), "no client web")
    refused(run("client", "set", "erp", "--tolerate", "bare_lf"), "did you mean bare-lf?")
    refused(run("client", "set", "erp", "--map", "root"), "FROM=TO")
    assert "login" in run("audit", "--json").out


def test_a_client_that_logs_in_needs_no_network(run: Run) -> None:
    add(run)
    argv = ["client", "add", "scanner", "--login", "scanner", "--password-file", "-"]
    answer = run(*argv, stdin=PASSWORD)
    assert answer.status == 0
    assert "any allowed network, logged in as scanner, may send as" in answer.out
    assert "scanner" in run("client", "list").out


def test_switches_are_listed_with_meaning_and_default(run: Run, tmp_path: Path) -> None:
    listed = run("client", "switches", "--json").json
    assert {
        "switch": "bare-lf",
        "meaning": "lines of a mail that end in LF alone become CRLF; commands and the final dot need CRLF",
        "default": True,
    } in listed
    lines = run("client", "switches").out.splitlines()
    assert len(lines) == len(listed) + 2
    assert lines[-1].startswith("--tolerate NAME")
    assert not (tmp_path / "data").exists()


def test_switches_are_put_on_and_off_and_shown_before_and_after(run: Run) -> None:
    add(run)
    run("client", "add", "erp", "--network", "10.1.0.0/16", "--tolerate", "raw-8bit,no-bare-cr")
    out = run("client", "set", "erp", "--tolerate", "+odd-dots", "--tolerate", "-bare-lf").out
    assert "  tolerate: raw-8bit, no-bare-cr -> raw-8bit, no-bare-cr, odd-dots, no-bare-lf\n" in out
    out = run("client", "set", "erp", "--tolerate=-raw-8bit,-odd-dots,+bare-cr,+bare-lf").out
    assert "  tolerate: raw-8bit, no-bare-cr, odd-dots, no-bare-lf -> -\n" in out
    out = run("client", "set", "erp", "--tolerate", "odd-dots", "--capture", "t@example.com").out
    assert "  tolerate: - -> odd-dots\n" in out
    assert "  capture: - -> t@example.com\n" in out
    refused(run("client", "set", "erp", "--tolerate", "+raw-8bit,odd-dots"), "give each with + or -")
