"""Makes the routes of the API from its table and the signatures of the actions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Path, Query
from pydantic import BaseModel, ConfigDict, Field, create_model

from relay.console.api.shapes import ANSWERS, EXAMPLES, SCHEMAS
from relay.console.api.signatures import signatures
from relay.console.api.table import ROUTES, Route
from relay.console.identity import Caller, program
from relay.console.problems import MEDIA_TYPE

router = APIRouter()

_LONGEST = 65_536
_LONGEST_IN_QUERY = 4096  # percent-encoded it is twelve times as long at most: within the 64 KiB of a request's head
_IN_PATH = re.compile(r"\{(\w+)\}")
_Text = Annotated[str, Field(max_length=_LONGEST)]
_Named = Annotated[dict[_Text, _Text], Field(max_length=100)]
_TYPES: Mapping[str, Any] = {  # the annotations that control.registry.FITS knows
    "str": _Text,
    "str | None": _Text | None,
    "int": int,
    "int | None": int | None,
    "bool": bool,
    "bool | None": bool | None,
    "list[str]": Annotated[list[_Text], Field(max_length=10_000)],
    "list[str] | None": Annotated[list[_Text], Field(max_length=10_000)] | None,
    "dict[str, str]": _Named,
    "dict[str, str] | None": _Named | None,
}
_Short = Annotated[str, Field(max_length=_LONGEST_IN_QUERY)]
_QUERY_TYPES = {**_TYPES, "str": _Short, "str | None": _Short | None}
_SECRET = frozenset({"password", "proxy_password", "client_secret", "client_certificate", "service_account"})
_PROBLEMS: dict[int | str, dict[str, Any]] = {  # what is no HTTP at all is answered 400 in plain text
    status: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, text in (
        (400, "the body is no JSON"),
        (401, "nobody's token"),
        (403, "the token does not reach so far"),
        (404, "there is no such thing"),
        (409, "refused as things are"),
        (413, "the body is larger than 1 MiB"),
        (422, "a value cannot be"),
        (429, "too many requests, or too many that were refused; Retry-After says when to come back"),
        (503, "the relay does not answer"),
    )
}
_PROBLEMS[400]["content"]["text/plain"] = {"schema": {"type": "string"}}
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=128,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key within a day gives the first answer again, and does nothing anew.",
    ),
]


def _add(route: Route, arguments: tuple[inspect.Parameter, ...], meaning: str) -> None:
    in_path = set(_IN_PATH.findall(route.path))
    rest = [argument for argument in arguments if argument.name not in in_path]
    parameters = [
        _named(argument.name, Annotated[_Text, Path(max_length=1024)])
        for argument in arguments
        if argument.name in in_path
    ]
    model = _body(route, rest) if route.method in ("POST", "PATCH") and rest else None
    if model is not None:
        needed = any(argument.default is inspect.Parameter.empty for argument in rest)
        parameters.append(_named("body", Annotated[model, Body()], inspect.Parameter.empty if needed else model()))
    elif route.method in ("GET", "DELETE"):
        parameters += [_parameter(argument, Query()) for argument in rest]
    parameters.append(_named("caller", Annotated[Caller, Depends(program)]))
    if route.method == "POST":
        parameters.append(_named("key", IdempotencyKey, None))

    endpoint = _endpoint(route)
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters, key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    )
    endpoint.__doc__ = meaning
    router.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        status_code=route.status,
        name=route.action,
        operation_id=re.sub(r"\W+", "_", f"{route.method} {route.path}").strip("_").lower(),
        tags=[route.path.split("/")[1]],
        responses=_PROBLEMS | ({route.status: _answer(route)} if route.action in ANSWERS else {}),
        response_model=None,
    )


def _answer(route: Route) -> dict[str, Any]:
    return {"description": "done", "content": {"application/json": {"schema": ANSWERS[route.action]}}}


def _endpoint(route: Route) -> Callable[..., Awaitable[Any]]:
    async def endpoint(caller: Caller, body: BaseModel | None = None, key: str | None = None, **arguments: Any) -> Any:
        if body is not None:
            arguments |= body.model_dump(exclude_unset=True)
        steps: list[Mapping[str, Any]] = []
        answer = await caller.call(
            route.action,
            {name: value for name, value in arguments.items() if value is not None},
            steps.append,
            key=key,
        )
        return {**answer, "steps": steps} if route.action == "account.test" and isinstance(answer, dict) else answer

    return endpoint


def _body(route: Route, arguments: list[inspect.Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for argument in arguments:
        needed = argument.default is inspect.Parameter.empty
        extra: dict[str, Any] = {"writeOnly": True} if argument.name in _SECRET else {}
        fields[argument.name] = (
            _TYPES[str(argument.annotation)],
            Field(... if needed else argument.default, json_schema_extra=extra or None),
        )
    name = "".join(part.title() for part in re.split(r"[._]", route.action))
    examples: Any = {"examples": [EXAMPLES[route.action]]} if route.action in EXAMPLES else None
    config = ConfigDict(extra="forbid", hide_input_in_errors=True, json_schema_extra=examples)
    return create_model(f"{name}Request", __config__=config, **fields)


def _parameter(argument: inspect.Parameter, where: Any) -> inspect.Parameter:
    return _named(argument.name, Annotated[_QUERY_TYPES[str(argument.annotation)], where], argument.default)


def _named(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_taken = signatures({route.action for route in ROUTES})
for _route in ROUTES:
    _add(_route, *_taken[_route.action])


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`: with how to log in, and what answers and problems look like."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    made = app.openapi()
    parts = made.setdefault("components", {})
    parts.setdefault("schemas", {}).update(SCHEMAS)
    for name in ("HTTPValidationError", "ValidationError"):  # ours are Problems
        parts["schemas"].pop(name, None)
    parts["securitySchemes"] = {
        "bearerAuth": {"type": "http", "scheme": "bearer", "description": "`relay console token NAME --scope read`"}
    }
    made["security"] = [{"bearerAuth": []}]
    return made
