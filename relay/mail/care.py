"""What one client's entry asks to be done with the header of its mail, besides what is done for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from relay.mail.author import Authors
from relay.mail.tolerance import DEFAULT, Tolerance


class Care(NamedTuple):
    """`judge` is called once, when the header section is complete: what From must become, None: it stays.

    It may raise AuthorRefused.  What it returns must be an addr-spec.
    """

    tolerance: Tolerance = DEFAULT
    charset: str = ""  # of raw 8-bit text, by its MIME name; "": UTF-8 where it decodes, else windows-1252
    captured: tuple[str, ...] = ()  # the recipients of the envelope, when the mail goes to somebody else
    judge: Callable[[Authors], str | None] | None = None
