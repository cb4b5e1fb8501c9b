"""PgBouncer between a node and PostgreSQL: pooled sessions work, pooled transactions are refused at the start."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from relay.config.database import DatabaseSettings
from relay.database.engine import open_store
from relay.database.postgresql.connecting import ServerUnfit
from relay.mail.errors import StorageFailed
from tests.postgresql import server
from tests.store import POSTGRESQL, arrival, name_store, use_engine
from tests.store import open_store as open_queue

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = [pytest.mark.interop, pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")]
LIMIT_S = 20


@asynccontextmanager
async def pooled(folder: Path, mode: str, *more: str) -> AsyncIterator[str]:
    """The URL of a new database of this program's, by a PgBouncer that pools as `mode` says; `more`: lines for it."""
    url = server().fresh()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [
        "[databases]",
        f"* = host=127.0.0.1 port={server().port} user=relay",
        "[pgbouncer]",
        f"pool_mode = {mode}",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        *more,
    ]
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    for above in (folder, *folder.parents[:3]):
        if above.name.startswith(("pytest-", "test_")):
            above.chmod(0o755)  # it gives up being root before it reads its file anew
    user = ["-u", "pgserver"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        *(str(PGBOUNCER), "-q", *user, str(folder / "pgbouncer.ini")), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            while not _listens(port):
                assert process.returncode is None, (await process.communicate())[1]
                await asyncio.sleep(0.02)
        yield url.replace(f":{server().port}/", f":{port}/")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("transaction", ()),
        ("transaction", ("server_round_robin = 1", "min_pool_size = 4")),
        ("statement", ()),
    ],
)
async def test_a_pooler_of_transactions_is_refused_with_the_setting_and_the_remedy(
    mode: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    async with pooled(tmp_path, mode, *more) as url:
        with pytest.raises(ServerUnfit, match=r"pool_mode = session .*\(PgBouncer\)") as refused:
            async with open_store(DatabaseSettings(url=url), tmp_path / "data"):
                pass
        assert "\n" not in str(refused.value)


async def test_a_pooler_of_transactions_that_others_use_is_refused_too(tmp_path: Path) -> None:
    async with pooled(tmp_path, "transaction") as url:
        ending = asyncio.Event()

        def use() -> None:
            with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
                while not ending.is_set():
                    other.execute("SELECT 1")

        users = [asyncio.create_task(asyncio.to_thread(use)) for _ in range(3)]
        try:
            with pytest.raises(ServerUnfit, match="pool_mode = session"):
                async with open_store(DatabaseSettings(url=url), tmp_path / "data"):
                    pass
        finally:
            ending.set()
            await asyncio.gather(*users)


async def test_a_pooler_of_sessions_is_as_good_as_the_server(tmp_path: Path) -> None:
    before = use_engine(POSTGRESQL)
    try:
        async with pooled(tmp_path, "session") as url:
            name_store(tmp_path / "data", url)
            async with open_queue(tmp_path / "data") as store:
                accepted = await store.queue.accept(arrival())
                assert accepted
                shown = await store.database.write(lambda c: c.exec_driver_sql("SHOW lock_timeout").scalar())
                assert shown == "5s", "the settings of a session come through"
    finally:
        use_engine(before)


async def test_a_pooler_without_a_free_connection_is_told_apart_from_one_of_transactions(tmp_path: Path) -> None:
    async with pooled(tmp_path, "session", "default_pool_size = 1", "query_wait_timeout = 2") as url:
        with pytest.raises(StorageFailed, match="query_wait_timeout"):
            async with open_store(DatabaseSettings(url=url), tmp_path / "data", alone=False):
                pass
