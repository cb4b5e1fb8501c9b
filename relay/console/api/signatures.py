"""What the actions of the API take. A fork looks: the actions and all they need would fill 25 MB of the console."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from relay.config.fork import Fork


def signatures(actions: Iterable[str]) -> dict[str, tuple[tuple[inspect.Parameter, ...], str]]:
    """The arguments of each action, and its docstring. Annotations are text, as `control.registry` reads them."""
    return Fork(lambda: _looked_up(actions)).result()


def _looked_up(actions: Iterable[str]) -> dict[str, tuple[tuple[inspect.Parameter, ...], str]]:
    from relay.control.parameters import parameters_of
    from relay.control.registry import ACTIONS

    found = {}
    for name in actions:
        arguments = parameters_of(ACTIONS[name])[1:]  # the first is the control itself
        found[name] = arguments, inspect.getdoc(ACTIONS[name]) or ""
    return found
