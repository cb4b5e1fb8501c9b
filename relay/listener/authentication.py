"""AUTH PLAIN and LOGIN of clients (RFC 4954, RFC 4616), verified against their entries."""

from __future__ import annotations

import asyncio
import binascii
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address, ip_address

from relay.accounts.directory import Directory
from relay.accounts.model import Client
from relay.accounts.passwords import DUMMY_HASH, verify_password
from relay.listener import auth_replies
from relay.listener.lines import TOO_LONG
from relay.listener.policy import Peer
from relay.mail.reply import Reply
from relay.telemetry import get_logger

log = get_logger()

MAX_LOGIN_FAILURES = 10  # of one login from an address: one program's old password stops no other program there
MAX_ADDRESS_FAILURES = 100  # of an address
ADDRESS_WINDOW_S = 600.0
_MAX_NAME = 64  # characters of a login that are told apart
_MOST_ADDRESSES = 4096  # that are remembered; the one that failed longest ago gives way
_AT_ONCE = 4  # verifications in the process, each of 64 MiB and some 100 ms

Ask = Callable[[bytes], Awaitable[bytes]]  # says a challenge; gives the client's line without its end, or TOO_LONG


class _Refused(Exception):
    """The exchange ends; nothing was verified."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


class _Failures:
    """When logins failed, within the window: of one login from an address, and of all from it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def too_many(self, host: str, login: str = "") -> bool:
        """`login` "": of all logins from there."""
        times = self._times.get((host, login))
        if times is None:
            return False
        oldest = self._clock() - ADDRESS_WINDOW_S
        while times and times[0] <= oldest:
            times.popleft()
        return len(times) >= (MAX_LOGIN_FAILURES if login else MAX_ADDRESS_FAILURES)

    def add(self, host: str, login: str) -> None:
        for key in ((host, ""), (host, login)):
            times = self._times.setdefault(key, deque(maxlen=MAX_ADDRESS_FAILURES))
            times.append(self._clock())
            self._times.move_to_end(key)
        while len(self._times) > _MOST_ADDRESSES:
            self._times.popitem(last=False)

    def forget(self, host: str, login: str) -> None:
        """It logged in."""
        self._times.pop((host, login), None)


class Authentication:
    """One for all doors: verifies a few logins at a time, in threads, and remembers which addresses fail."""

    def __init__(self, directory: Directory, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that never go back."""
        self._directory = directory
        self._failures = _Failures(clock)
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="login")

    def close(self) -> None:
        """No more verifications; does not wait for those under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def offered(self, peer: Peer, *, safe: bool) -> bool:
        """Whether AUTH is of any use to this client. `safe`: a password may be said here."""
        client = peer.client
        if client is not None and client.auth == "accept-any":  # nothing secret is checked
            return True
        return safe and self._directory.has_logins()

    async def take(self, peer: Peer, argument: bytes, ask: Ask) -> Client | Reply:
        """One exchange, from the argument of AUTH on: the entry of who logged in, or the refusal.

        `auth_replies.FAILED`: wrong login or password; `TOO_MANY`: the address had its chances.  What `ask` raises
        comes through.
        """
        anybody = peer.client if peer.client is not None and peer.client.auth == "accept-any" else None
        if anybody is None and self._failures.too_many(peer.host):
            return auth_replies.TOO_MANY
        try:
            login, password = await _credentials(argument, ask, strict=anybody is None)
        except _Refused as refused:
            return refused.reply
        if anybody is not None:
            return anybody
        name = login[:_MAX_NAME] or "-"
        async with self._turn:
            if self._failures.too_many(peer.host) or self._failures.too_many(peer.host, name):
                return auth_replies.TOO_MANY
            client = await self._verified(peer.host, login, password)
            if client is None:
                self._failures.add(peer.host, name)
                return auth_replies.FAILED
        self._failures.forget(peer.host, name)
        log.info("session.authenticated", client=client.name, host=peer.host)
        return client

    async def _verified(self, host: str, login: str, password: str) -> Client | None:
        """An unknown login takes as long as a known one."""
        client = self._directory.client_by_login(login)
        if client is not None and (client.auth != "login" or not _is_within(host, client)):
            client = None
        stored = client.password_hash if client is not None else DUMMY_HASH
        right = await asyncio.get_running_loop().run_in_executor(self._threads, verify_password, stored, password)
        return client if right else None


def _is_within(host: str, client: Client) -> bool:
    if not client.networks:
        return True
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in client.networks)


async def _credentials(argument: bytes, ask: Ask, *, strict: bool) -> tuple[str, str]:
    """Login and password as the client says them; `strict` False: whatever it says will do. Raises _Refused."""
    mechanism, _, initial = argument.partition(b" ")
    initial = initial.strip(b" ")
    match mechanism.upper():
        case b"PLAIN":
            said = _decoded(initial or await ask(auth_replies.CHALLENGE), strict=strict)
            identity, _, rest = said.partition(b"\0")
            login, separator, password = rest.partition(b"\0")
            if strict and (not separator or b"\0" in password):
                raise _Refused(auth_replies.NOT_BASE64)
            if identity not in (b"", login):
                password = b""  # RFC 4616 2: nobody here may act as somebody else; no password is empty
        case b"LOGIN":
            login = _decoded(initial or await ask(auth_replies.USERNAME), strict=strict)
            password = _decoded(await ask(auth_replies.PASSWORD), strict=strict)
        case _:
            raise _Refused(auth_replies.UNKNOWN_MECHANISM)
    return _text(login), _text(password)


def _decoded(response: bytes, *, strict: bool) -> bytes:
    """RFC 4954 4: `*` cancels, `=` is an empty initial response. Raises _Refused."""
    if response == b"*":
        raise _Refused(auth_replies.CANCELLED)
    if response is TOO_LONG:
        raise _Refused(auth_replies.LINE_TOO_LONG)
    if response == b"=":
        return b""
    try:
        return binascii.a2b_base64(response, strict_mode=True)
    except binascii.Error:
        if strict:
            raise _Refused(auth_replies.NOT_BASE64) from None
        return b""


def _text(said: bytes) -> str:
    """UTF-8 (RFC 4616 2), or what old programs mean by other octets."""
    try:
        return said.decode()
    except UnicodeDecodeError:
        return said.decode("latin-1")
