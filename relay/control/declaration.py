"""Reads an accounts file: accounts, senders and clients in TOML, checked by the rules of those who register them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from relay.accounts.client_settings import ClientSettings, checked_client_name
from relay.accounts.clients import made_client
from relay.accounts.errors import BadSetting
from relay.accounts.model import Client, FromPolicy
from relay.accounts.normalise import BadAddress, check_address, normalise, normalise_pattern
from relay.config.regular import open_regular
from relay.control.declared_tables import ACCOUNT, CLIENT, SECRETS, FileTable, key_of, lines_of, told
from relay.control.oauth_settings import SETTINGS
from relay.control.refusal import ControlError
from relay.credentials.references import Reference
from relay.mail.errors import RelayError

_MAX_BYTES = 4 << 20
_MOST_SHOWN = 5
_SOME_HASH = "$argon2id$-"  # stands for the hash of a password that is not read yet


class DeclarationRefused(RelayError):
    """The file cannot be applied: `problems` are lines of the form `table.key: what was wrong; the right form`."""

    def __init__(self, path: Path, problems: Iterable[str]) -> None:
        self.path, self.problems = path, tuple(problems)
        super().__init__("\n".join(f"{path}: {problem}" for problem in self.problems))

    def as_refusal(self) -> ControlError:
        """One line: the first problems, and how many more there are."""
        first, *more = self.problems
        reason, _, remedy = first.partition("; ")
        if more:
            others = "; ".join(more[: _MOST_SHOWN - 1])
            remedy += f" (and {len(more)} more: {others}{'; …' if len(more) >= _MOST_SHOWN else ''})"
        return ControlError(f"{self.path}: {reason}", remedy or "see docs/accounts-file.md")


@dataclass(frozen=True, slots=True)
class DeclaredAccount:
    """`settings` in stored form, only those that are given; `oauth` as `control.oauth_settings` takes it."""

    address: str
    settings: Mapping[str, Any]
    oauth: Mapping[str, str]
    secret_expires: str | None
    secrets: Mapping[str, Reference]  # by kind
    sender: bool  # its address is a sender of it


@dataclass(frozen=True, slots=True)
class DeclaredSender:
    """`account` is the address of one, of this file or made by hand."""

    pattern: str
    account: str
    from_policy: FromPolicy


@dataclass(frozen=True, slots=True)
class DeclaredClient:
    """`client` has no password yet."""

    settings: ClientSettings
    client: Client
    password: Reference | None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole file, checked as far as it can be without the store."""

    path: Path
    accounts: tuple[DeclaredAccount, ...] = ()
    senders: tuple[DeclaredSender, ...] = ()
    clients: tuple[DeclaredClient, ...] = ()

    def references(self) -> Iterator[tuple[str, str, Reference]]:
        """Where the secrets are: table, key, reference."""
        for account in self.accounts:
            for kind, reference in account.secrets.items():
                yield f"accounts.{key_of(account.address)}", kind, reference
        for client in self.clients:
            if client.password is not None:
                yield f"clients.{client.client.name}", "password", client.password


def read_declaration(path: Path) -> Declaration:
    """The file at `path` (absolute), every problem at once. Raises DeclarationRefused."""
    tree = _toml(path)
    try:
        file: Any = FileTable.model_validate(tree)
    except ValidationError as error:
        raise DeclarationRefused(path, lines_of(error)) from None  # the original error would carry values
    problems: list[str] = []
    declaration = Declaration(
        path,
        tuple(_accounts(file.accounts, path.parent, problems)),
        tuple(_senders(file.senders, problems)),
        tuple(_clients(file.clients, path.parent, problems)),
    )
    if problems:
        raise DeclarationRefused(path, problems)
    return declaration


def _toml(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            octets = file.read(_MAX_BYTES + 1)
        if len(octets) > _MAX_BYTES:
            raise DeclarationRefused(path, ["larger than 4 MiB; this is no accounts file"])
        return tomllib.loads(octets.decode())
    except OSError as error:
        raise DeclarationRefused(
            path, [f"cannot be read ({error.strerror}); make it a file that the relay's user may read"]
        ) from None
    except UnicodeDecodeError:
        raise DeclarationRefused(path, ["not UTF-8 text; save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        where = str(error).rpartition("(")[2].rstrip(")")  # the rest may quote what stands there
        raise DeclarationRefused(path, [f"not TOML ({where}); texts need quotes, tables stand in brackets"]) from None


def _accounts(tables: Mapping[str, Any], folder: Path, problems: list[str]) -> Iterator[DeclaredAccount]:
    seen: dict[str, str] = {}
    for key, table in tables.items():
        try:
            address = check_address(key)
        except BadAddress as error:
            problems.append(f"accounts.{key_of(key)}: {told(error)}")
            continue
        other = seen.setdefault(normalise(address), key)
        if other != key:
            problems.append(f"accounts.{key_of(key)}: is the same mailbox as {key_of(other)}; declare it once")
            continue
        secrets = {kind: reference.within(folder) for kind, reference in table.given(SECRETS).items()}
        expires = table.secret_expires or None
        yield DeclaredAccount(address, table.given(ACCOUNT), table.given(SETTINGS), expires, secrets, table.sender)


def _senders(tables: Mapping[str, Any], problems: list[str]) -> Iterator[DeclaredSender]:
    seen: dict[str, str] = {}
    for key, table in tables.items():
        try:
            pattern = normalise_pattern(key)
            account = check_address(table.account)
        except BadAddress as error:
            problems.append(f"senders.{key_of(key)}: {told(error)}")
            continue
        other = seen.setdefault(pattern, key)
        if other != key:
            problems.append(f"senders.{key_of(key)}: is the same as {key_of(other)}; declare it once")
            continue
        yield DeclaredSender(pattern, account, table.from_policy)


def _clients(tables: Mapping[str, Any], folder: Path, problems: list[str]) -> Iterator[DeclaredClient]:
    for key, table in tables.items():
        password = table.password.within(folder) if table.password is not None else None
        settings: Any = table.given(CLIENT)
        shown_hash: Any = {"password_hash": _SOME_HASH} if password is not None else {}
        try:
            client = made_client(checked_client_name(key), now_ms=0, **settings, **shown_hash)
        except (BadSetting, BadAddress) as error:
            problems.append(f"clients.{key_of(key)}: {told(error)}")
            continue
        yield DeclaredClient(settings, client, password)
