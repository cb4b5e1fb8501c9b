"""Tries an account's mailbox over IMAP, step by step, changing nothing in it."""

from __future__ import annotations

from typing import Any

from relay.accounts.model import Account, ImapServer
from relay.accounts.upstream import imap_of
from relay.control.context import Control, ControlError
from relay.control.explain import facts_of
from relay.control.oauth_settings import WITH_A_PERSON
from relay.control.probing import shown_bounded
from relay.control.queue import account_named
from relay.diagnosis import diagnose
from relay.mail.counted import counted
from relay.mail.outcome import Stage, Unreachable
from relay.submission.imap.connection import CommandRefused, ImapConnection
from relay.submission.imap.opening import Limits, MailboxClosed, open_mailbox
from relay.submission.imap.responses import sent_folder
from relay.submission.imap.wire import ImapFault

_COMMAND_S = 60.0
_STAGES = {"connect": Stage.CONNECT, "tls": Stage.TLS}


async def account_test_imap(control: Control, *, account: str) -> dict[str, Any]:
    """Connect, TLS, log in, open INBOX, list the folders, log out.

    Each step goes to `control.progress` as {step, ok, detail}: connect, tls, login, inbox, folders.
    """
    found = account_named(control, account)
    if found.auth == "none":
        raise ControlError(f"{found.address} logs in with nothing", "a mailbox needs a password or a sign-in")
    server = imap_of(found, control.directory.upstream(found), control.settings.imap)
    if server is None:
        raise ControlError(
            f"no IMAP server is known for {found.address}",
            f"relay account set {found.address} --imap-host HOST, or IMAP_HOST for all accounts without a provider",
        )
    control.logins.person_acted(found.id)

    def told(step: str, detail: str) -> None:
        control.progress({"step": step, "ok": True, "detail": shown_bounded(detail)})

    result = {"account": found.address, "host": server.host, "port": server.port, "sent": None, "messages": None}
    try:
        facts = await _through(control, server, told)
    except MailboxClosed as closed:
        return {**result, **_failed(control, found, closed)}
    return {**result, **facts, "ok": True, "reply": "", "cause": "", "remedy": [], "failed_at": None}


async def _through(control: Control, server: ImapServer, told: Any) -> dict[str, Any]:
    cap = control.settings.submission.stage_timeout_s or float("inf")
    limits = Limits(min(control.settings.submission.connect_timeout_s, cap), min(_COMMAND_S, cap))
    logins = control.logins
    connection = await open_mailbox(
        server,
        logins.imap_secret,
        second=logins.imap_second,
        way_of=control.ways.of,
        limits=limits,
        on_step=told,
    )
    try:
        return await _look(connection, told)
    except CommandRefused as refusal:
        raise MailboxClosed("inbox", "imap-no-inbox", str(refusal.status)) from refusal
    except ImapFault as fault:
        reason = "imap-protocol" if fault.reason == "protocol-error" else "imap-unreachable"
        raise MailboxClosed("inbox", reason, fault.detail) from fault
    finally:
        await connection.logout()


async def _look(connection: ImapConnection, told: Any) -> dict[str, Any]:
    messages = (await connection.examine(b"INBOX")).messages
    told("inbox", counted(messages, "message"))
    folders = await connection.folders()
    sent = sent_folder(folders)
    by = "by its use" if sent is not None and "\\sent" in sent.attributes else "by its name"
    words = f"sent mail goes to {sent.shown} ({by})" if sent is not None else "none is for sent mail"
    told("folders", f"{len(folders)}: {words}")
    return {"messages": messages, "sent": sent.shown if sent is not None else None}


def _failed(control: Control, account: Account, closed: MailboxClosed) -> dict[str, Any]:
    detail = shown_bounded(closed.detail)
    control.progress({"step": closed.step, "ok": False, "detail": detail})
    outcome = Unreachable(_STAGES.get(closed.step, Stage.AUTH), closed.reason, closed.detail)
    facts = facts_of(diagnose(outcome), account)
    del facts["what_happens"]  # that is about mail: nothing happens to it for this
    if account.auth in WITH_A_PERSON and (closed.reason == "imap-login-refused" or closed.step == "token"):
        ask = f"Sign in anew and ask for the right to IMAP as well: relay account connect {account.address} --imap"
        facts["remedy"] = [ask, *facts["remedy"]]
    return {**facts, "ok": False, "reply": detail, "failed_at": closed.step}
