"""Settings as the daemon holds them: what was read, without the library that read it.

pydantic and the models take 10 MB that a daemon needs for a moment at its start, so a process of its own reads the
settings (`apart`), and only what it found stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

_GIVEN = "model_fields_set"


class Held:
    """The fields and the properties of one model, under the same names. Frozen; equal when all of it is.

    Wherever a section of the settings is asked for, one of these will do.
    """

    __slots__ = ("__dict__",)

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are not changed, not even {name}")

    def __eq__(self, other: object) -> bool:
        """As models are: a value counts, not whether it was given or is the default."""
        if not isinstance(other, Held):
            return NotImplemented
        return {**self.__dict__, _GIVEN: None} == {**other.__dict__, _GIVEN: None}

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Held({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _held, (self.__dict__,)


class Concealed:
    """A secret of the settings. As pydantic's SecretStr it shows itself to nobody who does not ask."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The secret itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Concealed) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Concealed('**********')"

    def __str__(self) -> str:
        return "**********"


@dataclass(frozen=True, slots=True)
class Reloading:
    """`settings` are to be in force: the wanted ones where they can be, else those of before.

    `changed` and `restart` are the names of settings that differ: those that count now, those that wait for a restart.
    """

    settings: RelaySettings
    changed: tuple[str, ...]
    restart: tuple[str, ...]


def _held(values: dict[str, object]) -> Held:
    return Held(**values)


def held(value: Any) -> Any:
    """`value` with every model in it as `Held`, every SecretStr as `Concealed`; what is so already stays."""
    from pydantic import BaseModel, SecretStr  # not for the daemon, which only gets what this returns

    if isinstance(value, BaseModel):
        kind = type(value)
        names = [*kind.model_fields, *_properties(kind), _GIVEN]
        return Held(**{name: held(getattr(value, name)) for name in names})
    if isinstance(value, SecretStr):
        return Concealed(value.get_secret_value())
    if isinstance(value, tuple | list):
        return tuple(map(held, value))
    return value


def _properties(kind: type) -> list[str]:
    """The public ones that our own classes define: what they say is settled once the fields are."""
    from functools import cached_property

    return [
        name
        for base in kind.__mro__
        if base.__module__.startswith("relay.")
        for name, member in vars(base).items()
        if isinstance(member, property | cached_property) and not name.startswith("_")
    ]
