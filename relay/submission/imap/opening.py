"""From nothing to a mailbox that is logged in to: dial, greeting, TLS, one login with one mechanism."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from relay.accounts.model import ImapServer
from relay.accounts.upstream import may_log_in
from relay.credentials.errors import CredentialError
from relay.credentials.sasl import Mechanism, UnexpectedChallenge, choose, encode
from relay.mail.errors import RelayError
from relay.net.dial import DialFailed, dial, trusted
from relay.net.tls import ClientTls
from relay.net.way import Way, WayOf
from relay.submission.imap.connection import CommandRefused, ImapConnection, quoted
from relay.submission.imap.responses import Status, status_of
from relay.submission.imap.wire import ImapFault, ImapWire
from relay.submission.login import without_secret
from relay.telemetry import get_logger

log = get_logger()

ImapSecret = Callable[[ImapServer], Awaitable[str]]
# For a token that the server refused: another one to try once. Raises CredentialError when there is none.
SecondSecret = Callable[[ImapServer, str], Awaitable[str]]
OnStep = Callable[[str, str], None]

_NO_ANSWER = frozenset({"connection-refused", "connection-timeout", "connection-lost", "stage-timeout"})
_LATER = frozenset({"UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG"})  # RFC 5530 3, RFC 9051 7.1
_PERMISSION = frozenset({"AUTHORIZATIONFAILED", "CONTACTADMIN", "PRIVACYREQUIRED"})


class MailboxClosed(RelayError):
    """No mailbox. `step` is where it ended (token, connect, tls, login, inbox), `reason` a condition of `diagnosis`."""

    def __init__(self, step: str, reason: str, detail: str) -> None:
        super().__init__(step, reason, detail)
        self.step, self.reason, self.detail = step, reason, detail


class _TokenRejected(Exception):
    def __init__(self, token: str, closed: MailboxClosed) -> None:
        super().__init__(closed)
        self.token, self.closed = token, closed


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to connect (proxy and TLS included), and for a command in all."""

    connect_s: float = 30
    command_s: float = 60


async def open_mailbox(
    server: ImapServer,
    secret: ImapSecret,
    *,
    second: SecondSecret,
    way_of: WayOf,
    limits: Limits,
    on_step: OnStep = lambda step, text: None,
) -> ImapConnection:
    """Raises MailboxClosed. `on_step(name, what happened)` after connect, tls and login.

    An access token that is refused is replaced by `second`, and the new one tried once, on a new connection.
    """
    opening = _Opening(server, way_of, limits, on_step)
    try:
        return await opening.run(secret)
    except _TokenRejected as rejected:
        first = rejected

    async def renewed(_: ImapServer) -> str:
        try:
            return await second(server, first.token)
        except CredentialError:
            raise first.closed from None  # what the server said is what matters

    try:
        return await opening.run(renewed)
    except _TokenRejected as again:
        raise again.closed from None


class _Opening:
    def __init__(self, server: ImapServer, way_of: WayOf, limits: Limits, on_step: OnStep) -> None:
        self._server, self._way_of, self._limits, self._on_step = server, way_of, limits, on_step
        self._step = "connect"

    async def run(self, secret: ImapSecret) -> ImapConnection:
        self._step = "connect"
        connection: ImapConnection | None = None
        done = False
        try:
            way = await self._way_of(self._server.account_id)
            connection = await self._connect(way)
            await self._log_in(connection, secret)
            done = True
            return connection
        except CredentialError as error:
            step = "token" if self._step == "login" and self._server.auth != "password" else self._step
            outcome = without_secret(error)
            raise MailboxClosed(step, outcome.reason, outcome.detail) from error
        except DialFailed as failure:
            step = "tls" if failure.in_tls else "connect"
            reason = "imap-unreachable" if failure.reason in _NO_ANSWER else failure.reason
            raise MailboxClosed(step, reason, failure.detail) from failure
        except ImapFault as fault:
            raise self._closed(fault) from fault
        except CommandRefused as refusal:
            raise MailboxClosed(self._step, refused_reason(refusal.status), str(refusal.status)) from refusal
        finally:
            if connection is not None and not done:
                connection.wire.abort()

    def _closed(self, fault: ImapFault) -> MailboxClosed:
        reason = "imap-unreachable" if fault.reason in _NO_ANSWER else "imap-protocol"
        return MailboxClosed(self._step, reason, fault.detail)

    async def _connect(self, way: Way) -> ImapConnection:
        server, limits = self._server, self._limits
        if not may_log_in(server):  # of a server that a preset names, or whose settings changed since
            words = f"the login would go to {server.host} in clear text"
            raise MailboxClosed("tls", "imap-cleartext-login", words)
        tls = await trusted(server.trust, way) if server.tls != "none" else None
        implicit = tls if server.tls == "implicit" else None
        _, wire = await dial(ImapWire, server.host, server.port, timeout_s=limits.connect_s, tls=implicit, way=way)
        connection = ImapConnection(wire, command_s=limits.command_s)
        try:
            told = way.described(server.host)
            greeting = await self._greeting(wire)
            self._on_step("connect", f"{server.host} port {server.port}{' ' * bool(told)}{told}: {greeting}")
            await self._encrypt(connection, tls, done=implicit is not None)
            await connection.ask_capabilities()
        except BaseException:
            wire.abort()
            raise
        return connection

    async def _greeting(self, wire: ImapWire) -> Status:
        response = await wire.response(asyncio.get_running_loop().time() + self._limits.command_s)
        status = status_of(response.text[2:]) if response.text.startswith(b"* ") else None
        if status is None:
            raise ImapFault("protocol-error", f"not a greeting of IMAP: {response.text[:80]!a}")
        if status.kind == "BYE":
            raise CommandRefused("greeting", status)
        if status.kind == "PREAUTH":  # nobody could say as whom; after it STARTTLS is not possible (RFC 9051 11.1)
            raise ImapFault("protocol-error", "the server says PREAUTH: it is not one that mailboxes log in to")
        return status

    async def _encrypt(self, connection: ImapConnection, tls: ClientTls | None, *, done: bool) -> None:
        if tls is None:
            log.warning(
                "upstream.cleartext", account=self._server.account, host=self._server.host, port=self._server.port
            )
            self._on_step("tls", "none: the password goes unencrypted, as IMAP_TLS=N says")
            return
        self._step = "tls"
        if not done:
            await connection.ask_capabilities()
            if "STARTTLS" not in connection.capabilities:  # never go on without: RFC 8314 4.1
                words = f"{self._server.host} does not offer STARTTLS"
                raise MailboxClosed("tls", "imap-starttls-missing", words)
            await connection.command("STARTTLS")
            await connection.wire.start_tls(tls, self._server.host, self._limits.connect_s)
        proof = (
            "the pinned certificate"
            if tls.pin is not None
            else f"certificate valid for {tls.name or self._server.host}"
        )
        assert connection.wire.transport is not None
        version = connection.wire.transport.get_extra_info("ssl_object").version()
        self._on_step("tls", f"{version}, {proof}")

    async def _log_in(self, connection: ImapConnection, secret: ImapSecret) -> None:
        """Once, with one mechanism: each refusal brings a mailbox nearer to its lock-out."""
        server = self._server
        self._step = "login"
        offered = [name.removeprefix("AUTH=") for name in connection.capabilities if name.startswith("AUTH=")]
        name = choose(offered, server.auth)
        if name is None and (server.auth != "password" or "LOGINDISABLED" in connection.capabilities):
            words = f"{server.host} offers {', '.join(sorted(offered)) or 'no AUTHENTICATE'}"
            raise MailboxClosed("login", "imap-no-mechanism", words)
        known = await secret(server)
        try:
            if name is None:
                status = await self._by_login(connection, known)
            else:
                status = await self._authenticate(connection, name, known)
        except CommandRefused as refusal:
            status = refusal.status
            words = _without(str(status), known)
            closed = MailboxClosed("login", refused_reason(status), words)
            if server.auth != "password" and closed.reason == "imap-login-refused":
                raise _TokenRejected(known, closed) from None
            raise closed from None
        self._on_step("login", f"{name or 'LOGIN'} as {server.login}: {_without(str(status), known)}")
        await connection.ask_capabilities()

    async def _by_login(self, connection: ImapConnection, password: str) -> Status:
        """The LOGIN command (RFC 9051 6.2.3): quoted where that can be, else as literals."""
        values = [self._server.login.encode(), password.encode()]
        try:
            return (await connection.command("LOGIN", *map(quoted, values))).status
        except ValueError:
            pass
        # RFC 9051 4.3: a literal goes out after the server's "+"; the second one's length stands behind the first.
        said = iter((values[0] + b" {%d}" % len(values[1]), values[1]))
        answer = await connection.command("LOGIN", b"{%d}" % len(values[0]), on_continue=lambda _: next(said, b""))
        return answer.status

    async def _authenticate(self, connection: ImapConnection, name: str, secret: str) -> Status:
        """AUTHENTICATE (RFC 9051 6.2.2), with the initial response where the server takes it (RFC 4959)."""
        server = self._server
        mechanism = Mechanism(name, server.login, secret, host=server.host, port=server.port)
        initial = mechanism.initial() if "SASL-IR" in connection.capabilities else None
        first = (encode(initial),) if initial is not None else ()
        try:
            answer = await connection.command("AUTHENTICATE", name.encode(), *first, on_continue=mechanism.answer)
        except UnexpectedChallenge as error:
            raise ImapFault("protocol-error", str(error)) from error
        return answer.status


def refused_reason(status: Status) -> str:
    """The condition for a NO, BAD or BYE before or at the login."""
    if status.code in _LATER or status.kind == "BYE":
        return "imap-unavailable"
    if status.code in _PERMISSION or "not connected" in status.text.lower():
        return "imap-not-allowed"
    return "imap-login-refused"


def _without(text: str, secret: str) -> str:
    """What a server said, without a secret that it quotes."""
    return text.replace(secret, "***") if len(secret) >= 4 else text
