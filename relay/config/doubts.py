"""What the settings allow but nobody should want: a line each at every start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def warnings(settings: RelaySettings) -> list[str]:
    """What is allowed but deserves a line at every start, in the words of an error line."""
    lines = []
    if settings.upstream.tls == "none":
        lines.append(
            f"SMTP_AUTH_TLS: N and SMTP_AUTH_SSL: N: passwords and mail go to {settings.upstream.host} in CLEAR TEXT; "
            "give SMTP_AUTH_TLS=Y"
        )
    if settings.imap.tls == "none":
        lines.append(f"IMAP_TLS: N: passwords go to {settings.imap.host} in CLEAR TEXT; give IMAP_TLS=Y")
    database = settings.database
    if (
        database.postgresql
        and not database.nearby
        and database.parameters.get("sslmode", "verify-full") != "verify-full"
    ):
        lines.append(
            f"RELAY_DATABASE__URL: sslmode={database.parameters['sslmode']}: whoever stands between here and "
            "PostgreSQL can read all mail; give sslmode=verify-full, or leave it out"
        )
    console = settings.console
    encrypted = console.tls_cert is not None or console.url.startswith("https://")
    if console.enabled and console.host.strip("[]") not in _LOOPBACK and not encrypted:
        lines.append(
            f"RELAY_CONSOLE__HOST: {console.host}: logins and passwords reach the console in CLEAR TEXT; give "
            "RELAY_CONSOLE__TLS_CERT, or RELAY_CONSOLE__URL=https://… for a reverse proxy that encrypts"
        )
    for number, door in enumerate(settings.doors):
        name = f"RELAY_LISTENERS[{number}]." if settings.listeners else "RELAY_LISTENER__"
        if door.allow_public and door.host not in _LOOPBACK:
            lines.append(f"{name}ALLOW_PUBLIC: yes: public networks may connect; bind clients to senders")
        if door.host not in _LOOPBACK and all(net.is_loopback for net in door.allowed_networks):
            lines.append(
                f"{name}ALLOWED_NETWORKS: only loopback may connect, though the door is at {door.host}; "
                "add the networks of your applications"
            )
        if door.tls_min in ("1.0", "1.1"):
            lines.append(
                f"{name}TLS_MIN: {door.tls_min}: the door at {door.address} takes broken encryption, for old "
                "printers; let only those in there"
            )
        if door.auth_without_tls and not (door.path or door.host in _LOOPBACK):
            lines.append(
                f"{name}AUTH_WITHOUT_TLS: yes: passwords reach the door at {door.address} in CLEAR TEXT; "
                "give it a certificate"
            )
    return lines
