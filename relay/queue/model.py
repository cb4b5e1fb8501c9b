"""Message and delivery as the queue hands them out, and the states a delivery can be in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from relay.mail.content import Content


class State(enum.StrEnum):
    """The life of a delivery: queued -> active -> relayed | deferred -> ... | bounced | held | expired."""

    QUEUED = "queued"  # never tried yet
    ACTIVE = "active"  # in an attempt right now; kept in memory, durable only as `owner`
    DEFERRED = "deferred"  # tried, to be tried again at `due_at`
    IN_DOUBT = "in_doubt"  # the upstream may have it; tried again at `due_at`
    HELD = "held"  # waits for an operator
    RELAYED = "relayed"  # an upstream took it
    BOUNCED = "bounced"  # refused for good
    EXPIRED = "expired"  # lifetime over
    REMOVED = "removed"  # by an operator


SETTLED = frozenset({State.RELAYED, State.BOUNCED, State.EXPIRED, State.REMOVED})


@dataclass(slots=True)
class Delivery:
    """One recipient we still owe. `token` fences off a node that lost its lease: a late write changes nothing."""

    number: int
    recipient: str
    state: State
    due_at: int  # ms since 1970
    attempts: int
    token: int
    possible_duplicate: bool = False


@dataclass(slots=True)
class Message:
    """An accepted message with those of its deliveries that this node has claimed.

    Times are milliseconds since 1970, UTC.  `content.inline` may be None for a message read back from the
    store with its content evicted: `Queue.load` fetches it.
    """

    id: int
    account_id: int
    reverse_path: str  # "": null
    header_message_id: str
    client: str
    content: Content
    eight_bit: bool
    smtputf8: bool
    accepted_at: int
    deliveries: list[Delivery] = field(default_factory=list)
    held_bytes: int = 0  # its share of the memory budget
    moved: bool = False  # to another lane since it was claimed


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the front door hands over: an envelope, its content (durable if spooled), and where it routes to."""

    reverse_path: str
    recipients: tuple[str, ...]  # distinct, at least one
    content: Content
    account_id: int
    header_message_id: str
    client: str
    eight_bit: bool
    smtputf8: bool
    id: int = 0  # from `Queue.new_id` when its content names it already (trace field); 0: the queue makes one


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt at one delivery, for the history. `reply` is one bounded line; `code` 0 means there was none."""

    outcome: str  # accepted | refused | unreachable | in_doubt
    stage: str
    code: int
    status: str
    reply: str
    cause: str
    elapsed_ms: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """The next state of one claimed delivery. `attempt` is None when nothing was tried (expired while waiting)."""

    delivery: Delivery
    state: State
    due_at: int  # ms since 1970; of no meaning once settled
    attempt: AttemptRecord | None
    possible_duplicate: bool = False
