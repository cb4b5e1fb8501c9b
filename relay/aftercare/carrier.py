"""Which account carries mail of our own: never one in trouble. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from relay.accounts.model import Account, AccountState
from relay.accounts.normalise import normalise


def carriers(
    accounts: Iterable[Account], *, named: str, near: str, troubled: Callable[[Account], bool]
) -> list[Account]:
    """The accounts that can carry a notice, best first: the `named` one, then those of `near`'s domain, then others.

    `near` is an address; `troubled` says whether an account is in trouble although its state does not say so.
    """
    wanted, domain = normalise(named), normalise(near).rpartition("@")[2]

    def rank(account: Account) -> tuple[int, str]:
        address = normalise(account.address)
        if wanted and address == wanted:
            return 0, address
        return (1 if address.rpartition("@")[2] == domain else 2), address

    return sorted((one for one in accounts if one.state is AccountState.OK and not troubled(one)), key=rank)
