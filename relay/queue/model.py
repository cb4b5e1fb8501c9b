"""Message and delivery as the queue hands them out, and the states a delivery can be in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from relay.mail.content import Content
from relay.mail.dsn import NO_MESSAGE_REQUEST, NO_RECIPIENT_REQUEST, MessageRequest, RecipientRequest


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


class Owed(enum.StrEnum):
    """What is owed once a delivery is settled: a word to its sender (RFC 3464 2.3.3), or a copy for the mailbox."""

    FAILED = "failed"  # it came to nothing
    DELAYED = "delayed"  # it still waits
    RELAYED = "relayed"  # an upstream that tells nobody took it, and the application asked to be told
    COPY = "copy"  # the mailbox's Sent is to have it; once a message, number 0


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
    request: RecipientRequest = NO_RECIPIENT_REQUEST


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
    original_path: str = ""  # as in Arrival
    request: MessageRequest = NO_MESSAGE_REQUEST
    asks: bool = False  # it has a request, or one of its deliveries has
    answer: str = ""  # as in Arrival
    notice: str = ""  # mail of our own: which kind; nothing is ever owed to anybody for it

    def note(self, arrival: Arrival) -> None:
        """Take over what the arrival of this message has and few have; all its deliveries must be here, in order."""
        self.original_path, self.request, self.answer = arrival.original_path, arrival.request, arrival.answer
        self.asks = arrival.request is not NO_MESSAGE_REQUEST or bool(arrival.requests)
        for delivery, request in zip(self.deliveries, arrival.requests, strict=bool(arrival.requests)):
            delivery.request = request


@dataclass(slots=True)  # not frozen: one for each message, at a fifth of the cost
class Arrival:
    """What the front door hands over: an envelope, its content (durable if spooled), and where it routes to.

    Never changed once it is made.
    """

    reverse_path: str
    recipients: tuple[str, ...]  # distinct, at least one
    content: Content
    account_id: int
    header_message_id: str
    client: str
    eight_bit: bool
    smtputf8: bool
    id: int = 0  # from `Queue.new_id` when its content names it already (trace field); 0: the queue makes one
    original_path: str = ""  # of MAIL, where reverse_path is another ("<>": null); "": the same
    request: MessageRequest = NO_MESSAGE_REQUEST
    requests: tuple[RecipientRequest, ...] = ()  # one for each recipient, in their order; empty: none has any
    answer: str = ""  # direct: the application hears the verdict itself; "": queued
    session: int = 0  # in which it came, an id from `Queue.new_id`; 0: in none
    repaired: str = ""  # what was put right in its content, commas between


@dataclass(slots=True)  # not frozen: see Arrival
class AttemptRecord:
    """One attempt at one delivery, for the history. `reply` is one bounded line; `code` 0 means there was none.

    Never changed once it is made.
    """

    outcome: str  # accepted | refused | unreachable | in_doubt
    stage: str
    code: int
    status: str
    reply: str
    cause: str
    elapsed_ms: int


@dataclass(slots=True)  # not frozen: see Arrival
class Settlement:
    """The next state of one claimed delivery. `attempt` is None when nothing was tried (expired while waiting).

    Never changed once it is made.
    """

    delivery: Delivery
    state: State
    due_at: int  # ms since 1970; of no meaning once settled
    attempt: AttemptRecord | None
    possible_duplicate: bool = False
    owes: Owed | None = None  # recorded with the state: whoever reads one finds the other
    copy: bool = False  # relayed for an account whose Sent is to have the message; likewise
