"""docs/legacy-clients.md: its commands are those there are, and every switch has a line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from relay.cli import tree
from relay.mail.tolerance import SWITCHES, tolerance
from tests.unit.command_line import Run, add

PAGE = (Path(tree.__file__).parents[2] / "docs" / "legacy-clients.md").read_text()
COMMANDS = re.findall(r"^\$ relay (client add .*)$", PAGE, re.M)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_client_of_the_page_can_be_added(line: str, run: Run) -> None:
    assert add(run, "it@example.com").status == 0
    for sender in ("scan@example.com", "alarm@example.com", "testers@example.com"):
        assert run("sender", "add", sender, "it@example.com").status == 0
    answer = run(*shlex.split(line))
    assert (answer.status, answer.err) == (0, "")


def test_every_option_of_the_page_exists() -> None:
    client = typer.main.get_command(tree.build()).commands["client"]  # type: ignore[attr-defined]
    options = {name for parameter in client.commands["add"].params for name in parameter.opts}
    others = {
        "--server",
        "--from",
        "--port",
        "--provider",
    }  # of relay sendmail, relay sender add, and of other programs
    assert set(re.findall(r"(?<!\w)--[a-z][a-z-]+", PAGE)) <= options | others


def test_every_switch_of_the_page_exists_and_none_is_missing() -> None:
    named = set(re.findall(r"--tolerate ([a-z0-9-]+)", PAGE))
    for name in named:
        tolerance((name,))
    assert set(SWITCHES) - {name.removeprefix("no-") for name in named} - named == {"bare-cr"}  # in a line with bare-lf
