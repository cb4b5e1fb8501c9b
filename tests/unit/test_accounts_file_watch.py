"""The accounts file as the daemon keeps it: at the start, and when it, a secret or what waits has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.config.settings import RelaySettings
from relay.control.context import Control, ControlError
from relay.daemon.accounts_file import AccountsFile
from relay.daemon.build import open_control
from tests.store import lay_store

DEADLINE_S = 10.0
TEXT = '[accounts."app@example.com"]\nhost = "mail.example.com"\npassword = { file = "secret" }\n'


@asynccontextmanager
async def opened(folder: Path, text: str = TEXT) -> AsyncIterator[tuple[Control, AccountsFile]]:
    file = folder / "accounts.toml"
    file.write_text(text)
    async with open_control(RelaySettings(data_dir=lay_store(folder / "data"), accounts_file=file)) as control:
        yield control, AccountsFile(lambda: control, look_s=0.01)


async def until(done: Callable[[], bool]) -> None:
    """Wait for a state that has no event of its own, under a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(file: AccountsFile) -> AsyncIterator[None]:
    task = asyncio.create_task(file.watch())
    try:
        yield
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


async def test_a_secret_that_is_not_there_yet_only_delays_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as (control, file):
        await file.start()
        assert control.directory.accounts() == []
        async with watching(file):
            (tmp_path / "secret").write_text("one")
            await until(lambda: len(control.directory.accounts()) == 1)


async def test_a_wrong_file_stops_the_start_and_later_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, "x = 1") as (control, file):
        with pytest.raises(ControlError, match=r"accounts\.toml: x: there is no such key"):
            await file.start()
        async with watching(file):
            (tmp_path / "secret").write_text("one")
            (tmp_path / "accounts.toml").write_text(TEXT)
            await until(lambda: len(control.directory.accounts()) == 1)
            (tmp_path / "accounts.toml").write_text("x = 1 # wrong again")
            (tmp_path / "accounts.toml").write_text(TEXT + 'login = "app"\n')
            await until(lambda: control.directory.accounts()[0].login == "app")


async def test_a_file_that_takes_the_place_of_another_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does it: a symbolic link comes to point to another folder."""
    for name, secret in (("1", "one"), ("2", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secret").write_text(secret)
    (tmp_path / "now").symlink_to("1")
    async with opened(tmp_path, TEXT.replace('"secret"', '"now/secret"')) as (control, file):
        await file.start()
        (account,) = control.directory.accounts()
        async with watching(file):
            (tmp_path / "next").symlink_to("2")
            (tmp_path / "next").rename(tmp_path / "now")
            await until(lambda: control.directory.accounts()[0].revision > account.revision)
        assert await control.vault.fetch(account.id, "password") == "two"
