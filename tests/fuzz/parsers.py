"""Fuzzes what reads octets of strangers without a socket: addresses, header surgery, authors, re-encoding.

    python -m tests.fuzz.parsers --seconds 3600 --seed 1

What must hold: nothing is raised but what is declared; what a tolerant reader of addresses gives back, a strict one
takes as it is; the result of a content does not depend on how it was cut; it is in wire form, begins with our trace
field, names no blind copy, and its body is untouched unless it was re-encoded; no case takes longer than a second.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from random import Random

from relay.mail.address import Malformed, parse_mail, parse_rcpt
from relay.mail.author import AuthorRefused, Authors
from relay.mail.canonical import Canonicaliser
from relay.mail.care import Care
from relay.mail.errors import RelayError
from relay.mail.header import HeaderSurgeon, HeaderTooLarge, MailLoop, Trace
from relay.mail.reencode import Reencoder
from relay.mail.reply import Reply
from relay.mail.tolerance import DEFAULT, SWITCHES, Tolerance
from tests.fuzz.grammar import argument, content, cut, mutated
from tests.fuzz.listener import Finding

SLOW_S = 1.0
TRACE = Trace("0123456789abc", "relay.example", "i-1", "app", "127.0.0.1", "ESMTP", "app@example.com", None, 1e9)
_REFUSAL = Reply(550, "5.7.1", "no")
_UNSOUND = re.compile(rb"\r(?!\n)|(?<!\r)\n|(?:\A|\r\n)\.(?!\.)")
_BLIND = re.compile(rb"^(?:resent-)?bcc[ \t]*:", re.M | re.I)
_RELAYING = re.compile(r"[%!@]")


@dataclass
class Figures:
    """Of a run."""

    seconds: float = 0.0
    arguments: int = 0
    taken: int = 0
    contents: int = 0
    refused: int = 0
    rewritten: int = 0
    reencoded: int = 0
    slowest_ms: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.arguments} arguments ({self.taken} taken), {self.contents} contents ({self.refused} refused, "
            f"{self.rewritten} with a new author, {self.reencoded} re-encoded) in {self.seconds:.0f} s; "
            f"slowest {self.slowest_ms:.0f} ms"
        )


def fuzz(seconds: float, seed: int) -> Figures:
    """Cases until the time is over. Raises Finding, which names the case that shows it."""
    figures, started = Figures(), time.monotonic()
    number = 0
    while (now := time.monotonic()) < started + seconds:
        chance = Random(f"{seed}/{number}")  # so that one alone can be repeated
        try:
            one_case(chance, figures)
        except Exception as error:
            raise Finding(f"seed {seed}, case {number}: {error!r}") from error
        elapsed = time.monotonic() - now
        if elapsed > SLOW_S:
            raise Finding(f"seed {seed}, case {number}: took {elapsed:.1f} s")
        figures.slowest_ms = max(figures.slowest_ms, elapsed * 1000)
        number += 1
    figures.seconds = time.monotonic() - started
    return figures


def one_case(chance: Random, figures: Figures) -> None:
    """Ten arguments and a content. Raises Finding, or whatever should not have been raised."""
    for _ in range(10):
        _argument(chance, figures)
    _content(chance, figures)


def _tolerance(chance: Random) -> Tolerance:
    kind = chance.randrange(4)
    if kind == 0:
        return DEFAULT
    return frozenset(name for name in SWITCHES if kind == 1 or (kind == 2 and chance.random() < 0.5))


def _argument(chance: Random, figures: Figures) -> None:
    mail, tolerance = chance.random() < 0.5, _tolerance(chance)
    said = argument(chance, b"FROM:" if mail else b"TO:")
    if chance.random() < 0.7:
        said = mutated(chance, said)
    said = said[:2048]
    extended, wide = chance.random() < 0.8, chance.random() < 0.5
    figures.arguments += 1
    try:
        if mail:
            found = parse_mail(said, extended=extended, tolerance=tolerance)
            address, wide = found.address, found.smtputf8
        else:
            address = parse_rcpt(said, smtputf8=wide, extended=extended, tolerance=tolerance).address
            if "bare-recipients" in tolerance and _has_no_domain(address):
                address += "@corp.example"
    except Malformed as malformed:
        if len(malformed.detail) > 80 or not malformed.detail.isprintable():
            raise Finding(f"detail {malformed.detail!r} of {said!r}") from None
        return
    figures.taken += 1
    _is_strict(address, said, mail=mail, wide=wide)


def _is_strict(address: str, said: bytes, *, mail: bool, wide: bool) -> None:
    """What `said` was read as is one address for everybody."""
    try:
        if mail:
            again = f"FROM:<{address}>{' SMTPUTF8' if wide else ''}".encode()
            strict = parse_mail(again, tolerance=frozenset()).address
        else:
            strict = parse_rcpt(f"TO:<{address}>".encode(), smtputf8=wide, tolerance=frozenset()).address
            _no_relaying(strict, said)
    except Malformed as malformed:
        raise Finding(f"{said!r} is taken as {address!r}, which is not strict: {malformed}") from None
    if address != strict or not address.isprintable():
        raise Finding(f"{said!r} reads as {address!r}, strictly as {strict!r}")


def _has_no_domain(address: str) -> bool:
    return "@" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", address)


def _no_relaying(address: str, said: bytes) -> None:
    local, _, domain = address.rpartition("@")
    if _RELAYING.search(local) or domain.startswith("[") or not domain:
        raise Finding(f"{said!r} asks to relay: {address!r}")


def _content(chance: Random, figures: Figures) -> None:
    said = content(chance)
    if chance.random() < 0.7:
        said = mutated(chance, said)
    said = said.replace(b"\r\n.\r\n", b"\r\n.:\r\n") + b"\r\n.\r\n"
    if said.startswith(b".\r\n"):
        said = b":" + said
    wire = _canonical([said])
    if wire != _canonical(cut(chance, said)) or _UNSOUND.search(wire):
        raise Finding(f"the wire form of {said!r}")
    figures.contents += 1
    judged: list[Authors] = []
    care = _care(chance, judged)
    whole = _operated([wire], care)
    calls = len(judged)
    parts = _operated(cut(chance, wire), care)
    if whole != parts:
        raise Finding(f"depends on the cuts: {whole!r} or {parts!r} with {care} of {wire!r}")
    if care is not None and care.judge is not None and calls > 1:
        raise Finding(f"judged {calls} times: {wire!r}")
    if isinstance(whole, str):
        figures.refused += 1
        return
    figures.rewritten += b"\r\nX-Original-From:" in whole
    _sound(whole, wire, care)
    _reencoded(chance, whole, figures)


def _canonical(chunks: list[bytes]) -> bytes:
    canonical = Canonicaliser()
    return b"".join(canonical.feed(chunk) for chunk in chunks if not canonical.ended)


def _care(chance: Random, judged: list[Authors]) -> Care | None:
    if chance.random() < 0.2:
        return None
    verdict = chance.choice((None, None, "app@example.com", "refuse"))

    def judge(authors: Authors) -> str | None:
        judged.append(authors)
        for address in (*authors.addresses, authors.sender):
            if address and (not address.isprintable() or "@" not in address or re.search(r"[<>,;\s]$", address)):
                raise Finding(f"an author that is none: {address!r}")
        if verdict == "refuse":
            raise AuthorRefused(_REFUSAL)
        return verdict

    captured = ("ann@example.org",) * chance.choice((0, 0, 1, 150))
    return Care(_tolerance(chance), chance.choice(("", "iso-8859-1", "utf-8")), captured, judge)


def _operated(chunks: list[bytes], care: Care | None) -> bytes | str:
    """What comes out; or the name of what was raised."""
    surgeon = HeaderSurgeon(TRACE, care)
    try:
        return b"".join([*(surgeon.feed(chunk) for chunk in chunks), surgeon.finish()])
    except (HeaderTooLarge, MailLoop, AuthorRefused) as error:
        return type(error).__name__


def _sound(result: bytes, wire: bytes, care: Care | None) -> None:
    if not result.startswith(b"Received: from "):
        raise Finding(f"no trace field: {result[:200]!r}")
    if _UNSOUND.search(result):
        raise Finding(f"not in wire form, with {care}: {result!r} of {wire!r}")
    section, separator, body = result.partition(b"\r\n\r\n")
    if _BLIND.search(section):
        raise Finding(f"a blind copy, with {care}: {section!r}")
    if separator and body and not wire.endswith(body):
        raise Finding(f"another body, with {care}: {body!r} of {wire!r}")


def _reencoded(chance: Random, wire: bytes, figures: Figures) -> None:
    results = []
    for chunks in ([wire], cut(chance, wire)):
        encoder = Reencoder(charset="iso-8859-1")
        try:
            results.append(b"".join([*(encoder.feed(chunk) for chunk in chunks), encoder.finish()]))
        except RelayError as error:
            raise Finding(f"re-encoding raises {error!r}: {wire!r}") from error
    if results[0] != results[1]:
        raise Finding(f"re-encoding depends on the cuts: {wire!r}")
    if _UNSOUND.search(results[0]):
        raise Finding(f"re-encoded, not in wire form: {results[0]!r} of {wire!r}")
    if encoder.untouchable and results[0] != wire:
        raise Finding(f"touched, although {encoder.untouchable}: {wire!r}")
    figures.reencoded += results[0] != wire


def main() -> int:
    """Exit status 1 when something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        print(fuzz(arguments.seconds, arguments.seed))
    except Finding as finding:
        print(f"FOUND {finding}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
