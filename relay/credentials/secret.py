"""A secret that does not show itself: in `repr`, `str`, formatted text, or a traceback's locals."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Holds a secret in clear until the process ends or it is collected. `reveal` is the only way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself. Do not keep it in a variable longer than the call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __format__(self, _specification: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """In constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(
            self._value.encode("utf-8", "surrogatepass"), other._value.encode("utf-8", "surrogatepass")
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


def reveal(secret: str | Secret) -> str:
    """The text of either form."""
    return secret.reveal() if isinstance(secret, Secret) else secret
