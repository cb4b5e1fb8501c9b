"""From nothing to a connection that may carry mail: dial, greeting, TLS, EHLO, one login with one mechanism."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from relay.accounts.model import Upstream
from relay.accounts.upstream import may_log_in
from relay.credentials.errors import CredentialError
from relay.credentials.oauth.errors import TokenRefused
from relay.credentials.sasl import Mechanism, UnexpectedChallenge, choose
from relay.mail.outcome import Refused, Stage, Unreachable
from relay.mail.reply import Reply
from relay.net.dial import DialFailed, trusted
from relay.net.tls import ClientTls
from relay.net.way import Way, WayOf, direct
from relay.submission.login import LoginTries, OnStep, SecondLogin, SecretSource, unlimited, without_secret
from relay.submission.smtp.deadlines import Deadlines
from relay.submission.smtp.replies import AUTH, QUIT, WireFault
from relay.submission.smtp.wire import Client, RefusedOpening, Trace, Wire
from relay.telemetry import get_logger

log = get_logger()

_ROUNDS = 4  # 334 replies in one login
_MOST_SIZE = 20  # digits, RFC 1870 3


class OpeningFailed(Exception):
    """No usable connection; nothing of any message was sent."""

    def __init__(self, outcome: Refused | Unreachable) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class _TokenRejected(OpeningFailed):
    """The server does not take this access token."""

    def __init__(self, reply: Reply, token: str) -> None:
        super().__init__(Refused(reply, Stage.AUTH))
        self.token = token


@dataclass(slots=True, eq=False)
class Connection:
    """An open, logged-in connection, and what its upstream offers. `size_limit` 0: none declared (RFC 1870)."""

    client: Client
    wire: Wire
    upstream: Upstream
    pipelining: bool
    eight_bit: bool
    smtputf8: bool
    dsn: bool
    takes_size: bool
    size_limit: int
    login_reply: Reply  # to AUTH, or to EHLO when there is no login
    age: int = 0  # see Pool.forget
    messages: int = 0  # transactions begun on it
    reused: bool = False  # it was idle before
    needs_reset: bool = False  # the last transaction did not end with the 250 that clears the server's buffers

    async def quit(self, timeout_s: float) -> None:
        """QUIT, wait shortly for the reply, close."""
        try:
            await self.client.exchange(b"QUIT", QUIT, timeout_s)
        except WireFault:
            pass
        finally:
            self.wire.abort()


async def open_connection(
    upstream: Upstream,
    secret: SecretSource,
    *,
    deadlines: Deadlines,
    ehlo_name: str,
    on_end: Callable[[], None] = lambda: None,
    on_step: OnStep | None = None,
    trace: Trace | None = None,
    second: SecondLogin | None = None,
    tries: LoginTries | None = None,
    way_of: WayOf = direct,
) -> Connection:
    """Raises OpeningFailed. `on_end` is called once when the connection that was returned is gone.

    With `second`, an access token that is refused is replaced, and the new one tried once, on a new connection.
    Each login is one of the `tries`; None: there is no limit.
    """

    try:
        way = await way_of(upstream.account_id)
    except CredentialError as error:  # the password of a proxy
        raise OpeningFailed(without_secret(error)) from error

    async def attempt(source: SecretSource) -> Connection:
        return await _open(upstream, source, deadlines, ehlo_name, on_end, on_step, trace, tries or unlimited, way)

    try:
        return await attempt(secret)
    except _TokenRejected as rejected:
        if second is None:
            raise
        first = rejected

    try:
        async with second(upstream, first.token) as token:
            if token is None:
                raise first

            async def renewed(_: Upstream) -> str:
                return token

            return await attempt(renewed)
    except TokenRefused as refusal:
        if refusal.error == "rejected_by_server":
            raise first from refusal  # what the server says is all there is
        raise OpeningFailed(without_secret(refusal)) from refusal
    except CredentialError as error:
        raise OpeningFailed(without_secret(error)) from error


async def _open(
    upstream: Upstream,
    secret: SecretSource,
    deadlines: Deadlines,
    ehlo_name: str,
    on_end: Callable[[], None],
    on_step: OnStep | None,
    trace: Trace | None,
    tries: LoginTries,
    way: Way,
) -> Connection:
    """One connection, one login at most."""
    opening = _Opening(upstream, deadlines, on_step or (lambda step, text: None), tries, way)

    def ended() -> None:
        if opening.done:
            on_end()

    client = Client(upstream.host, upstream.port, ehlo_name=ehlo_name, on_end=ended, trace=trace, way=way)
    try:
        return await opening.run(client, secret)
    except DialFailed as failure:
        stage = Stage.TLS if failure.in_tls else Stage.CONNECT
        raise OpeningFailed(Unreachable(stage, failure.reason, failure.detail)) from failure
    except WireFault as fault:
        if fault.reply is not None:
            raise OpeningFailed(Refused(fault.reply, opening.stage)) from fault
        raise OpeningFailed(Unreachable(opening.stage, fault.reason, fault.detail)) from fault
    except RefusedOpening as refusal:
        raise OpeningFailed(Refused(refusal.reply, opening.stage)) from refusal
    finally:
        if not opening.done:
            _drop(client)


def _drop(client: Client) -> None:
    try:
        client.wire.abort()
    except WireFault:
        pass
    client.close()


class _Opening:
    def __init__(self, upstream: Upstream, deadlines: Deadlines, on_step: OnStep, tries: LoginTries, way: Way) -> None:
        self.stage = Stage.CONNECT
        self.done = False
        self._upstream, self._deadlines, self._on_step = upstream, deadlines, on_step
        self._tries, self._way = tries, way

    async def run(self, client: Client, secret: SecretSource) -> Connection:
        upstream, deadlines, on_step = self._upstream, self._deadlines, self._on_step
        tls = await self._tls(client)
        reply = await client.hello(deadlines.command_s)
        on_step("ehlo", ", ".join(f"{name} {value}".strip().upper() for name, value in client.esmtp_extensions.items()))
        mechanism = ""
        if upstream.auth != "none":
            self.stage = Stage.AUTH
            reply, mechanism = await self._log_in(client, secret)
            on_step("auth", f"{mechanism} as {upstream.login}: {reply}")
        offers = client.esmtp_extensions
        size = offers.get("size", "").strip()
        self.done = True
        log.debug(
            "upstream.connected",
            account=upstream.account,
            host=upstream.host,
            port=upstream.port,
            tls=tls,
            mechanism=mechanism,
        )
        return Connection(
            client,
            client.wire,
            upstream,
            pipelining="pipelining" in offers,
            eight_bit="8bitmime" in offers,
            smtputf8="smtputf8" in offers,
            dsn="dsn" in offers,
            takes_size="size" in offers,
            size_limit=int(size) if size.isascii() and size.isdecimal() and len(size) <= _MOST_SIZE else 0,
            login_reply=reply,
        )

    async def _tls(self, client: Client) -> str:
        """Greeting and TLS, in the order the account wants; the TLS version, "" for an account that opted out."""
        upstream, deadlines, on_step = self._upstream, self._deadlines, self._on_step
        if not may_log_in(upstream):  # settings changed since the account was set, or the store was written by hand
            self.stage = Stage.TLS
            words = f"the login would go to {upstream.host} in clear text"
            raise OpeningFailed(Unreachable(Stage.TLS, "cleartext-login", words))
        tls = await trusted(upstream.trust, self._way) if upstream.tls != "none" else None
        implicit = tls if upstream.tls == "implicit" else None
        greeting = await client.open(connect_s=deadlines.connect_s, greeting_s=deadlines.command_s, tls=implicit)
        on_step("connect", f"{self._path(client)}: {greeting}")
        if tls is None:
            log.warning("upstream.cleartext", account=upstream.account, host=upstream.host, port=upstream.port)
            on_step("tls", "none: password and mail go unencrypted, as this account is set")
            return ""
        if implicit is None:
            await client.hello(deadlines.command_s)
            self.stage = Stage.TLS
            if not client.supports_extension("starttls"):  # never go on without: RFC 8314 4.1, stripped or not
                words = f"{upstream.host} does not offer STARTTLS"
                raise OpeningFailed(Unreachable(Stage.TLS, "starttls-missing", words))
            await client.upgrade(tls, deadlines.connect_s)
        version = _version(client)
        on_step("tls", f"{version}, {_proof(tls, upstream.host)}")
        self.stage = Stage.CONNECT
        return version

    def _path(self, client: Client) -> str:
        """Where the other end is, and how it was reached; a proxy's address says nothing of the upstream's."""
        upstream, way = self._upstream, self._way
        told = way.described(upstream.host)
        if way.proxy_for(upstream.host) is not None:
            return f"{upstream.host} port {upstream.port} {told}"
        return f"{_peer(client)} {told}".rstrip()

    async def _log_in(self, client: Client, secret: SecretSource) -> tuple[Reply, str]:
        """AUTH once, with one mechanism: each refusal brings a mailbox nearer to its lock-out (RFC 4954 4)."""
        upstream = self._upstream
        offered = client.server_auth_methods
        name = choose(offered, upstream.auth)
        if name is None:
            words = f"{upstream.host} offers {', '.join(offered).upper() or 'no AUTH'}"
            raise OpeningFailed(Unreachable(Stage.AUTH, "no-auth-mechanism", words))
        try:
            known = await secret(upstream)
            mechanism = Mechanism(name, upstream.login, known, host=upstream.host, port=upstream.port)
            async with self._tries(upstream.account_id) as attempt:
                try:
                    return await self._exchange(client, mechanism), name
                except RefusedOpening as refusal:
                    attempt.refused = refusal.reply.code >= 500
                    raise
        except RefusedOpening as refusal:
            if upstream.auth == "password" or not (refusal.reply.code == 535 or mechanism.refusal):
                raise
            raise _TokenRejected(refusal.reply, known) from refusal
        except UnexpectedChallenge as error:
            raise OpeningFailed(Unreachable(Stage.AUTH, "protocol-error", str(error))) from error
        except CredentialError as error:
            raise OpeningFailed(without_secret(error)) from error

    async def _exchange(self, client: Client, mechanism: Mechanism) -> Reply:
        timeout_s = self._deadlines.command_s
        line = mechanism.command()
        said = [line.rpartition(b" ")[2]] if line.count(b" ") > 1 else []
        reply = await client.exchange(line, AUTH, timeout_s, shown=b"AUTH " + mechanism.name.encode() + b" ***")
        for _ in range(_ROUNDS):
            if reply.code != 334:
                break
            line = mechanism.answer(reply.lines[0])
            said.append(line)
            reply = await client.exchange(line, AUTH, timeout_s, shown=b"***")
        if reply.code == 235:
            return reply.reply()
        if reply.code == 334:
            raise UnexpectedChallenge(mechanism.name)
        lines = reply.lines
        for spoken in said:  # a reply that quotes our credential back must not carry it into a log
            if len(spoken) >= 4:
                lines = [text.replace(spoken, b"***") for text in lines]
        raise RefusedOpening(reply._replace(lines=lines).reply())


def _peer(client: Client) -> str:
    peer = client.wire.transport.get_extra_info("peername") if client.wire.transport else None
    return f"{peer[0]} port {peer[1]}" if peer else "connected"


def _version(client: Client) -> str:
    transport = client.wire.transport
    ssl_object = transport.get_extra_info("ssl_object") if transport else None
    if not isinstance(ssl_object, ssl.SSLObject | ssl.SSLSocket):  # cannot be: no line of ours may go out in clear then
        raise OpeningFailed(Unreachable(Stage.TLS, "tls-handshake", "the connection is not encrypted"))
    return ssl_object.version() or "TLS"


def _proof(tls: ClientTls, host: str) -> str:
    if tls.pin is not None:
        return "the pinned certificate"
    return f"certificate valid for {tls.name or host}"
