"""The one place that knows every class: opens everything bottom-up, closes it top-down, also when the middle fails."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from relay.accounts.directory import Directory
from relay.accounts.model import Upstream
from relay.accounts.upstream import ApiPlaces
from relay.aftercare.bounces import Bounces
from relay.aftercare.chat import Chats
from relay.aftercare.copies import Copies
from relay.aftercare.letters import Postmark
from relay.aftercare.mailbox import Mailboxes
from relay.aftercare.returns import Returns
from relay.aftercare.service import Aftercare
from relay.aftercare.trouble import TroubleNotices
from relay.control.backup import sweep_stages
from relay.control.context import Control
from relay.credentials.logins import Logins, apps_of, purposes_of
from relay.credentials.oauth.client import OAuthClient
from relay.credentials.oauth.http import HttpsPost
from relay.credentials.oauth.tokens import Tokens
from relay.credentials.tries import Tries
from relay.credentials.vault import Vault, open_vault
from relay.credentials.ways import Ways
from relay.daemon.checkup import Checkup, LogIn
from relay.daemon.doors import Doors, plan
from relay.daemon.grants import Grants
from relay.daemon.kin import Kinship
from relay.daemon.moving import Moving
from relay.database.engine import Database, open_store
from relay.dispatch.clock_mark import ClockMark, boot_id
from relay.dispatch.dispatcher import Dispatcher
from relay.listener.authentication import Authentication
from relay.listener.rates import Rates
from relay.mail.ids import format_id
from relay.mail.outcome import Accepted, Refused, Unreachable
from relay.net.guard import Guard
from relay.queue.ledger import DotLedger
from relay.queue.room import Room
from relay.queue.spool import open_spool
from relay.queue.store import Queue
from relay.queue.volume import accepted_octets
from relay.submission.router import RoutedTransport
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.console import ConsoleSettings
    from relay.config.settings import RelaySettings
    from relay.dispatch.fleet import Fleet

log = get_logger()

_DAY_MS = 86_400_000
_AT_A_TIME = 100  # lines of the log


@dataclass(frozen=True, slots=True)
class Core:
    """What both the daemon and a command without one work on."""

    database: Database
    vault: Vault
    directory: Directory
    queue: Queue
    transport: RoutedTransport
    oauth: OAuthClient
    logins: Logins
    ways: Ways
    chats: Chats
    postmark: Postmark
    fleet: Fleet | None  # None: this process is alone on its store
    in_doubt: Sequence[int]  # ids of messages that the last run may have handed over already


@dataclass(frozen=True, slots=True)
class Relay:
    """Everything a running daemon consists of, built but not started."""

    core: Core
    dispatcher: Dispatcher
    aftercare: Aftercare
    doors: Doors
    control: Control


@asynccontextmanager
async def open_core(
    settings: RelaySettings, *, on_lost: Callable[[BaseException], None], create_key: bool = True, visits: bool = False
) -> AsyncIterator[Core]:
    """Lock and open the store, prove that the keys fit, recover the queue. `create_key`: make one if there is none.

    `visits`: a shared store is not locked, and nothing in it recovered: others are at work there.  Raises StoreLocked,
    SchemaTooNew, SchemaTooOld, ServerUnfit, StorageFailed, KeyRefused, KeyMissing, WrongKey; nothing was changed then.
    """
    async with AsyncExitStack() as stack:
        visits = visits and settings.database.postgresql
        opening = open_store(settings.database, settings.data_dir, on_lost=on_lost, alone=not visits)
        database = await stack.enter_async_context(opening)
        folder = database.folder
        vault = await open_vault(database, settings.keys_dir, environ=os.environ, create=create_key)
        if vault.created_key:
            log.warning(
                "key.created",
                key_id=vault.ring.primary.id,
                path=str(settings.keys_dir),
                to_do="back this folder up: without its keys no stored password can be read again",
            )
        places = ApiPlaces(settings.submission.graph_url, settings.submission.gmail_url)
        directory = await Directory.open(database, settings.upstream, places)
        fleet = None if visits else _fleet(settings, database)
        queue = _queue(fleet)(
            database,
            spool=open_spool(database, inline_bytes=settings.queue.inline_bytes),
            room=Room(
                folder,
                floor_bytes=0 if settings.database.postgresql else settings.queue.min_free_bytes,
                max_message_bytes=settings.max_message_bytes,
            ),
            ledger=DotLedger(folder / "dots"),
            memory_bytes=settings.dispatch.memory_bytes,
            clock=database.now_ms,
        )
        await asyncio.to_thread(sweep_stages, folder)
        in_doubt = [] if visits else await queue.open()
        if visits:
            await queue.visit()
        ways = Ways(directory, vault, settings.egress, guard_of(settings.console))
        app = settings.oauth
        secret = app.google_client_secret.get_secret_value() if app.google_client_secret is not None else ""
        https = HttpsPost(app.ca_file, way_of=ways.of)
        oauth = OAuthClient(https, google_secret=(app.google_client_id, secret))
        tokens = Tokens(
            vault,
            database,
            oauth,
            apps_of(directory),
            purpose_of=purposes_of(directory),
            now_s=lambda: database.now_ms() / 1000,
            turn_of=fleet.token_turn if fleet is not None else _at_once,
        )
        stack.push_async_callback(tokens.close)
        tries = Tries(database, database.now_ms)
        stack.push_async_callback(tries.close)
        logins = Logins(vault, tokens, tries)
        transport = RoutedTransport(
            settings.submission,
            logins.secret,
            hostname=settings.submission.ehlo_name or socket.gethostname(),
            second=logins.second,
            tries=tries.attempt,
            way_of=ways.of,
            speaks_for=_speaks_for(directory),
        )
        stack.push_async_callback(transport.close)
        notices = settings.notices
        chats = Chats(notices.urls, timeout_s=notices.url_timeout_s, environ=os.environ, egress=settings.egress)
        postmark = Postmark(settings.doors[0].hostname or socket.gethostname())
        yield Core(database, vault, directory, queue, transport, oauth, logins, ways, chats, postmark, fleet, in_doubt)


def guard_of(console: ConsoleSettings) -> Guard:
    """Where hosts may not lead that are named through the web."""
    return Guard(private=console.allow_private_upstreams, ports=frozenset(console.upstream_ports))


@asynccontextmanager
async def open_control(settings: RelaySettings, *, create_key: bool = True) -> AsyncIterator[Control]:
    """What a command works on when no daemon runs; keeps a daemon out meanwhile, unless the store is a shared one.

    Raises as `open_core`.
    """
    async with open_core(settings, on_lost=lambda error: None, create_key=create_key, visits=True) as core:
        if not core.queue.visiting:
            await take_over(core)
        yield _control(settings, core, None)
        await core.queue.close()


async def take_over(core: Core) -> None:
    """Take what the last run had in hand, and name what of it may arrive twice; mail may be accepted meanwhile."""
    in_doubt = [*core.in_doubt, *await core.queue.take_over()]
    if in_doubt:
        log.warning("queue.recovered", in_doubt=len(in_doubt))
    for number, message_id in enumerate(in_doubt):
        if number % _AT_A_TIME == 0:
            await asyncio.sleep(0)
        log.warning(
            "attempt.in_doubt",
            message_id=format_id(message_id),
            possible_duplicate=True,
            cause="the relay was stopped between the final dot and its reply",
        )


@asynccontextmanager
async def build(settings: RelaySettings, *, on_lost: Callable[[BaseException], None]) -> AsyncIterator[Relay]:
    """All parts of a daemon; starting, changing and stopping them is `run`'s. Raises as `open_core`, BadCertificate."""
    async with open_core(settings, on_lost=on_lost) as core:

        async def rescue(account_id: int, cause: str) -> bool:
            return await moving.rescue(account_id, cause)

        dispatcher: Dispatcher = _dispatcher(core.fleet)(
            settings.dispatch,
            queue=core.queue,
            database=core.database,
            directory=core.directory,
            transport=core.transport,
            history_days=settings.queue.history_days,
            mark=None if core.fleet is not None else ClockMark(settings.data_dir / "clock", boot_id()),
            clock=core.database.now_ms,
            rescue=rescue,
        )
        control = _control(settings, core, dispatcher)
        moving = Moving(control)
        kinship = Kinship(core.directory, core.database, core.vault)
        dispatcher.health.kin = kinship.of
        grants = Grants(directory=core.directory, logins=core.logins, health=dispatcher.health, kinship=kinship)
        checkup = Checkup(
            database=core.database,
            directory=core.directory,
            health=dispatcher.health,
            tries=core.logins.tries,
            kinship=kinship,
            log_in=_login_without_mail(core),
            period_s=settings.dispatch.login_check_s,
            clock=core.database.now_ms,
        )
        planned = plan(settings)
        rates, authentication = await _rates(core), Authentication(core.directory)
        doors = Doors(planned, directory=core.directory, queue=core.queue, rates=rates, authentication=authentication)
        grants.start()
        looking = asyncio.create_task(checkup.run(), name="checkup")
        aftercare = _aftercare(settings, core, dispatcher)
        try:
            living: AbstractAsyncContextManager[None] = nullcontext()
            if core.fleet is not None:
                from relay.daemon.fleet import in_fleet  # of several nodes on a store only

                living = in_fleet(settings, core, dispatcher, aftercare, checkup, grants)
            async with living:
                yield Relay(core, dispatcher, aftercare, doors, control)
        finally:
            looking.cancel()
            await asyncio.wait((looking,))
            authentication.close()
            await grants.stop()


def _at_once(account_id: int) -> AbstractAsyncContextManager[None]:
    return nullcontext()


def _fleet(settings: RelaySettings, database: Database) -> Fleet | None:
    if not database.shared:
        return None
    from relay.daemon.fleet import fleet_of

    return fleet_of(settings.node, settings.data_dir, database)


def _queue(fleet: Fleet | None) -> Callable[..., Queue]:
    if fleet is None:
        return Queue
    from relay.queue.shared import SharedQueue

    return partial(SharedQueue, membership=fleet)


def _dispatcher(fleet: Fleet | None) -> Callable[..., Dispatcher]:
    if fleet is None:
        return Dispatcher
    from relay.dispatch.shared import SharedDispatcher

    return partial(SharedDispatcher, fleet=fleet)


def _login_without_mail(core: Core) -> LogIn:
    async def log_in(upstream: Upstream) -> Accepted | Refused | Unreachable:
        return await core.transport.probe(upstream, lambda step, detail: None, tries=core.logins.tries.attempt)

    return log_in


async def _rates(core: Core) -> Rates:
    """A restart does not give a client its day anew."""
    rates, now = Rates(), core.database.now_ms()
    limited = {client.name: client for client in core.directory.clients() if client.bytes_per_day}
    if limited:
        accepted = await core.database.read(lambda connection: accepted_octets(connection, limited, now - _DAY_MS))
        for name, at_ms, octets in accepted:
            rates.remember(limited[name], octets, (now - at_ms) / 1000)
    return rates


def _speaks_for(directory: Directory) -> Callable[[int, str], bool]:
    """May an account write as this author? If mail of that sender would go through it."""

    def speaks_for(account_id: int, author: str) -> bool:
        route = directory.route(author)
        return route is not None and route.account_id == account_id

    return speaks_for


def _aftercare(settings: RelaySettings, core: Core, dispatcher: Dispatcher) -> Aftercare:
    def resting(account_id: int) -> bool:
        return bool(dispatcher.state(account_id)["resting_s"])

    trouble = TroubleNotices(
        settings.notices,
        database=core.database,
        directory=core.directory,
        queue=core.queue,
        chats=core.chats,
        postmark=core.postmark,
        resting=resting,
        clock=core.database.now_ms,
    )
    bounces = Bounces(
        settings.notices,
        lifetime_s=settings.dispatch.lifetime_s,
        database=core.database,
        directory=core.directory,
        queue=core.queue,
        postmark=core.postmark,
        resting=resting,
        clock=core.database.now_ms,
    )
    mailboxes = Mailboxes(
        database=core.database,
        directory=core.directory,
        logins=core.logins,
        way_of=core.ways.of,
        defaults=settings.imap,
        submission=settings.submission,
        clock=core.database.now_ms,
    )
    returns = Returns(
        settings.mailbox, mailboxes, database=core.database, directory=core.directory, clock=core.database.now_ms
    )
    copies = Copies(
        settings.mailbox,
        mailboxes,
        database=core.database,
        directory=core.directory,
        queue=core.queue,
        clock=core.database.now_ms,
    )
    core.queue.on_owed, core.queue.on_copy = bounces.poke, copies.poke
    return Aftercare(trouble, bounces, mailboxes, returns, copies)


def _control(settings: RelaySettings, core: Core, dispatcher: Dispatcher | None) -> Control:
    return Control(
        database=core.database,
        directory=core.directory,
        vault=core.vault,
        queue=core.queue,
        settings=settings,
        lanes=dispatcher,
        transport=core.transport,
        oauth=core.oauth,
        logins=core.logins,
        ways=core.ways,
        chats=core.chats,
        postmark=core.postmark,
    )
