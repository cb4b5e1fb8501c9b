"""Every `relay …` command in README.md and docs/: it exists with its options, and whole ones can be run as written."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from relay.cli import tree
from tests.peers.authority import self_signed
from tests.unit.command_line import Run

ROOT = Path(tree.__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_TYPED = re.compile(r"^\s*(?:\$ (?:sudo )?|sudo )(relay (?:\\\n|.)*?)$(?<!\\)", re.MULTILINE)
_BLOCK = re.compile(r"^ {4}(relay [a-z].*)$", re.MULTILINE)  # in a block of commands without prompts
_NAMED = re.compile(r"`(relay [^`]+)`")
_COMMENT = re.compile(r"\s(?:#| {2,}\S).*$")  # what a page says beside a command
_NOT_OURS = re.compile(r"relay --?[a-z]|relay (?:smtp|delivered)\b")  # of other programs, and a column's name


def _words(line: str) -> list[str]:
    return shlex.split(_COMMENT.sub("", re.sub(r"\\\n\s*", "", line)))[1:]


def _commands(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """Each with the name of its page."""
    return [
        (page.name, line)
        for page in PAGES
        for line in dict.fromkeys(pattern.findall(page.read_text()))
        if not _NOT_OURS.match(line)
    ]


@cache
def _root() -> Any:
    return typer.main.get_command(tree.build())


def _found(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `words` begin with, and its arguments."""
    command, line = _root(), " ".join(words)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}: {line}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_a_command_to_type_can_be_typed() -> None:
    lines = [*_commands(_TYPED), *_commands(_BLOCK)]
    assert lines
    for page, line in lines:
        command, arguments = _found(_words(line))
        assert not hasattr(command, "commands"), f"{page}: {line}: a group of commands"
        if command.name == "sendmail":  # has options of its own kind
            continue
        try:
            command.parse_args(command.context_class(command), arguments)
        except (typer.Exit, TyperException) as refused:
            pytest.fail(f"{page}: {line}: {refused!r}")


def test_a_command_that_is_spoken_of_exists() -> None:
    assert _commands(_NAMED)
    for page, line in _commands(_NAMED):
        command, arguments = _found(_words(line))
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert given <= known, f"{page}: {line}: {command.name} has no {given - known}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "providers").glob("*.md")), ids=lambda page: page.stem)
def test_the_steps_of_a_provider_are_taken_in_their_order(page: Path, run: Run, tmp_path: Path) -> None:
    """Every account that its page adds or changes can be: the options fit together, and with the provider."""
    (tmp_path / "secret.txt").write_text("a-secret")
    certificate, _, _ = self_signed("relay")
    (tmp_path / "relay.pem").write_text(certificate)
    service = {"type": "service_account", "client_email": "relay@example.iam", "client_id": "1", "private_key_id": "k"}
    key = certificate[certificate.index("-----BEGIN PRIVATE KEY") :]
    (tmp_path / "key.json").write_text(json.dumps({**service, "private_key": key}))
    text, added = page.read_text(), set[str]()
    for line in (*_TYPED.findall(text), *_NAMED.findall(text)):
        words = _words(line)
        if words[:2] == ["account", "add"] and words[2] in added:
            assert run("account", "remove", words[2], "--force").status == 0
        if words[:2] in (["account", "add"], ["account", "set"]) and "ADDRESS" not in words:
            added.add(words[2])
            answer = run(*words)
            assert answer.status == 0, f"{line}: {answer.err}"
    assert added


def test_commands_are_found_at_all() -> None:
    assert len(_commands(_TYPED)) > 25
    assert len(_commands(_NAMED)) > 60
    with pytest.raises(AssertionError, match="no command"):
        _found(["account", "ad"])
