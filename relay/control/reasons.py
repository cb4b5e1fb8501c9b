"""Turns what the rooms below raise into refusals that name the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relay.accounts.errors import (
    AccountExists,
    AccountInUse,
    AccountNotFound,
    BadSetting,
    ClientExists,
    ClientNotFound,
    LoginTaken,
    NetworkTaken,
    SenderExists,
    SenderNotFound,
)
from relay.accounts.normalise import BadAddress
from relay.control.refusal import ControlError, Kind
from relay.credentials.errors import SecretRefused
from relay.mail.counted import counted
from relay.mail.errors import RelayError

_MAX_SHOWN = 254
_KINDS: dict[type[RelayError], Kind] = dict.fromkeys((AccountNotFound, SenderNotFound, ClientNotFound), "not-found")


def shown(text: object) -> str:
    """A value from outside, fit for one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[:_MAX_SHOWN])


@contextmanager
def refusals() -> Iterator[None]:
    """Within, an error of accounts or credentials becomes a ControlError."""
    try:
        yield
    except (BadAddress, BadSetting, SecretRefused) as error:
        raise _of_value(error) from None
    except RelayError as error:
        reason = _of_register(error)
        if reason is None:
            raise
        raise ControlError(*reason, _KINDS.get(type(error), "conflict")) from None


def _of_value(error: BadAddress | BadSetting | SecretRefused) -> ControlError:
    match error:
        case BadSetting(field=field, value=value, remedy=remedy):
            if value in ("", None):
                return ControlError(f"{field} is missing", remedy, "invalid")
            return ControlError(f"{field} cannot be {shown(value)}", remedy, "invalid")
        case BadAddress(text=text, remedy=remedy):
            return ControlError(f"{shown(text) or 'an empty text'} is not possible here", remedy, "invalid")
        case _:
            remedy = "give the mailbox's password or app password"
            return ControlError(f"the {error.field} {error.reason}", remedy, "invalid")


def _of_register(error: RelayError) -> tuple[str, str] | None:
    """Text and remedy of an error about what is registered; None: it is about something else."""
    match error:
        case AccountExists(address=address):
            return (
                f"there is an account {shown(address)} already",
                "change it with `relay account set` or `set-password`",
            )
        case AccountNotFound(account=account):
            return f"there is no account {shown(account)}", "`relay account list` shows them"
        case AccountInUse(address=address, senders=(), waiting=waiting):
            return (
                f"for {shown(address)} there wait {counted(waiting, 'delivery')}",
                "let them go, remove them (`relay queue remove`), or move their sender to another account",
            )
        case AccountInUse(address=address, senders=senders):
            return (
                f"{', '.join(map(shown, senders[:5]))}{' and more' if len(senders) > 5 else ''} use {shown(address)}",
                "remove these senders first, or give --force",
            )
        case SenderExists(pattern=pattern, account=account):
            return (
                f"{shown(pattern)} goes through {shown(account)} already",
                f"`relay sender remove {shown(pattern)}` first",
            )
        case SenderNotFound(pattern=pattern):
            return f"there is no sender {shown(pattern)}", "`relay sender list` shows them"
        case ClientExists(name=name):
            return f"there is a client {shown(name)} already", f"change it with `relay client set {shown(name)}`"
        case ClientNotFound(name=name):
            return f"there is no client {shown(name)}", "`relay client list` shows them"
        case NetworkTaken(network=network, client=client):
            return f"{shown(network)} belongs to client {shown(client)}", "give each network to one client"
        case LoginTaken(login=login, client=client):
            return f"client {shown(client)} logs in as {shown(login)} already", "give each login to one client"
        case _:
            return None
