"""The options of `relay account add` and `set` for the way out and for the mailbox."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relay.cli.asking import read_password

Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy", metavar="URL|direct", help="Proxy, as http://[LOGIN@]HOST:PORT or socks5://…; direct: none."
    ),
]
ProxyPasswordFile = Annotated[
    str | None,
    typer.Option("--proxy-password-file", metavar="F|-", help="Read the proxy's password from this file, or - ."),
]
SourceAddress = Annotated[
    str | None, typer.Option("--source-address", metavar="IP", help="Address of this machine to connect from.")
]
Ip = Annotated[str | None, typer.Option("--ip", metavar="auto|4|6", help="Version of IP to connect by.")]
ImapHost = Annotated[str | None, typer.Option("--imap-host", help="IMAP server of the mailbox.")]
ImapPort = Annotated[int | None, typer.Option("--imap-port", min=1, max=65535, help="Its port.")]
ImapTls = Annotated[
    str | None, typer.Option("--imap-tls", metavar="implicit|starttls", help="How that connection is encrypted.")
]
ImapLogin = Annotated[str | None, typer.Option("--imap-login", help="User name there, if it is another.")]

Bounces = Annotated[
    str | None,
    typer.Option("--bounces", metavar="inbox|FOLDER|none", help="Folder in which mail that came back is looked for."),
]
SentCopy = Annotated[
    str | None,
    typer.Option("--sent-copy", metavar="auto|yes|no", help="File what was relayed in the mailbox's Sent folder."),
]


def egress_arguments(
    address: str,
    *,
    proxy: str | None,
    proxy_password_file: str | None,
    source_address: str | None,
    ip: str | None,
    imap_host: str | None,
    imap_port: int | None,
    imap_tls: str | None,
    imap_login: str | None,
    bounces: str | None,
    sent_copy: str | None,
) -> dict[str, Any]:
    """What the action is called with."""
    password = None
    if proxy_password_file is not None:
        password = read_password(proxy_password_file, f"the proxy of {address}")
    return {
        "proxy": proxy,
        "proxy_password": password,
        "source_address": source_address,
        "ip": ip,
        "imap_host": imap_host,
        "imap_port": imap_port,
        "imap_tls": imap_tls,
        "imap_login": imap_login,
        "bounces": bounces,
        "sent_copy": sent_copy,
    }
