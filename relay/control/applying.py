"""Carries out an accounts file: read, resolve its secrets, then one transaction."""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.errors import BadSetting
from relay.accounts.passwords import hash_password, verify_password
from relay.control.apply import Applied, SecretsUnreadable
from relay.control.context import Control, ControlError
from relay.control.declaration import Declaration, DeclarationRefused, read_declaration
from relay.control.declared_differences import Change, differences
from relay.control.declared_tables import key_of, told
from relay.control.realise import Done, Read, realise
from relay.credentials.references import Reference, ReferenceUnreadable, Resolver
from relay.credentials.secret import Secret
from relay.mail.errors import RelayError

_READ_S = 60.0  # all secrets of a file


async def carry_out(control: Control, path: Path, *, dry_run: bool) -> Applied:
    """See `apply.apply_file`."""
    try:
        declaration = await asyncio.to_thread(read_declaration, path)
    except DeclarationRefused as refused:
        raise refused.as_refusal() from None
    read = await _read(control, declaration)
    try:
        done, changes = await control.database.write(
            partial(_in_transaction, control=control, declaration=declaration, read=read, dry_run=dry_run)
        )
    except _Undone as undone:
        done, changes = undone.done, undone.changes
    except ControlError as refused:
        raise ControlError(f"{path}: {refused.text}", refused.remedy) from None
    if changes and not dry_run:
        await _make_effective(control, done)
    return Applied(path, tuple(changes), done.waiting, _references(declaration))


def _references(declaration: Declaration) -> tuple[Reference, ...]:
    return tuple(reference for _, _, reference in declaration.references())


class _Undone(RelayError):
    """Raised inside the transaction, which undoes it: nothing was to be changed."""

    def __init__(self, done: Done, changes: list[Change]) -> None:
        super().__init__("undone")
        self.done, self.changes = done, changes


def _in_transaction(
    connection: Connection, *, control: Control, declaration: Declaration, read: Read, dry_run: bool
) -> tuple[Done, list[Change]]:
    before = store.load(connection)
    done = realise(connection, control, declaration, read)
    changes = differences(before, store.load(connection), done.secrets)
    if dry_run or not changes:
        raise _Undone(done, changes)
    for change in changes:
        verb = "set" if change.verb == "change" else change.verb
        detail = {"file": str(declaration.path), "fields": change.as_json()["fields"]}
        control.record(connection, f"{change.kind}.{verb}", change.name, detail)
    return done, changes


async def _make_effective(control: Control, done: Done) -> None:
    await control.directory.reload()
    for account_id in done.acted:
        control.logins.renewed(account_id)
        await control.logins.tokens.forget(account_id)
    if control.lanes is not None:
        control.lanes.refresh()
    control.went_on(done.resumed)


async def _read(control: Control, declaration: Declaration) -> Read:
    """Every secret of the file, in a thread; passwords of clients as hashes, those that are right already unchanged."""
    stored = {client.name: client.password_hash for client in control.directory.clients()}
    try:
        async with asyncio.timeout(_READ_S):
            return await asyncio.to_thread(_read_all, declaration, stored)
    except TimeoutError:
        raise SecretsUnreadable(
            f"{declaration.path}: its secrets could not be read within {_READ_S:g} seconds",
            "see to VAULT_ADDR",
            _references(declaration),
        ) from None


def _read_all(declaration: Declaration, stored: Mapping[str, str]) -> Read:
    resolver = Resolver(os.environ)
    where = ""
    secrets: dict[tuple[str, str], Secret] = {}
    hashes: dict[str, str] = {}
    try:
        for account in declaration.accounts:
            for kind, reference in account.secrets.items():
                where = f"accounts.{key_of(account.address)}.{kind}"
                secrets[account.address, kind] = resolver.read(reference)
                if kind == "password":
                    _check_password(secrets[account.address, kind].reveal())
        for client in declaration.clients:
            if client.password is not None:
                name = client.client.name
                where = f"clients.{key_of(name)}.password"
                password = resolver.read(client.password).reveal()
                _check_password(password)
                hashes[name] = _hash(password, stored.get(name, ""))
    except ReferenceUnreadable as error:
        raise SecretsUnreadable(
            f"{declaration.path}: {where}: {error.reference} {error.reason}", error.remedy, _references(declaration)
        ) from None
    except BadSetting as error:
        raise ControlError(f"{declaration.path}: {where}: {told(error).partition('; ')[0]}", error.remedy) from None
    return Read(secrets, hashes)


def _check_password(password: str) -> None:
    """RFC 4616 2; RFC 4013 2.3."""
    if any(unicodedata.category(character) == "Cc" for character in password):
        raise BadSetting("password", "one with a control character or a second line", "put the password alone there")


def _hash(password: str, stored: str) -> str:
    return stored if stored and verify_password(stored, password) else hash_password(password)
