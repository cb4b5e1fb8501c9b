"""Looks at everything that can be looked at without sending mail, a line each."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from relay.accounts.advice import steps_for
from relay.accounts.egress import way_of_all
from relay.accounts.model import Account, AccountState
from relay.accounts.upstream import may_log_in, tells_in_clear
from relay.config.doubts import warnings as doubtful
from relay.config.extras import ExtraMissing, require_extras
from relay.control.apply import apply_file
from relay.control.context import Control, ControlError
from relay.control.egress import path_of
from relay.control.listing import cause_of
from relay.control.probing import get_token, log_in, said
from relay.database.migration import HEAD
from relay.diagnosis import diagnose
from relay.mail.counted import counted
from relay.mail.errors import StorageFailed

_AT_ONCE = 8  # logins at a time
_LOGIN_S = 60.0
_DAY_S = 86_400
_NO_CLIENT = "no client is defined: any allowed network may use any registered sender"


async def check(control: Control, *, login: bool = True) -> list[dict[str, Any]]:
    """Settings, keys, database, every secret, every upstream (logged in to, unless `login` is False).

    Each line {item, status: ok | warning | failed, text, remedy} also goes to `control.progress` at once.
    """
    lines: list[dict[str, Any]] = []

    def line(item: str, status: str, words: str, remedy: str = "") -> None:
        entry = {"item": item, "status": status, "text": words, "remedy": remedy}
        lines.append(entry)
        control.progress(entry)

    _settings(control, line)
    await _keys(control, line)
    await _database(control, line)
    await _secrets(control, line)
    await _upstreams(control, line, login=login)
    _routes(control, line)
    _notices(control, line)
    await _accounts_file(control, line)
    return lines


def _settings(control: Control, line: Any) -> None:
    line("settings", "ok", f"data in {control.settings.data_dir}")
    way = way_of_all(control.settings.egress).described("")
    if way:
        line("settings", "ok", f"connections leave {way}")
    try:
        require_extras(control.settings)
    except ExtraMissing as missing:
        words, _, remedy = str(missing).partition("; ")
        line("settings", "failed", words, remedy)
    for warning in doubtful(control.settings):
        words, _, remedy = warning.partition("; ")
        line("settings", "warning", words, remedy)


def _notices(control: Control, line: Any) -> None:
    named = control.settings.notices.account
    if named and control.directory.by_address(named) is None:
        words = f"RELAY_NOTICES__ACCOUNT: there is no account {named}; any healthy one carries the notices of trouble"
        line("notices", "warning", words, f"relay account add {named}, or name another one")
    directly = control.chats.directly()
    if directly and way_of_all(control.settings.egress).described(""):
        words = f"notices by {', '.join(directly)} do not leave by RELAY_EGRESS__*: the service speaks no HTTP"
        line("notices", "warning", words, "allow its connections directly, or name a webhook or chat instead")
    sources = control.settings.egress.source_address
    if len(sources) > 1 and control.settings.egress.ip == "auto" and control.settings.telemetry.otlp_endpoint:
        line("traces", "warning", f"traces leave from {sources[0]} alone: one connection has one source address")


async def _accounts_file(control: Control, line: Any) -> None:
    """Its form, the secrets that it names, and what applying it would change."""
    path = control.settings.accounts_file
    if path is None:
        return
    try:
        applied = await apply_file(control, path, dry_run=True)
    except ControlError as refused:
        line("accounts file", "failed", refused.text, refused.remedy)
        return
    count = len(applied.changes)
    if count:
        line(
            "accounts file",
            "warning",
            f"{path}: not applied yet: {counted(count, 'change')}",
            "relay apply --dry-run shows them",
        )
    else:
        line("accounts file", "ok", f"{path}: {counted(len(applied.references), 'secret')} read, all is as it says")


async def _keys(control: Control, line: Any) -> None:
    ring = control.vault.ring
    line("keys", "ok", f"{len(ring.ids)} in the key ring, primary {ring.primary.id}")
    made = _made_lately(control.settings.keys_dir / f"{ring.primary.id}.key")
    if control.vault.created_key and made:
        line("keys", "warning", f"the first key is new (made {made})", f"back up {control.settings.keys_dir}")


def _made_lately(file: Path) -> str:
    """The day (UTC) a key file was made; empty when that is more than a day ago, or there is no such file."""
    try:
        made = file.stat().st_mtime
    except OSError:
        return ""
    return time.strftime("%Y-%m-%d", time.gmtime(made)) if time.time() - made < _DAY_S else ""


async def _database(control: Control, line: Any) -> None:
    def examine(connection: Connection) -> list[str]:
        if control.database.shared:  # which watches over itself; what counts is that it answers
            return ["ok"] if connection.scalar(text("SELECT 1")) == 1 else ["no answer"]
        return [str(row[0]) for row in connection.execute(text("PRAGMA quick_check(5)"))]

    try:
        found = await control.database.read(examine)
    except StorageFailed as error:
        line("database", "failed", f"{control.database.name}: {error}", "see to the server, or to the way there")
        return
    if found == ["ok"]:
        sound = "answers" if control.database.shared else "is sound"
        line("database", "ok", f"{control.database.name} {sound}, schema {HEAD}")
    else:
        line("database", "failed", f"{control.database.name} is damaged: {found[0]}", "restore a backup")
    if not control.queue.has_room():
        line("storage", "failed", "free space is below the floor: mail is answered with 452", "free some space")


async def _secrets(control: Control, line: Any) -> None:
    problems = await control.vault.verify()
    for problem in problems:
        account = control.directory.account(problem.account_id)
        name = account.address if account is not None else f"account {problem.account_id}"
        words = f"the {problem.kind} of {name} does not open with key {problem.key_id} ({problem.cause})"
        again = "set-password" if problem.kind == "password" else "connect"
        remedy = "put the right key file back" if problem.cause != "unreadable" else f"relay account {again} {name}"
        line("secrets", "failed", words, remedy)
    if not problems:
        count = sum((await control.vault.key_usage()).values())
        line("secrets", "ok", f"{count} stored, every one opens")


async def _upstreams(control: Control, line: Any, *, login: bool) -> None:
    accounts = control.directory.accounts()
    if not accounts:
        line("accounts", "warning", "there is no account yet", "relay account add ADDRESS")
    if login:
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for account in accounts:
                group.create_task(_upstream(control, account, line, slots))
    for account in accounts:
        upstream = control.directory.upstream(account)
        if account.state is AccountState.SUSPENDED:
            words = f"{account.address} is suspended: {cause_of(account)['cause']}"
            line("account", "warning", words, f"relay account show {account.address}")
        if upstream.tls == "none":
            state = "warning" if may_log_in(upstream) else "failed"
            words = f"{account.address} talks to {upstream.host} in CLEAR TEXT"
            words += ", its login included" if tells_in_clear(upstream) else ""
            line("account", state, words, f"relay account set {account.address} --tls starttls")


async def _upstream(control: Control, account: Account, line: Any, slots: asyncio.Semaphore) -> None:
    upstream = control.directory.upstream(account)
    path = path_of(control, account, upstream.host)
    where = f"{account.address} at {upstream.host}:{upstream.port}{' ' * bool(path)}{path}"
    if upstream.auth == "password" and "password" not in await control.vault.kinds(account.id):
        line("account", "failed", f"{where}: no password is stored", f"relay account set-password {account.address}")
        return
    quiet = control.asked_by(control.actor, lambda _: None)
    async with slots:
        try:
            async with asyncio.timeout(_LOGIN_S):
                outcome = await get_token(quiet, account) or await log_in(quiet, upstream, limited=True)
        except TimeoutError:
            line("account", "failed", f"{where}: no answer within {_LOGIN_S:g} seconds", "check network and firewall")
            return
    if outcome is None:
        done = "logged in" if upstream.auth != "none" else "reachable, no login needed"
        line("account", "ok", f"{where}: {done}")
        return
    diagnosis = diagnose(outcome, provider=upstream.provider)
    steps = steps_for(diagnosis.cls, diagnosis.remedy, account)
    remedy = steps[0] if steps else "see `relay explain`"
    line("account", "failed", f"{where}: {said(outcome)} ({diagnosis.cause})", remedy)


def _routes(control: Control, line: Any) -> None:
    senders, clients = control.directory.senders(), control.directory.clients()
    used = {sender.account_id for sender in senders}
    for account in control.directory.accounts():
        if account.id not in used:
            words = f"no sender goes through {account.address}"
            line("senders", "warning", words, f"relay sender add PATTERN {account.address}")
    if senders:
        line("senders", "ok", f"{len(senders)} registered")
    if clients:
        line("clients", "ok", f"{len(clients)} defined")
    else:
        line("clients", "warning", _NO_CLIENT, "relay client add NAME --network CIDR --sender PATTERN")
