"""What a reply or a failure means: the catalogue's entry for it, and the diagnosis made of one at a stage."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Class = Literal[
    "permanent-auth",
    "tenant-config",
    "throttled",
    "sender-not-allowed",
    "recipient",
    "content-size",
    "tls-network",
    "quota",
    "transient",
    "protocol",
]
Scope = Literal["recipient", "message", "account", "upstream"]


class Who(enum.StrEnum):
    """Who must act: the `owner` of the mailbox, the `administrator` of its organisation or of the relay, the `author`
    of the message; `provider`: nobody here, it passes by itself."""

    OWNER = "owner"
    ADMINISTRATOR = "administrator"
    PROVIDER = "provider"
    AUTHOR = "author"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the catalogue as written, before anything is known of the stage it is met at.

    `code` is three digits, `4yz` or `5yz`; `stage` is where the reply usually comes: connect, auth, mail, rcpt, data,
    any.  `pattern` is searched in "<code> <text>", ignoring case, "." matching line ends; empty for conditions,
    which have no reply.
    """

    id: str
    provider: str
    code: str
    enhanced: str
    stage: str
    cls: Class
    retry: bool
    pause: bool
    cause: str
    remedy: tuple[str, ...]
    pattern: str = ""
    sample: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What an outcome means, for the verdict and for people.

    `scope`: what is at fault, and so how far the trouble reaches.
    `retry`, `pause`: no, no: the recipient (or message) is returned; yes, no: it alone is tried again later;
    yes, yes: the account rests and keeps its queue; no, yes: the account stops until a person acts, keeps its queue.
    `pause_for_s`: seconds to wait at the first such failure, longer at each further one: of the account's lane when
    `pause`, otherwise of the delivery alone.  None: the usual back-off.
    `remedy`: steps in order, for numbering.
    """

    id: str
    provider: str
    cls: Class
    scope: Scope
    retry: bool
    pause: bool
    pause_for_s: int | None
    cause: str
    remedy: tuple[str, ...]
    who: Who
