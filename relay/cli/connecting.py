"""`relay account connect`, and the options by which an account signs in with OAuth."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from relay.cli.account_shown import Address
from relay.cli.output import Json, moment, note, print_json, say
from relay.cli.session import perform
from relay.control.refusal import ControlError

Tenant = Annotated[str | None, typer.Option("--tenant", help="Microsoft: the organisation's id or domain.")]
ClientId = Annotated[
    str | None, typer.Option("--client-id", help="Id of your app registration; RELAY_OAUTH__… sets it for all.")
]
Cloud = Annotated[str | None, typer.Option("--cloud", metavar="global|gcch|dod|cn", help="Microsoft's cloud.")]
ClientSecretFile = Annotated[
    str | None,
    typer.Option("--client-secret-file", metavar="F|-", help="Read the client secret from here; - is standard input."),
]
CertificateFile = Annotated[
    str | None,
    typer.Option("--certificate-file", metavar="PEM", help="Client certificate with its key, instead of a secret."),
]
ServiceAccountFile = Annotated[
    str | None, typer.Option("--service-account-file", metavar="JSON", help="Key file of a Google service account.")
]
SecretExpires = Annotated[
    str | None, typer.Option("--secret-expires", metavar="DATE", help="When the client secret ends, like 2027-05-31.")
]
TokenUrl = Annotated[str | None, typer.Option("--token-url", help="Token endpoint of another provider.")]
AuthorizeUrl = Annotated[str | None, typer.Option("--authorize-url", help="Its authorization endpoint.")]
DeviceUrl = Annotated[str | None, typer.Option("--device-url", help="Its device endpoint.")]
Scope = Annotated[str | None, typer.Option("--scope", help="What to ask for, instead of the provider's usual.")]

_MAX_BYTES = 65_536
_PASTED = 16_384  # characters of an address out of a browser


def oauth_arguments(
    auth: str | None,
    *,
    tenant: str | None,
    client_id: str | None,
    cloud: str | None,
    client_secret_file: str | None,
    certificate_file: str | None,
    service_account_file: str | None,
    secret_expires: str | None,
    token_url: str | None,
    authorize_url: str | None,
    device_url: str | None,
    scope: str | None,
) -> dict[str, Any]:
    """What `account.add` and `account.set` take. Secrets are read from files, standard input or a prompt."""
    secret = None
    if client_secret_file is not None:
        secret = _one_line(_read(client_secret_file, "--client-secret-file"))
    elif auth == "oauth-app" and certificate_file is None and sys.stdin.isatty():
        import getpass

        secret = _one_line(getpass.getpass("Client secret (its value, not its id): "))
    return {
        "tenant": tenant,
        "client_id": client_id,
        "cloud": cloud,
        "token_url": token_url,
        "authorize_url": authorize_url,
        "device_url": device_url,
        "scope": scope,
        "secret_expires": secret_expires,
        "client_secret": secret,
        "client_certificate": _file(certificate_file, "--certificate-file"),
        "service_account": _file(service_account_file, "--service-account-file"),
    }


def connect(
    address: Address,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where the browser comes back to; 0: any free one.")
    ] = 0,
    imap: Annotated[bool, typer.Option("--imap", help="Ask for the right to the mailbox by IMAP, too.")] = False,
    as_json: Json = False,
) -> None:
    """Sign in with OAuth, and wait until it is done. The mail that waits goes on at once.

    Prints a code or a link for whoever owns the mailbox; an app or a service account shows that it gets a token.
    """

    def told(step: Mapping[str, Any]) -> None:
        for line in _instructions(step).splitlines():
            (note if as_json else say)(line)
        if step["step"] == "link" and sys.stdin.isatty():
            threading.Thread(target=_forward_pasted, args=(step["port"],), daemon=True).start()

    result = perform("account.connect", {"account": address, "port": port, "imap": imap}, told)
    if as_json:
        print_json(result)
        return
    say(f"{result['account']} is signed in.")
    if result["token_until"]:
        say(f"Its access token is good until {moment(result['token_until'])}; it is renewed by itself.")
    if not result["proved"]:
        note("The provider could not be asked for a token just now; the relay tries again with the next mail.")
    if result["resumed"]:
        say("It was suspended and goes on now.")
    say(f"Try it: relay account test {result['account']}")


def _instructions(step: Mapping[str, Any]) -> str:
    minutes = max(1, step["expires_in_s"] // 60)
    if step["step"] == "code":
        return (
            f"Open {step['uri']} in any browser, enter the code {step['user_code']} and sign in as the mailbox.\n"
            f"Waiting for it ({minutes} minutes at most) …"
        )
    lines = [f"Open this in a browser and sign in as the mailbox:\n\n{step['url']}\n"]
    if _headless():
        lines.append(
            f"No browser here? On your own computer run first: ssh -L {step['port']}:127.0.0.1:{step['port']} "
            f"{socket.gethostname()}"
        )
        if sys.stdin.isatty():
            lines.append("Or open it there, and paste here the address at which the browser ends up.")
    lines.append(f"Waiting for it ({minutes} minutes at most) …")
    return "\n".join(lines)


def _headless() -> bool:
    if os.environ.get("SSH_CONNECTION"):
        return True
    return sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _forward_pasted(port: int) -> None:
    """Give each pasted address to the listener that waits for the browser; it tells the right one from others."""
    while line := sys.stdin.readline(_PASTED):
        query = urlsplit(line.strip()).query
        if "state=" not in query or not query.isascii() or not query.isprintable() or " " in query:
            note("That is not the address at which the sign-in ended: it begins with http://localhost or 127.0.0.1.")
            continue
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"GET /?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            connection.recv(4096)


def _file(source: str | None, option: str) -> str | None:
    return None if source is None else _read(source, option)


def _read(source: str, option: str) -> str:
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(source).expanduser().open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ControlError(
            f"{option}: the file cannot be read: {error.strerror}", "give a readable file, or -"
        ) from None
    if len(raw) > _MAX_BYTES:
        raise ControlError(f"{option}: the file is longer than 64 KiB", "give the file that holds only this")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ControlError(
            f"{option}: the file is no text", "give it in PEM or JSON form, or the secret alone"
        ) from None


def _one_line(text: str) -> str:
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or not text.isprintable():
        raise ControlError("the client secret is empty, or more than one line", "give the secret's value alone")
    return text
