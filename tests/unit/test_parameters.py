"""What a function takes as `**given: Unpack[Fields]` counts as parameters of its own, for actions and for commands."""

from __future__ import annotations

from typing import Annotated, TypedDict, Unpack

import typer
from typer.testing import CliRunner

from relay.cli.spreading import spread
from relay.control.parameters import parameters_of


class Fields(TypedDict, total=False):
    host: str | None
    port: int | None


class Options(TypedDict, total=False):
    host: Annotated[str | None, typer.Option("--host")]
    ports: Annotated[list[int] | None, typer.Option("--port", min=1)]


def test_the_members_of_the_fields_follow_in_order() -> None:
    async def act(control: object, *, name: str, force: bool = False, **fields: Unpack[Fields]) -> None: ...

    found = [(one.name, one.annotation, one.default) for one in parameters_of(act)[2:]]
    assert found == [("force", "bool", False), ("host", "str | None", None), ("port", "int | None", None)]


def test_a_command_takes_each_member_as_an_option() -> None:
    seen: list[object] = []

    def command(name: str, loud: bool = False, **given: Unpack[Options]) -> None:
        seen.append((name, loud, given))

    app = typer.Typer()
    app.command()(spread(command))
    run = CliRunner().invoke
    assert run(app, ["x", "--port", "25", "--port", "26"]).exit_code == 0
    assert run(app, ["x", "--loud", "--host", "h"]).exit_code == 0
    assert seen == [
        ("x", False, {"host": None, "ports": [25, 26]}),
        ("x", True, {"host": "h", "ports": None}),
    ]
    assert run(app, ["x", "--port", "0"]).exit_code == 2
