"""Where the store is: a file of SQLite, or a PostgreSQL database."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from relay.config.fields import ExistingFile, Section
from relay.config.wording import Wrong

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_PARAMETERS = frozenset(  # libpq's (postgresql.org/docs/current/libpq-connect.html) that may stand behind the "?"
    (
        *("host", "hostaddr", "port", "user", "dbname", "passfile", "connect_timeout", "krbsrvname", "gssencmode"),
        *("target_session_attrs", "load_balance_hosts", "channel_binding", "require_auth"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslnegotiation", "ssl_min_protocol_version"),
    )
)
_RIGHT = "give postgresql://user@host/database, or sqlite:///<path>"


class DatabaseSettings(Section):
    """The store. `url` is filled in by RelaySettings when not given: sqlite:///<data dir>/relay.db."""

    url: str = Field(
        default="",
        description="sqlite:///<path>, or postgresql://user@host/database (never with a password in it)",
        json_schema_extra={"default": "sqlite:///<data dir>/relay.db"},
    )
    password_file: ExistingFile | None = Field(
        default=None, description="file that holds the password of PostgreSQL's user (else PGPASSFILE or ~/.pgpass)"
    )

    @property
    def postgresql(self) -> bool:
        """Is the store a PostgreSQL database?"""
        return self.url.startswith(("postgresql:", "postgres:"))

    @property
    def file(self) -> Path:
        """The database file of SQLite, once `url` is filled in."""
        return Path(self.url.removeprefix("sqlite:///"))

    @property
    def parameters(self) -> dict[str, str]:
        """What stands behind the "?" of a PostgreSQL URL."""
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of a PostgreSQL URL, without ports; a folder is one of Unix sockets; empty: the local socket."""
        netloc = urlsplit(self.url).netloc.rpartition("@")[2]
        named = self.parameters.get("host") or netloc
        if "host" in self.parameters:
            return tuple(host for host in named.split(",") if host)
        return tuple(unquote(re.sub(r":\d*$", "", host)).strip("[]") for host in named.split(",") if host)

    @property
    def nearby(self) -> bool:
        """Does the way to PostgreSQL stay on this machine? Then it needs no TLS."""
        return all(host.startswith("/") or _LOOPBACK.fullmatch(host) for host in self.hosts)

    @property
    def shown(self) -> str:
        """The URL as people may see it."""
        if not self.postgresql:
            return self.url
        parts = urlsplit(self.url)
        where = parts.netloc or ",".join(self.hosts)
        return f"postgresql://{where}{parts.path}"

    @field_validator("url")
    @classmethod
    def _supported(cls, url: str) -> str:
        # The value is never shown: it may hold a password.
        scheme, _, rest = url.partition(":")
        if scheme in ("postgresql", "postgres"):
            return _postgresql(url)
        if url and (
            scheme != "sqlite" or not rest.startswith("///") or len(rest) == 3 or ":memory:" in rest or "?" in rest
        ):
            raise Wrong("", f"not the address of a store; {_RIGHT}, or leave it out")
        return url

    @model_validator(mode="after")
    def _together(self) -> DatabaseSettings:
        if self.password_file is not None and not self.postgresql:
            raise Wrong("password_file", "only PostgreSQL has a password; leave it out, or give its URL")
        return self


def _postgresql(url: str) -> str:
    try:
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise Wrong("", f"not a URL; {_RIGHT}") from None
    login = parts.netloc.rpartition("@")[0]
    if ":" in login or "password" in parameters:
        raise Wrong(
            "", "holds a password, which logs and process lists would show; put it into RELAY_DATABASE__PASSWORD_FILE"
        )
    if not (parts.netloc or "host" in parameters) or parts.fragment:
        raise Wrong("", f"names no host; {_RIGHT}")
    if len(parts.path) < 2 and "dbname" not in parameters:
        raise Wrong("", f"names no database; {_RIGHT}")
    unknown = sorted(set(parameters) - _PARAMETERS)
    if unknown:
        raise Wrong("", f"parameter {unknown[0][:40]!r} does not belong into the address of a store; leave it out")
    return url
