"""The forms in which a secret may lie somewhere it must not: as it is, and as programs write it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from urllib.parse import quote


def forms_of(secret: str) -> set[bytes]:
    """Raw, hexadecimal, URL-quoted, UTF-16 and base64 at its three alignments, of octets and of UTF-16."""
    raw, wide = secret.encode(), secret.encode("utf-16-le")
    forms = {raw, wide, secret.encode("utf-16-be"), raw.hex().encode(), raw.hex().upper().encode()}
    forms.add(quote(secret, safe="").encode())
    for octets in (raw, wide):
        for shift in range(3):  # without the characters that a neighbour has a share in
            encoded = base64.b64encode(b"x" * shift + octets)
            form = encoded[4 if shift else 0 : -4]
            forms |= {form, form.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def spilled(secrets: Iterable[str], places: Mapping[str, bytes]) -> list[str]:
    """The places that hold one of `secrets` in any form."""
    forms = {form for secret in secrets for form in forms_of(secret)}
    return [place for place, octets in places.items() if any(form in octets for form in forms)]
