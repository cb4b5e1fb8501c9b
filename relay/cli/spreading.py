"""Lets commands share a set of options: each member of `**given: Unpack[Options]` is an option of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from relay.control.parameters import fields_of

F = TypeVar("F", bound=Callable[..., None])


def spread(command: F) -> F:
    """`command` with the signature that Typer makes options from: arguments, then the set, then options of its own.

    A member of the set (a TypedDict) is `Annotated` with its Typer option; what is not given comes as None.
    """
    own: list[inspect.Parameter] = []
    shared: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            hints = get_type_hints(fields_of(command, parameter.name), include_extras=True)
            shared = [_option(name, hint, None) for name, hint in hints.items()]
        else:
            own.append(_option(parameter.name, parameter.annotation, parameter.default))
    needed = [parameter for parameter in own if parameter.default is inspect.Parameter.empty]
    own = [parameter for parameter in own if parameter not in needed]
    command.__signature__ = inspect.Signature([*needed, *shared, *own])  # type: ignore[attr-defined]
    return command


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
