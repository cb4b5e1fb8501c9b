"""Opens connections to PostgreSQL: TLS verified, every wait bounded, the server fit to keep mail."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo

from relay.database.postgresql.faults import said
from relay.database.postgresql.guard import Guard
from relay.mail.errors import RelayError, StorageFailed

if TYPE_CHECKING:
    from relay.config.database import DatabaseSettings

CONNECT_S = 3
OLDEST = 130000  # server_version_num
_LOOKS = 5  # at whose session is whose: others may use the pooler meanwhile
_PROBE_S = 6.0
_BUNDLES = (  # certificates of the system's authorities, where the distributions keep them
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

Driver = psycopg.Connection[Any]


class ServerUnfit(RelayError):
    """The server is not set up to keep mail, or the database not for this program. The text names the remedy."""


class Place:
    """A PostgreSQL database, and how to reach it. `shown` may go to people."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.shown = settings.shown
        self._settings = settings

    def connect(self, *, application: str, session: Mapping[str, str] | None = None) -> Driver:
        """A connection in autocommit mode. Raises StorageFailed; never shows a password. Blocking, a few seconds.

        `session`: settings of the server for it.
        """
        password = self._password()
        secret: dict[str, Any] = {} if password is None else {"password": password}
        try:
            connection = psycopg.connect(self._conninfo(application), autocommit=True, **secret)
        except (psycopg.Error, OSError) as error:
            raise StorageFailed(f"{self.shown}: {said(error)}") from None
        try:
            _apply(connection, {"TimeZone": "UTC"} | dict(session or {}))
        except psycopg.Error as error:
            connection.close()
            raise StorageFailed(f"{self.shown}: {said(error)}") from None
        connection.prepare_threshold, connection.prepared_max = 2, 256
        return connection

    def _conninfo(self, application: str) -> str:
        settings = self._settings
        given = settings.parameters
        ours: dict[str, Any] = {
            "application_name": application,
            "client_encoding": "UTF8",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,  # ms that what was sent may stay unacknowledged
        }
        if "connect_timeout" not in given:
            ours["connect_timeout"] = CONNECT_S
        if not settings.nearby:
            ours.setdefault("sslmode", given.get("sslmode", "verify-full"))
            if "sslrootcert" not in given and ours["sslmode"] in ("verify-full", "verify-ca"):
                ours["sslrootcert"] = _authorities()
        if "target_session_attrs" not in given:
            ours["target_session_attrs"] = "primary"  # of several hosts the one that is no standby
        return make_conninfo(settings.url, **ours)

    def _password(self) -> str | None:
        file = self._settings.password_file
        if file is None:
            return None
        try:
            text = file.read_text("utf-8")
        except OSError as error:
            raise StorageFailed(f"RELAY_DATABASE__PASSWORD_FILE: {file}: {error.strerror}") from None
        return text.rstrip("\r\n")


def _apply(connection: Driver, settings: Mapping[str, str]) -> None:
    """Not as `options` of the connection: poolers refuse those, or forget them without a word."""
    each = ", ".join("set_config(%s, %s, false)" for _ in settings)
    values = [part for pair in settings.items() for part in pair]
    connection.execute(f"SELECT {each}", values, prepare=False)


def _authorities() -> str:
    """The bundle of the system's authorities: the library that comes with the wheel looks for them elsewhere."""
    named = ssl.get_default_verify_paths().cafile
    for path in (named, *_BUNDLES):
        if path and Path(path).is_file():
            return str(path)
    return "system"


def prove(connection: Driver, shown: str) -> None:
    """Refuse a server that would lose mail, or in which mail cannot be written down. Raises ServerUnfit."""
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'), "
        "current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync'), "
        "current_setting('full_page_writes'), pg_is_in_recovery()"
    ).fetchone()
    assert row is not None
    number, version, encoding, synchronous, fsync, full_pages, standby = row
    if number < OLDEST:
        raise ServerUnfit(f"{shown} is PostgreSQL {version}; version {OLDEST // 10000} or newer is needed: upgrade it")
    if encoding != "UTF8":
        raise ServerUnfit(
            f"{shown} has encoding {encoding}; make it anew: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if standby:
        raise ServerUnfit(f"{shown} is a standby, where nothing can be written; name the primary, or all hosts")
    if synchronous not in ("on", "remote_apply", "remote_write"):
        raise ServerUnfit(
            f"{shown} has synchronous_commit={synchronous}: mail would be confirmed before it is safe; "
            "ALTER ROLE … SET synchronous_commit = on (or take the setting out of the server's configuration)"
        )
    if fsync != "on" or full_pages != "on":
        name = "fsync" if fsync != "on" else "full_page_writes"
        raise ServerUnfit(f"{shown} has {name}=off: a power cut would destroy all mail; set it to on")


def prove_sessions(place: Place, guard: Guard) -> None:
    """Refuse a pooler that gives a session away between two transactions. Raises ServerUnfit, StorageFailed.

    Without a pooler no more is done than to look at the number of the server's process.
    """
    connection = place.connect(application="relay probe")
    try:
        with guard.limit(connection, _PROBE_S):
            if _pid(connection) == connection.info.backend_pid:  # a pooler tells its clients other numbers
                return
            beside = place.connect(application="relay probe")
            with contextlib.closing(beside), guard.limit(beside, _PROBE_S):
                kept = all(_keeps_session(connection, beside) for _ in range(_LOOKS))
    except psycopg.Error as error:
        if "pooling mode" not in str(error):  # as one says that takes no transaction of several statements
            raise StorageFailed(f"{place.shown}: {said(error)}") from None
        kept = False
    finally:
        connection.close()
    if not kept:
        raise ServerUnfit(
            f"{place.shown} is a pooler that gives a session to others between two transactions, and with it its "
            "locks, prepared statements and LISTEN: set pool_mode = session for this database (PgBouncer), or name "
            "the server itself"
        )


def _keeps_session(connection: Driver, beside: Driver) -> bool:
    """Is the server's process still ours while another connection is busy, and did that not get it?"""
    own = _pid(connection)
    beside.execute("BEGIN", prepare=False)
    kept = _pid(beside) != own and _pid(connection) == own
    beside.execute("ROLLBACK", prepare=False)
    return kept


def _pid(connection: Driver) -> int:
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    assert row is not None
    return int(row[0])
