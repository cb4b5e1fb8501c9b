"""Keeps secrets out of the log: by the name of a key, by live value, and in AUTH lines.

A live secret is looked for as it is and as base64 (at each of the three alignments it can have inside a longer text),
hex, URL-quoted, escaped, and with NUL between (UTF-16).  Looking costs about half a microsecond a value however
many secrets are live: each form is filed under its first four pieces of four octets, and of a text's octets, cut into
such pieces, each is looked up.
"""

from __future__ import annotations

import base64
import re
import struct
import threading
import urllib.parse
from collections import OrderedDict

MASK = "***"
MAX_SECRETS = 2000  # the least recently used one leaves; each use of a secret masks it anew
MAX_SECRET = 65536  # characters
MIN_SECRET = 4  # shorter ones would black out ordinary words
_PIECE = 4  # octets
_MIN_FILED = 2 * _PIECE - 1  # octets: so long that a whole piece of the text, wherever it was cut, lies inside
_CUTS = tuple(struct.Struct(f"<{pieces}I") for pieces in range(300))

_SECRET_WORDS = frozenset(
    {"password", "passwd", "pwd", "pass", "passphrase", "secret", "secrets", "token", "authorization", "auth", "cookie"}
    | {"credential", "credentials", "apikey", "bearer", "assertion"}
)
_SECRET_NAMES = frozenset({"api_key", "private_key", "secret_key", "master_key", "client_secret", "key_material"})
_AUTH = re.compile(r"(?is)^(\s*(?:C:|>>>)?\s*AUTH\s+[A-Z0-9_-]+)[ \t=].*")
_BEARER = re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{8,}")


def secret_key(name: str) -> bool:
    """Whether a key's value must never be shown: `password`, `refresh_token`, but not `token_expires_s`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().replace("-", "_").split("_")
    return words[-1] in _SECRET_WORDS or "_".join(words) in _SECRET_NAMES or "_".join(words[-2:]) in _SECRET_NAMES


def auth_masked(line: str) -> str:
    """A protocol line with the credentials of an AUTH command, or of a bearer token, masked (RFC 4954 4)."""
    return _BEARER.sub(rf"\1 {MASK}", _AUTH.sub(rf"\1 {MASK}", line))


class Masks:
    """The live secrets. Safe to use from several threads; looking takes no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._filed: dict[int, list[str]] = {}
        self._short: tuple[str, ...] = ()
        self.longest = 0  # of all forms, in characters
        # Short printable texts that were looked at; new sets with each new secret.
        self.harmless: set[str] = set()
        self.passing: set[str] = set()  # those that come in some lines, and never again

    def add(self, secret: str) -> None:
        """Mask `secret` from now on; again: it counts as used. Shorter than MIN_SECRET: not masked by value."""
        if not MIN_SECRET <= len(secret) <= MAX_SECRET:
            return
        with self._lock:
            if secret in self._forms:
                self._forms.move_to_end(secret)
                return
            self._forms[secret] = forms = _forms(secret)
            if len(self._forms) > MAX_SECRETS:
                for _ in range(MAX_SECRETS // 10):  # many at a time: filing all anew takes a while
                    self._forms.popitem(last=False)
                self._refile()
            else:
                self._file(forms)
            self.harmless, self.passing = set(), set()  # whoever looked before it was filed keeps the old ones

    def remove(self, secret: str) -> None:
        """Forget it, as when it was replaced; unknown: nothing happens."""
        with self._lock:
            if self._forms.pop(secret, None) is not None:
                self._refile()

    def _refile(self) -> None:
        self._filed, self._short, self.longest = {}, (), 0
        for forms in self._forms.values():
            self._file(forms)

    def _file(self, forms: tuple[str, ...]) -> None:
        for form in forms:
            self.longest = max(self.longest, len(form))
            octets = form.encode("utf-8", "surrogatepass")
            if len(octets) < _MIN_FILED:
                self._short += (form,)
                continue
            for start in range(_PIECE):
                piece = int.from_bytes(octets[start : start + _PIECE], "little")
                self._filed.setdefault(piece, []).append(form)

    def touches(self, text: str) -> bool:
        """Whether `text` holds a live secret in any form."""
        filed = self._filed
        if not filed and not self._short:
            return False
        pieces = _pieces(text)
        if not filed.keys().isdisjoint(pieces):  # rarely; and then most often a piece by chance
            for piece in pieces:
                if any(form in text for form in filed.get(piece, ())):
                    return True
        return any(form in text for form in self._short) if self._short else False

    def masked(self, text: str, *, words: bool = True) -> str:
        """`text` with every live secret in it, in any of its forms, replaced by MASK.

        `words` False: but for those of letters alone, which a text of ours may have as ordinary words.
        """
        if not self.touches(text):
            return text
        found = {form for form in self._short if form in text}
        for piece in _pieces(text):
            found.update(form for form in self._filed.get(piece, ()) if form in text)
        for form in sorted(found, key=len, reverse=True):
            if words or not (form.isalpha() and form in self._forms):
                text = text.replace(form, MASK)
        return text


def _pieces(text: str) -> tuple[int, ...]:
    octets = text.encode("utf-8", "surrogatepass")
    count = len(octets) // _PIECE
    cut = _CUTS[count] if count < len(_CUTS) else struct.Struct(f"<{count}I")
    return cut.unpack_from(octets)


def _forms(secret: str) -> tuple[str, ...]:
    octets = secret.encode("utf-8", "surrogatepass")
    forms = {secret, octets.hex(), octets.hex().upper(), repr(secret)[1:-1], "\0".join(secret)}
    forms |= {urllib.parse.quote(octets, safe=""), urllib.parse.quote(octets), urllib.parse.quote_plus(octets)}
    forms.add(secret.encode("unicode_escape").decode("ascii"))
    forms.add(secret.replace("\\", "\\\\").replace('"', '\\"'))
    for wide in (octets, secret.encode("utf-16-le", "surrogatepass")):
        for before in range(3):
            text = base64.b64encode(bytes(before) + wide).decode("ascii")
            # Only the characters that no neighbour of the secret has a share in.
            whole = text[-(-before * 8 // 6) : (before + len(wide)) * 8 // 6]
            forms |= {whole, whole.replace("+", "-").replace("/", "_")}
    return tuple(form for form in forms if len(form) >= MIN_SECRET)


LIVE = Masks()


def mask(secret: str) -> None:
    """From now on `secret` does not appear in a log line, whatever key carries it."""
    LIVE.add(secret)


def unmask(secret: str) -> None:
    """`secret` is none any more."""
    LIVE.remove(secret)
