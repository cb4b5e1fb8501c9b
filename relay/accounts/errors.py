"""Why an account, sender or client could not be registered, changed or removed. Data; `control` makes sentences."""

from __future__ import annotations

from relay.mail.errors import RelayError


class AccountExists(RelayError):
    """An account of this address (by the rule of docs/address-rules.md) is there already."""

    def __init__(self, address: str, account_id: int) -> None:
        super().__init__(f"account {address} exists")
        self.address, self.account_id = address, account_id


class AccountNotFound(RelayError):
    """`account` is the id or the address that was asked for."""

    def __init__(self, account: int | str) -> None:
        super().__init__(f"no account {account}")
        self.account = account


class AccountInUse(RelayError):
    """Senders route to the account, or deliveries wait in its queue."""

    def __init__(self, address: str, senders: tuple[str, ...], waiting: int) -> None:
        super().__init__(f"account {address} has {len(senders)} senders and {waiting} waiting deliveries")
        self.address, self.senders, self.waiting = address, senders, waiting


class SenderExists(RelayError):
    """The pattern routes to `account` already."""

    def __init__(self, pattern: str, account: str) -> None:
        super().__init__(f"sender {pattern} exists, for account {account}")
        self.pattern, self.account = pattern, account


class SenderNotFound(RelayError):
    """No such pattern is registered; `pattern` is in its stored form."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"no sender {pattern}")
        self.pattern = pattern


class ClientExists(RelayError):
    """A client entry of that name is there already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"client {name} exists")
        self.name = name


class ClientNotFound(RelayError):
    """No client entry has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no client {name}")
        self.name = name


class NetworkTaken(RelayError):
    """Exactly this network belongs to another client entry, so that nobody could say which of the two applies."""

    def __init__(self, network: str, client: str) -> None:
        super().__init__(f"network {network} belongs to client {client}")
        self.network, self.client = network, client


class LoginTaken(RelayError):
    """Another client entry logs in with this name."""

    def __init__(self, login: str, client: str) -> None:
        super().__init__(f"login {login} belongs to client {client}")
        self.login, self.client = login, client


class BadSetting(RelayError):
    """A value that cannot be. `field` is the setting, `remedy` the right form; the value is never a secret."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field} {str(value)[:256]!r}: {remedy}")
        self.field, self.value, self.remedy = field, value, remedy
