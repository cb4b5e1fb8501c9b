"""`relay account …`: mailboxes at providers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.accounts.advice import BY_ITSELF
from relay.cli.account_shown import Address, list_, show, where
from relay.cli.asking import PasswordFile, read_password
from relay.cli.connecting import (
    AuthorizeUrl,
    CertificateFile,
    ClientId,
    ClientSecretFile,
    Cloud,
    DeviceUrl,
    Scope,
    SecretExpires,
    ServiceAccountFile,
    Tenant,
    TokenUrl,
    connect,
    oauth_arguments,
)
from relay.cli.egress_options import (
    Bounces,
    ImapHost,
    ImapLogin,
    ImapPort,
    ImapTls,
    Ip,
    Proxy,
    ProxyPasswordFile,
    SentCopy,
    SourceAddress,
    egress_arguments,
)
from relay.cli.output import Json, complain, note, print_json, say, steps
from relay.cli.session import perform
from relay.control.refusal import ControlError

Provider = Annotated[str | None, typer.Option("--provider", help="Preset: m365, gmail, … or custom.")]
Host = Annotated[str | None, typer.Option("--host", help="Submission server, instead of the preset's.")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Its port.")]
Tls = Annotated[str | None, typer.Option("--tls", metavar="starttls|implicit", help="How the connection is encrypted.")]
Trust = Annotated[
    str | None,
    typer.Option("--trust", metavar="CA.pem|sha256:…|name:HOST", help="What its certificate is checked against."),
]
Login = Annotated[str | None, typer.Option("--login", help="User name to log in with, instead of the address.")]
MaxConnections = Annotated[int | None, typer.Option("--max-connections", min=0, help="At a time; 0: no limit.")]
PerMinute = Annotated[int | None, typer.Option("--per-minute", min=0, help="Messages a minute; 0: no limit.")]
PerDay = Annotated[int | None, typer.Option("--per-day", min=0, help="Recipients in 24 hours; 0: no limit.")]
_AUTH = typer.Option(
    "--auth",
    metavar="password|oauth-code|oauth-device|oauth-app|service-account|none",
    help="How to log in; none: the server asks for no login.",
)
InDoubt = Annotated[
    str | None,
    typer.Option("--in-doubt", metavar="retry|hold", help="When the reply to the final dot is lost."),
]

Transport = Annotated[
    str | None,
    typer.Option("--transport", metavar="smtp|graph|gmail", help="How mail goes: SMTP, or the provider's HTTP API."),
]
Fallback = Annotated[
    str | None,
    typer.Option(
        "--fallback", metavar="none|graph", help="Where to move by itself when the organisation refuses SMTP AUTH."
    ),
]
Owner = Annotated[
    str | None, typer.Option("--owner", metavar="ADDRESS", help="Who is told about trouble; default: its own address.")
]
NullSender = Annotated[
    bool | None,
    typer.Option("--null-sender/--no-null-sender", help="Its server takes MAIL FROM:<>, as notices should have it."),
]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("add", epilog="Example: relay account add billing@example.com --provider m365")(add)
    group.command("set", epilog="Example: relay account set billing@example.com --per-minute 20 --default host")(change)
    group.command("list", epilog="Example: relay account list")(list_)
    group.command("show", epilog="Example: relay account show billing@example.com")(show)
    group.command("test", epilog="Example: relay account test billing@example.com --to me@example.com")(try_mail)
    group.command("set-password", epilog="Example: relay account set-password billing@example.com --password-file -")(
        set_password
    )
    group.command("connect", epilog="Example: relay account connect billing@example.com")(connect)
    group.command("suspend", epilog="Example: relay account suspend billing@example.com")(suspend)
    group.command("resume", epilog="Example: relay account resume billing@example.com")(resume)
    group.command("remove", epilog="Example: relay account remove billing@example.com")(remove)


def add(
    address: Address,
    provider: Provider = None,
    host: Host = None,
    port: Port = None,
    tls: Tls = None,
    trust: Trust = None,
    login: Login = None,
    auth: Annotated[str, _AUTH] = "password",
    password_file: PasswordFile = None,
    tenant: Tenant = None,
    client_id: ClientId = None,
    cloud: Cloud = None,
    client_secret_file: ClientSecretFile = None,
    certificate_file: CertificateFile = None,
    service_account_file: ServiceAccountFile = None,
    secret_expires: SecretExpires = None,
    token_url: TokenUrl = None,
    authorize_url: AuthorizeUrl = None,
    device_url: DeviceUrl = None,
    scope: Scope = None,
    max_connections: MaxConnections = None,
    per_minute: PerMinute = None,
    per_day: PerDay = None,
    in_doubt: InDoubt = None,
    proxy: Proxy = None,
    proxy_password_file: ProxyPasswordFile = None,
    source_address: SourceAddress = None,
    ip: Ip = None,
    imap_host: ImapHost = None,
    imap_port: ImapPort = None,
    imap_tls: ImapTls = None,
    imap_login: ImapLogin = None,
    transport: Transport = None,
    fallback: Fallback = None,
    owner: Owner = None,
    null_sender: NullSender = None,
    bounces: Bounces = None,
    sent_copy: SentCopy = None,
    sender: Annotated[
        bool, typer.Option("--sender/--no-sender", help="Register the address as a sender of this account, too.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Add an account. Secrets come from a prompt, a file or standard input, never from the command line."""
    arguments: dict[str, Any] = {
        "address": address,
        "provider": provider,
        "host": host,
        "port": port,
        "tls": tls,
        "trust": _trust(trust),
        "login": login,
        "auth": auth,
        "max_connections": max_connections,
        "per_minute": per_minute,
        "per_day": per_day,
        "in_doubt": in_doubt,
        "transport": transport,
        "fallback": fallback,
        "owner": owner,
        "null_sender": null_sender,
        "sender": sender,
    }
    arguments |= oauth_arguments(
        auth,
        tenant=tenant,
        client_id=client_id,
        cloud=cloud,
        client_secret_file=client_secret_file,
        certificate_file=certificate_file,
        service_account_file=service_account_file,
        secret_expires=secret_expires,
        token_url=token_url,
        authorize_url=authorize_url,
        device_url=device_url,
        scope=scope,
    )
    arguments |= egress_arguments(
        address,
        proxy=proxy,
        proxy_password_file=proxy_password_file,
        source_address=source_address,
        ip=ip,
        imap_host=imap_host,
        imap_port=imap_port,
        imap_tls=imap_tls,
        imap_login=imap_login,
        bounces=bounces,
        sent_copy=sent_copy,
    )
    if auth == "password":
        arguments["password"] = read_password(password_file, address)
    elif password_file is not None:
        raise ControlError(f"an account with --auth {auth} has no password", "leave --password-file out")
    result = perform("account.add", arguments)
    if as_json:
        print_json(result)
        return
    say(f"Added {result['address']}: {where(result)}, login {result['login']}.")
    if result["senders"]:
        say(f"Mail from {', '.join(result['senders'])} goes through it.")
    else:
        say(f"No sender uses it yet: relay sender add ADDRESS {result['address']}")
    if result["hint"]:
        note(f"This looks like an address at {result['hint']}: relay account set {address} --provider {result['hint']}")
    if result["to_do"]:
        say(f"Next: {result['to_do']}")
    else:
        say(f"Try it: relay account test {result['address']}")


def change(
    address: Address,
    provider: Provider = None,
    host: Host = None,
    port: Port = None,
    tls: Tls = None,
    trust: Trust = None,
    login: Login = None,
    auth: Annotated[str | None, _AUTH] = None,
    tenant: Tenant = None,
    client_id: ClientId = None,
    cloud: Cloud = None,
    client_secret_file: ClientSecretFile = None,
    certificate_file: CertificateFile = None,
    service_account_file: ServiceAccountFile = None,
    secret_expires: SecretExpires = None,
    token_url: TokenUrl = None,
    authorize_url: AuthorizeUrl = None,
    device_url: DeviceUrl = None,
    scope: Scope = None,
    max_connections: MaxConnections = None,
    per_minute: PerMinute = None,
    per_day: PerDay = None,
    in_doubt: InDoubt = None,
    proxy: Proxy = None,
    proxy_password_file: ProxyPasswordFile = None,
    source_address: SourceAddress = None,
    ip: Ip = None,
    imap_host: ImapHost = None,
    imap_port: ImapPort = None,
    imap_tls: ImapTls = None,
    imap_login: ImapLogin = None,
    transport: Transport = None,
    fallback: Fallback = None,
    owner: Owner = None,
    null_sender: NullSender = None,
    bounces: Bounces = None,
    sent_copy: SentCopy = None,
    default: Annotated[
        list[str] | None,
        typer.Option("--default", metavar="NAME", help="Back to the preset's value: host, port, tls, trust, login, …"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change an account's settings. Mail that waits already uses them."""
    oauth = oauth_arguments(
        auth,
        tenant=tenant,
        client_id=client_id,
        cloud=cloud,
        client_secret_file=client_secret_file,
        certificate_file=certificate_file,
        service_account_file=service_account_file,
        secret_expires=secret_expires,
        token_url=token_url,
        authorize_url=authorize_url,
        device_url=device_url,
        scope=scope,
    )
    egress = egress_arguments(
        address,
        proxy=proxy,
        proxy_password_file=proxy_password_file,
        source_address=source_address,
        ip=ip,
        imap_host=imap_host,
        imap_port=imap_port,
        imap_tls=imap_tls,
        imap_login=imap_login,
        bounces=bounces,
        sent_copy=sent_copy,
    )
    result = perform(
        "account.set",
        {
            "account": address,
            "provider": provider,
            "host": host,
            "port": port,
            "tls": tls,
            "trust": _trust(trust),
            "login": login,
            "auth": auth,
            "max_connections": max_connections,
            "per_minute": per_minute,
            "per_day": per_day,
            "in_doubt": in_doubt,
            "transport": transport,
            "fallback": fallback,
            "owner": owner,
            "null_sender": null_sender,
            **oauth,
            **egress,
            "defaults": [name.replace("-", "_") for name in default or []],
        },
    )
    if as_json:
        print_json(result)
    else:
        say(f"Changed {result['address']}: {where(result)}, login {result['login']}.")
        if result["resumed"]:
            say("It was suspended and goes on now.")
        if result["to_do"]:
            say(f"Next: {result['to_do']}")


def try_mail(
    address: Address,
    to: Annotated[
        str | None, typer.Option("--to", metavar="ADDR", help="Who gets it; the account itself if left out.")
    ] = None,
    imap: Annotated[
        bool, typer.Option("--imap", help="Open the mailbox by IMAP instead; nothing in it is changed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send a real test mail, and show each step. On failure: its cause and what to do."""
    if imap and to is not None:
        raise typer.BadParameter("sends no mail", param_hint="--imap")

    def told(step: Mapping[str, Any]) -> None:
        if not as_json:
            say(f"{'ok    ' if step['ok'] else 'FAILED'}  {step['step']:<8}  {step['detail']}")

    if imap:
        result = perform("account.test_imap", {"account": address}, told)
    else:
        result = perform("account.test", {"account": address, "to": to}, told)
    if as_json:
        print_json(result)
    elif result["ok"] and imap:
        say(f"The mailbox of {result['account']} at {result['host']} can be read.")
    elif result["ok"]:
        say(f"The upstream took the test mail to {result['to']}: {result['reply']}")
    if result.get("resumed"):
        note(f"{result['account']} was suspended and goes on now.")
    elif result["ok"] and result.get("state") == "suspended":
        note(f"{result['account']} is still suspended: relay account resume {result['account']}")
    if not result["ok"]:
        if not as_json:
            say(f"Cause: {result['cause']}")
            say("What to do:")
            steps(result["remedy"])
        # What the relay does by itself with mail that waits is no remedy for a person who tests.
        first = next((step for step in result["remedy"] if not step.startswith(BY_ITSELF)), "see the daemon's log")
        complain(f"the test failed at {result['failed_at']}: {result['reply']}; {first}")
        raise typer.Exit(1)


def set_password(address: Address, password_file: PasswordFile = None, as_json: Json = False) -> None:
    """Store a new password. An account that was suspended for its login goes on at once."""
    password = read_password(password_file, address)
    result = perform("account.set_password", {"account": address, "password": password})
    if as_json:
        print_json(result)
    else:
        say(f"Stored the new password of {result['account']}.")
        if result["resumed"]:
            say("It was suspended and goes on now.")


def suspend(address: Address, as_json: Json = False) -> None:
    """Stop sending for an account; its mail waits."""
    result = perform("account.suspend", {"account": address})
    if as_json:
        print_json(result)
    else:
        say(f"{result['account']} is suspended{'' if result['changed'] else ' already'}; its mail waits.")


def resume(address: Address, as_json: Json = False) -> None:
    """Let an account send again."""
    result = perform("account.resume", {"account": address})
    done = "sends again" if result["changed"] else "was not suspended"
    print_json(result) if as_json else say(f"{result['account']} {done}; {result['waiting']} waiting.")


def remove(
    address: Address,
    force: Annotated[bool, typer.Option("--force", help="Also remove the senders that use it.")] = False,
    as_json: Json = False,
) -> None:
    """Remove an account. Its own sender entry and its stored password go, too."""
    result = perform("account.remove", {"account": address, "force": force})
    if as_json:
        print_json(result)
        return
    say(f"Removed {result['account']} and its stored password.")
    if result["senders"]:
        say(f"No longer registered as senders: {', '.join(result['senders'])}")


def _trust(given: str | None) -> str | None:
    """A CA file is named by its full path: the daemon stands in another folder."""
    if given is None or given.lower().startswith(("sha256:", "name:")):
        return given
    path = Path(given).expanduser()
    return str(path.absolute()) if path.is_file() else given
