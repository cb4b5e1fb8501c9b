"""The names that settings have outside: derived from the models, so that no list can fall behind them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.config.fields import Form
from relay.config.settings import RelaySettings

ENV_FILE = "RELAY_ENV_FILE"  # names the file that is read instead of relay.env
MASTER_KEY = "RELAY_MASTER_KEY"  # not a setting: the key ring takes it out of the environment itself


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: `path` leads to its field in RelaySettings, `default` is as people read it ("" means none)."""

    name: str
    path: tuple[str, ...]
    section: str
    meaning: str
    default: str
    form: Form


_YN = Form("yes or no", "Y or N")
_NAMED = {"upstream": "SMTP_AUTH_", "imap": "IMAP_"}
_TLS = (
    Variable("SMTP_AUTH_TLS", ("upstream", "tls"), "upstream", "STARTTLS before the login", "Y", _YN),
    Variable("SMTP_AUTH_SSL", ("upstream", "tls"), "upstream", "Y: TLS from the first byte (port 465)", "", _YN),
    Variable("IMAP_TLS", ("imap", "tls"), "imap", "TLS before the login", "Y", _YN),
)


@cache
def variables() -> dict[str, Variable]:
    """Every setting by its name, in the order of the models."""
    return {variable.name: variable for variable in _of(RelaySettings, ())}


def _of(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Variable]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _of(kind, (name,))
        elif not (path and path[0] in _NAMED):
            yield Variable("RELAY_" + "__".join((*path, name)).upper(), *_described(field, (*path, name)))
        elif name == "tls":
            yield from (variable for variable in _TLS if variable.section == path[0])
        else:
            suffix = "SSL_TRUST" if name == "trust" else name.upper()
            yield Variable(_NAMED[path[0]] + suffix, *_described(field, (*path, name)))


def _described(field: FieldInfo, path: tuple[str, ...]) -> tuple[tuple[str, ...], str, str, str, Form]:
    extra: Any = field.json_schema_extra
    default = extra["default"] if isinstance(extra, dict) else as_text(field.default)
    return path, path[0] if len(path) > 1 else "", field.description or "", default, _form(field)


def _form(field: FieldInfo) -> Form:
    for form in (*field.metadata, *_inner(field.annotation)):
        if isinstance(form, Form):
            return form
    return Form("of the right form", field.description or "a value of the right form")


def _inner(annotation: Any) -> Iterator[Any]:
    """The metadata of `Annotated[...] | None`."""
    for member in getattr(annotation, "__args__", ()):
        yield from getattr(member, "__metadata__", ())


def as_text(value: object) -> str:
    """A setting's value as one would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ",".join(map(as_text, value))
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else str(int(value))
    return str(value)


def name_of(path: tuple[str | int, ...]) -> str:
    """The variable that sets the field at `path`: `("listeners", 0, "port")` is `RELAY_LISTENERS[0].port`."""
    if path and path[0] == "listeners" and len(path) > 1:
        index, *rest = path[1:]
        return f"RELAY_LISTENERS[{index}]" + "".join(f".{part}" for part in rest[:1])
    while path:
        for variable in variables().values():
            if variable.path == path:
                return variable.name
        if path[0] in _NAMED or len(path) <= 2:
            break
        path = path[:-1]
    return "RELAY_" + "__".join(str(part) for part in path).upper()


def nearest(name: str) -> str:
    """The right name that `name` most looks like; "" when it looks like none."""
    upper = name.upper()
    for section, prefix in _NAMED.items():
        upper = re.sub(rf"^RELAY_{section.upper()}_+", prefix, upper)
    known = {re.sub("_+", "_", right): right for right in (*variables(), ENV_FILE)}
    close = difflib.get_close_matches(re.sub("_+", "_", upper), known, n=1, cutoff=0.6)
    return known[close[0]] if close else ""


def lookalike(name: str) -> bool:
    """Whether an unknown SMTP_AUTH_* or IMAP_* name is a slip of ours, and not another program's (SMTP_AUTH_USER)."""
    for prefix in _NAMED.values():
        if name.startswith(prefix):
            rights = [right.removeprefix(prefix) for right in variables() if right.startswith(prefix)]
            return bool(difflib.get_close_matches(name.removeprefix(prefix), rights, n=1, cutoff=0.6))
    return False
