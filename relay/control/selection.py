"""Which deliveries an operator means: filters of commands as conditions on the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, and_, exists, func, or_, select, true

from relay.control.context import Control, ControlError, now_ms
from relay.control.moments import moment_ms
from relay.database.schema import deliveries, messages, returned
from relay.mail.ids import first_id_at, format_id, parse_id
from relay.queue.model import SETTLED, State

RETURNED = "returned"  # beside the states: relayed, and it came back
FILTERS = ("account", "state", "sender", "recipient", "client", "older_than")


@dataclass(frozen=True, slots=True)
class Selection:
    """`of_delivery` has conditions on `deliveries` alone, `of_message` on `messages` alone. `given`: the filters."""

    of_delivery: ColumnElement[bool]
    of_message: ColumnElement[bool]
    given: Mapping[str, str]
    settled: bool  # what is done, instead of what is owed

    @property
    def counted(self) -> bool:
        """Nothing is asked for but what the index of owed deliveries holds."""
        return not self.settled and self.given.keys() <= {"account", "state"}

    @property
    def of_messages(self) -> bool:
        """Something is asked of `messages`."""
        return bool(self.given.keys() & {"sender", "client", "older_than"})

    @property
    def condition(self) -> ColumnElement[bool]:
        """Both, for a join of the two tables."""
        return and_(self.of_delivery, self.of_message)


def select_by(
    control: Control,
    *,
    account: str | None = None,
    state: str | None = None,
    sender: str | None = None,
    recipient: str | None = None,
    client: str | None = None,
    older_than: str | None = None,
) -> Selection:
    """The deliveries that fit all that is given; without `state` those that are owed.

    `sender`, `recipient`: an address, `@domain`, `<>`, or with `*` for anything.  `client`: the name of a client entry,
    or the address of an application that has none.  `older_than`: an age such as 2h.

    Refused: no such account, state, or age.
    """
    filters = {"account": account, "state": state, "sender": sender, "recipient": recipient, "client": client}
    given = {name: value for name, value in (filters | {"older_than": older_than}).items() if value is not None}
    of_delivery: list[ColumnElement[bool]] = [true()]
    of_message: list[ColumnElement[bool]] = [true()]
    returns = state is not None and state.lower() == RETURNED
    wanted = State.RELAYED if returns else state_named(state) if state is not None else None
    settled = wanted in SETTLED
    if wanted is not None:
        of_delivery.append(deliveries.c.state == wanted.value)
    if returns:
        of_delivery.append(came_back())
    if not settled:
        of_delivery.append(deliveries.c.settled_at.is_(None))
    if account is not None:
        of_delivery.append(deliveries.c.account_id == account_id_named(control, account))
    if recipient is not None:
        of_delivery.append(fits(deliveries.c.recipient, recipient))
    if sender is not None:
        of_message.append(fits(messages.c.reverse_path, sender))
    if client is not None:
        of_message.append(fits(messages.c.client, client))
    if older_than is not None:
        before = moment_ms(older_than, now_ms(), "--older-than")
        of_message.append(messages.c.accepted_at < before)
        of_delivery.append(deliveries.c.message_id < first_id_at(before + _AHEAD_MS))
    return Selection(and_(*of_delivery), and_(*of_message), given, settled)


def came_back() -> ColumnElement[bool]:
    """Of `deliveries`: a notification said that it came to nothing after all."""
    back = returned.alias()  # the list has the table itself
    of_it = and_(back.c.message_id == deliveries.c.message_id, back.c.number == deliveries.c.number)
    return exists(select(back.c.id).where(of_it).correlate(deliveries))


_AHEAD_MS = 3_600_000  # ids run ahead of a clock that was set back: an hour of that is allowed for


def account_id_named(control: Control, address: str) -> int:
    """The id of the account of that address. Refused when there is none."""
    account = control.directory.by_address(address)
    if account is None:
        raise ControlError(f"there is no account {shown(address)}", "`relay account list` shows them")
    return account.id


def state_named(text: str) -> State:
    """The state of that name. Refused when there is none."""
    try:
        return State(text.lower().replace("-", "_"))
    except ValueError:
        known = ", ".join([*(state.value for state in State), RETURNED])
        raise ControlError("there is no such state", f"give one of {known}") from None


def shown(text: str) -> str:
    """A value from outside, fit for one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:254])


def place(message_id: int, number: int) -> str:
    """Where a delivery stands in a list, for `after`: `<id>/<number>`."""
    return f"{format_id(message_id)}/{number}"


def beyond(after: str, *, latest_first: bool) -> ColumnElement[bool]:
    """What comes behind that place. Refused when it is none."""
    text, _, digits = after.partition("/")
    number = parse_id(text)
    if number is None or not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise ControlError("--after is no place in the list", "give what the list before it said")
    if latest_first:
        return or_(
            deliveries.c.message_id < number,
            and_(deliveries.c.message_id == number, deliveries.c.number < int(digits)),
        )
    return or_(
        deliveries.c.message_id > number,
        and_(deliveries.c.message_id == number, deliveries.c.number > int(digits)),
    )


def fits(column: Column[Any], text: str) -> ColumnElement[bool]:
    """An address or a pattern, in any case."""
    text = text.strip().lower()
    if text == "<>":
        return column == ""
    if text.startswith("@"):
        text = f"*{text}"
    if "*" not in text:
        return func.lower(column) == text
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
    return func.lower(column).like(escaped, escape="\\")
