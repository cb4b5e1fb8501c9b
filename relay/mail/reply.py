"""An SMTP reply: three-digit code, enhanced status, text (RFC 5321 4.2, RFC 3463)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}")
# What the back door says itself in an upstream's place, whose EHLO or interface says no already, begins so.
_OURS = "(?:(?:Graph|Gmail API): )?not offered: "
_SPOKEN = re.compile(rf"(?!\d{{3}} (?:[245]\.\d{{1,3}}\.\d{{1,3}} )?{_OURS})[2-5]\d\d(?: |\Z)")


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` is "" when the other side gave none.  `text` may hold several lines, joined by "\\n".

    Raises ValueError when the class digits of code and status differ (RFC 2034 4), so that no reply of
    ours can contradict itself; replies of others go through `from_wire`, which drops such a status.
    """

    code: int
    status: str
    text: str

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise ValueError(f"reply code {self.code} is not in 200..599")
        if self.status and (not _STATUS.fullmatch(self.status) or self.status[0] != str(self.code)[0]):
            raise ValueError(f"status {self.status!r} does not fit code {self.code}")

    @classmethod
    def from_wire(cls, code: int, lines: list[str]) -> Reply:
        """Read what an upstream said: the status is taken from the first line and out of every line."""
        match = _STATUS.match(lines[0]) if lines else None
        if match is None or match[0][0] != str(code)[0] or lines[0][match.end() :][:1] not in ("", " "):
            return cls(code, "", "\n".join(lines).strip())
        status = match[0]
        texts = [line.removeprefix(status).removeprefix(" ") for line in lines]
        return cls(code, status, "\n".join(texts).strip())

    @property
    def positive(self) -> bool:
        """2yz or 3yz: the command was taken."""
        return self.code < 400

    @property
    def permanent(self) -> bool:
        """5yz."""
        return self.code >= 500

    def __str__(self) -> str:
        """One line, as people quote it: `550 5.1.1 no such user`."""
        return " ".join(part for part in (str(self.code), self.status, self.text.replace("\n", " ")) if part)

    def to_wire(self) -> bytes:
        """CRLF-ended reply lines; the status on each line (RFC 2034 4). `text` must be printable."""
        status = f"{self.status} " if self.status else ""
        lines = self.text.split("\n") or [""]
        last = len(lines) - 1
        wire = "".join(
            f"{self.code}{' ' if number == last else '-'}{status}{line}\r\n" for number, line in enumerate(lines)
        )
        return wire.encode("utf-8", "replace")


def spoken(quoted: str) -> bool:
    """Did an upstream say this (a reply as `str` has it)? Else it is ours: no code, or an objection of our own."""
    return _SPOKEN.match(quoted) is not None
