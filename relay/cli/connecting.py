"""`relay account connect`: sign in with OAuth."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from relay.cli.account_shown import Address
from relay.cli.output import Json, moment, note, print_json, say
from relay.cli.session import perform
from relay.mail.counted import counted

_PASTED = 16_384  # characters of an address out of a browser


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
            f"Waiting for it ({counted(minutes, 'minute')} at most) …"
        )
    lines = [f"Open this in a browser and sign in as the mailbox:\n\n{step['url']}\n"]
    if _headless():
        lines.append(
            f"No browser here? On your own computer run first: ssh -L {step['port']}:127.0.0.1:{step['port']} "
            f"{socket.gethostname()}"
        )
        if sys.stdin.isatty():
            lines.append("Or open it there, and paste here the address at which the browser ends up.")
    lines.append(f"Waiting for it ({counted(minutes, 'minute')} at most) …")
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
