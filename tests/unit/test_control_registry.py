"""The registry: every action can be called by name, and wrong calls are refused without showing values."""

from __future__ import annotations

import inspect

import pytest

from relay.control import registry
from relay.control.context import Control, ControlError
from relay.control.parameters import parameters_of


@pytest.mark.parametrize("action", sorted(registry.ACTIONS))
def test_every_argument_of_every_action_has_a_check(action: str) -> None:
    function = registry.ACTIONS[action]
    assert inspect.iscoroutinefunction(function)
    first, *others = parameters_of(function)
    assert first.name == "control"
    for parameter in others:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation in registry.FITS


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("str", ["", "x"], [None, 1, b"x", "x" * 70_000, "\udcff"]),
        ("str | None", [None, "x"], [1]),
        ("int", [0, -1], [True, "1", None, 1.0]),
        ("int | None", [None, 3], [False, "3"]),
        ("bool", [True, False], [1, None, "yes"]),
        ("list[str]", [[], ["x"]], [None, "x", [1], ["x"] * 10_001]),
        ("dict[str, str]", [{}, {"a": "x"}], [None, [], {"a": 1}, {1: "a"}, {"a": "x" * 70_000}]),
        ("dict[str, str] | None", [None, {"a": "x"}], ["x", {"a": None}]),
        ("list[dict[str, str]]", [[], [{"a": "x"}]], [None, {}, [{"a": 1}], ["x"]]),
        ("list[str] | None", [None, ["x"]], ["x", [None]]),
    ],
)
def test_values_fit_their_annotation(annotation: str, good: list[object], bad: list[object]) -> None:
    assert [value for value in good if not registry.FITS[annotation](value)] == []
    assert [value for value in bad if registry.FITS[annotation](value)] == []


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("account.steal", {}),
        ("account.set_password", {"account": "a@example.com"}),
        ("account.set_password", {"account": "a@example.com", "password": ["hunter2"]}),
        ("account.set_password", {"account": "a@example.com", "password": "hunter2", "hunter2": 1}),
    ],
)
async def test_a_wrong_call_is_refused_without_its_values(action: str, arguments: dict[str, object]) -> None:
    nothing: Control = None  # type: ignore[assignment]  # never reached
    with pytest.raises(ControlError) as caught:
        await registry.run(nothing, action, arguments)
    assert "hunter2" not in str(caught.value)
