"""A store of the first release, with mail in it: this program migrates it and relays what waits."""

from __future__ import annotations

import secrets
import sqlite3
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from relay.database import migration
from relay.database.engine import connect_sqlite
from relay.database.schema import metadata
from relay.mail.ids import IdSource
from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, QUICK, at

MIGRATIONS = Path(migration.__file__).with_name("migrations")
REVISIONS = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("0*.py"))
WIRE = b"Subject: from the first release\r\n\r\nbody\r\n"


def store_of(revision: str, folder: Path) -> sqlite3.Connection:
    """A store as the release with that schema made it, by its own migrations."""
    folder.mkdir(mode=0o700)
    engine = connect_sqlite(folder / "relay.db")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    return sqlite3.connect(folder / "relay.db", isolation_level=None)


def _insert(store: sqlite3.Connection, table: str, **values: object) -> None:
    names = ", ".join(values)
    store.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))


def _first_release(folder: Path) -> None:
    """Two messages that wait, one of them spooled, one in hand of the process that was; and one of history."""
    store = store_of("0001", folder)
    now = int(time.time() * 1000)
    ids = IdSource()
    _insert(store, "accounts", id=1, address=APP, provider="default", auth="password", created_at=now)
    _insert(store, "senders", pattern=APP, account_id=1, created_at=now)
    _insert(store, "clients", name="local", networks='["127.0.0.0/8"]', senders="[]", created_at=now)
    _insert(store, "nodes", id=7, started_at=now, lease_until=now)
    (folder / "keys").mkdir(mode=0o700)
    key = folder / "keys" / "k2026-01-01-0001.key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    (folder / "spool").mkdir(mode=0o700)
    large = WIRE + b"x" * 70_000 + b"\r\n"
    (folder / "spool" / ("ab" * 16)).write_bytes(large)
    for recipient, spool, owner, settled in (
        ("small@example.org", None, None, None),
        ("large@example.org", "ab" * 16, 7, None),
        ("gone@example.org", None, None, now),
    ):
        number = ids.next()
        size = len(large) if spool else len(WIRE)
        _insert(
            store,
            "messages",
            id=number,
            account_id=1,
            reverse_path=APP,
            header_message_id="",
            client="127.0.0.1",
            size=size,
            eight_bit=0,
            smtputf8=0,
            spool=spool,
            accepted_at=now,
        )
        _insert(
            store,
            "deliveries",
            message_id=number,
            number=0,
            recipient=recipient,
            account_id=1,
            due_at=now,
            state="relayed" if settled else "queued",
            attempts=0,
            owner=owner,
            token=1,
            settled_at=settled,
        )
        if spool is None and settled is None:
            _insert(store, "contents", message_id=number, body=WIRE)
    store.close()


async def test_mail_of_the_first_release_is_relayed_by_this_one(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    _first_release(tmp_path / "data")
    authority = tmp_path / "ca.pem"
    upstream.authority.cert_pem.write_to_path(str(authority))
    daemon = RelayDaemon(tmp_path / "data", QUICK)
    await daemon.cli("account", "set", APP, *at(upstream, authority))
    await daemon.cli("account", "set-password", APP, "--password-file", "-", stdin=PASSWORD)
    async with daemon:
        for recipient in ("small@example.org", "large@example.org"):
            await daemon.event("delivery.relayed", recipient=recipient)
        assert len(upstream.messages) == 2
        await daemon.submit(APP, ["new@example.org"], b"Subject: new\r\n\r\nbody\r\n")
        await daemon.event("delivery.relayed", recipient="new@example.org")
        listed = await daemon.cli("client", "list")
        assert "local" in listed.stdout
    assert not list((tmp_path / "data" / "spool").iterdir())


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_schema_there_was_migrates_to_this_one(tmp_path: Path, revision: str) -> None:
    store_of(revision, tmp_path / "data").close()
    engine = connect_sqlite(tmp_path / "data" / "relay.db")
    migration.upgrade(engine)
    assert migration.current(engine) == migration.HEAD
    engine.dispose()


def test_the_migrations_make_the_schema_that_the_program_knows(tmp_path: Path) -> None:
    assert REVISIONS[-1] == migration.HEAD
    store_of("head", tmp_path / "data").close()
    engine = connect_sqlite(tmp_path / "data" / "relay.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    engine.dispose()
