"""The parameters of a function, those one by one that it takes together as `**given: Unpack[Fields]`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, get_args, get_type_hints


@cache
def parameters_of(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """In order; a member of `Fields` (a TypedDict) has its annotation as it is written there, and None by default."""
    spread: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            for name, hint in fields_of(function, parameter.name).__annotations__.items():
                annotation = getattr(hint, "__forward_arg__", hint)
                spread.append(
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
                )
        else:
            spread.append(parameter)
    return tuple(spread)


def fields_of(function: Callable[..., Any], name: str) -> type:
    """The TypedDict behind `function`'s parameter `**name`."""
    [fields] = get_args(get_type_hints(function)[name])
    found: type = fields
    return found
