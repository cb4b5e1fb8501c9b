"""The options that `relay account add` and `set` share, and what their actions are called with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from relay.cli.asking import one_line, prompted, read_password, read_text


class AccountOptions(TypedDict, total=False):
    """Each option by the name of what it sets; those for secrets name a file, and end in `_file`."""

    provider: Annotated[str | None, typer.Option("--provider", help="Preset: m365, gmail, … or custom.")]
    host: Annotated[str | None, typer.Option("--host", help="Submission server, instead of the preset's.")]
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Its port.")]
    tls: Annotated[
        str | None, typer.Option("--tls", metavar="starttls|implicit", help="How the connection is encrypted.")
    ]
    trust: Annotated[
        str | None,
        typer.Option("--trust", metavar="CA.pem|sha256:…|name:HOST", help="What its certificate is checked against."),
    ]
    login: Annotated[str | None, typer.Option("--login", help="User name to log in with, instead of the address.")]
    tenant: Annotated[str | None, typer.Option("--tenant", help="Microsoft: the organisation's id or domain.")]
    client_id: Annotated[
        str | None, typer.Option("--client-id", help="Id of your app registration; RELAY_OAUTH__… sets it for all.")
    ]
    cloud: Annotated[str | None, typer.Option("--cloud", metavar="global|gcch|dod|cn", help="Microsoft's cloud.")]
    client_secret_file: Annotated[
        str | None,
        typer.Option(
            "--client-secret-file", metavar="F|-", help="Read the client secret from here; - is standard input."
        ),
    ]
    certificate_file: Annotated[
        str | None,
        typer.Option("--certificate-file", metavar="PEM", help="Client certificate with its key, instead of a secret."),
    ]
    service_account_file: Annotated[
        str | None, typer.Option("--service-account-file", metavar="JSON", help="Key file of a Google service account.")
    ]
    secret_expires: Annotated[
        str | None,
        typer.Option("--secret-expires", metavar="DATE", help="When the client secret ends, like 2027-05-31."),
    ]
    token_url: Annotated[str | None, typer.Option("--token-url", help="Token endpoint of another provider.")]
    authorize_url: Annotated[str | None, typer.Option("--authorize-url", help="Its authorization endpoint.")]
    device_url: Annotated[str | None, typer.Option("--device-url", help="Its device endpoint.")]
    scope: Annotated[str | None, typer.Option("--scope", help="What to ask for, instead of the provider's usual.")]
    max_connections: Annotated[int | None, typer.Option("--max-connections", min=0, help="At a time; 0: no limit.")]
    per_minute: Annotated[int | None, typer.Option("--per-minute", min=0, help="Messages a minute; 0: no limit.")]
    per_day: Annotated[int | None, typer.Option("--per-day", min=0, help="Recipients in 24 hours; 0: no limit.")]
    in_doubt: Annotated[
        str | None,
        typer.Option("--in-doubt", metavar="retry|hold", help="When the reply to the final dot is lost."),
    ]
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy", metavar="URL|direct", help="Proxy, as http://[LOGIN@]HOST:PORT or socks5://…; direct: none."
        ),
    ]
    proxy_password_file: Annotated[
        str | None,
        typer.Option("--proxy-password-file", metavar="F|-", help="Read the proxy's password from this file, or - ."),
    ]
    source_address: Annotated[
        str | None, typer.Option("--source-address", metavar="IP", help="Address of this machine to connect from.")
    ]
    ip: Annotated[str | None, typer.Option("--ip", metavar="auto|4|6", help="Version of IP to connect by.")]
    imap_host: Annotated[str | None, typer.Option("--imap-host", help="IMAP server of the mailbox.")]
    imap_port: Annotated[int | None, typer.Option("--imap-port", min=1, max=65535, help="Its port.")]
    imap_tls: Annotated[
        str | None, typer.Option("--imap-tls", metavar="implicit|starttls", help="How that connection is encrypted.")
    ]
    imap_login: Annotated[str | None, typer.Option("--imap-login", help="User name there, if it is another.")]
    transport: Annotated[
        str | None,
        typer.Option(
            "--transport", metavar="smtp|graph|gmail", help="How mail goes: SMTP, or the provider's HTTP API."
        ),
    ]
    fallback: Annotated[
        str | None,
        typer.Option(
            "--fallback", metavar="none|graph", help="Where to move by itself when the organisation refuses SMTP AUTH."
        ),
    ]
    owner: Annotated[
        str | None,
        typer.Option("--owner", metavar="ADDRESS", help="Who is told about trouble; default: its own address."),
    ]
    null_sender: Annotated[
        bool | None,
        typer.Option(
            "--null-sender/--no-null-sender", help="Its server takes MAIL FROM:<>, as notices should have it."
        ),
    ]
    bounces: Annotated[
        str | None,
        typer.Option(
            "--bounces", metavar="inbox|FOLDER|none", help="Folder in which mail that came back is looked for."
        ),
    ]
    sent_copy: Annotated[
        str | None,
        typer.Option("--sent-copy", metavar="auto|yes|no", help="File what was relayed in the mailbox's Sent folder."),
    ]


def account_arguments(address: str, auth: str | None, given: AccountOptions) -> dict[str, Any]:
    """Fields of `control.account_fields`. Secrets are read from files, standard input or a prompt."""
    secret, certificate = given["client_secret_file"], given["certificate_file"]
    proxy_password, service_account = given["proxy_password_file"], given["service_account_file"]
    fields: dict[str, Any] = {name: value for name, value in given.items() if not name.endswith("_file")}
    fields["trust"] = _trust(given["trust"])
    if proxy_password is not None:
        fields["proxy_password"] = read_password(proxy_password, f"the proxy of {address}")
    if secret is not None:
        fields["client_secret"] = one_line(read_text(secret, "--client-secret-file"))
    elif auth == "oauth-app" and certificate is None and sys.stdin.isatty():
        fields["client_secret"] = one_line(prompted("Client secret (its value, not its id): "))
    if certificate is not None:
        fields["client_certificate"] = read_text(certificate, "--certificate-file")
    if service_account is not None:
        fields["service_account"] = read_text(service_account, "--service-account-file")
    return fields


def _trust(given: str | None) -> str | None:
    """A CA file is named by its full path: the daemon stands in another folder."""
    if given is None or given.lower().startswith(("sha256:", "name:")):
        return given
    path = Path(given).expanduser()
    return str(path.absolute()) if path.is_file() else given
