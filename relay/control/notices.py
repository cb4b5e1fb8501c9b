"""What people were told, and whether they can be: the record, and a test of every channel."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from relay.accounts.model import Account
from relay.aftercare.carrier import carriers, standing
from relay.aftercare.letters import own_mail, plain
from relay.aftercare.wording import rendered
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.queue import account_named
from relay.database.schema import notices
from relay.mail.ids import format_id
from relay.queue.ours import MAIL, OwnMail, Told, put, record
from relay.queue.verdicts import Verdict

MAX_ROWS = 10_000
_TEST = "test"
_WAIT_S = 20.0


async def notice_list(control: Control, *, account: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """What was told to whom, the latest first. `limit` is between 1 and MAX_ROWS."""
    chosen = select(notices).order_by(notices.c.id.desc()).limit(max(1, min(limit, MAX_ROWS)))
    if account is not None:
        chosen = chosen.where(notices.c.account_id == account_named(control, account).id)
    rows = await control.database.read(lambda connection: connection.execute(chosen).all())
    return [
        {
            "at": iso(row.at),
            "kind": row.kind,
            "account": _name(control, row.account_id),
            "about": row.about,
            "channel": row.channel,
            "recipient": row.recipient,
            "outcome": row.outcome,
            "detail": row.detail,
            "message_id": format_id(row.message_id) if row.message_id is not None else None,
        }
        for row in rows
    ]


async def notice_test(control: Control) -> list[dict[str, Any]]:
    """Tell every channel that this is a test; what became of it, one entry a channel and recipient.

    By mail to the administrators of the settings, or (none is named) to the owner of the account that carries it.
    `outcome` is sent, failed, or queued when there is no verdict of the upstream yet.
    """
    settings = control.settings.notices
    accounts = control.directory.accounts()
    able = carriers(
        accounts,
        await control.database.read(standing),
        named=settings.account,
        near="",
        troubled=lambda account: _rests(control, account),
    )
    if not able and not settings.urls:
        raise ControlError(
            "there is no way to tell anybody: no healthy account and no URL",
            "see `relay account list`, or set RELAY_NOTICES__URLS",
        )
    await control.announce("notice.test", ["notices"], {})
    subject, body = rendered("test", relay=control.postmark.hostname, actor=control.actor)
    results: list[dict[str, Any]] = [
        {
            "channel": outcome.channel,
            "recipient": "",
            "account": "",
            "message_id": None,
            "outcome": "sent" if outcome.sent else "failed",
            "detail": outcome.why,
        }
        for outcome in await control.chats.tell(subject, body)
    ]
    for told in results:
        control.progress(told)
        await _remember(control, None, told)
    recipients = settings.administrator or tuple(account.owned_by for account in able[:1])
    for recipient in recipients:
        told = await _mail(control, able, recipient, subject, body)
        control.progress(told)
        results.append(told)
    return results


async def _mail(control: Control, able: list[Account], recipient: str, subject: str, body: str) -> dict[str, Any]:
    told: dict[str, Any] = {"channel": MAIL, "recipient": recipient, "account": "", "message_id": None}
    if not able:
        told |= {"outcome": "failed", "detail": "no healthy account can carry it"}
        await _remember(control, None, told)
        return told
    carrier = able[0]
    mail = own_mail(
        plain(subject, body),
        id=control.queue.new_id(),
        kind=_TEST,
        carrier=carrier,
        recipient=recipient,
        postmark=control.postmark,
        now=now_ms(),
    )
    told |= {"account": carrier.address, "message_id": format_id(mail.id)}
    return told | await _verdict(control, mail, recipient)


async def _verdict(control: Control, mail: OwnMail, recipient: str) -> dict[str, str]:
    expected = control.queue.verdicts.expect(mail.id, 1, mail.account_id)
    now = now_ms()

    def store(connection: Connection) -> None:
        put(connection, mail, now)
        record(connection, Told(_TEST, mail.account_id, _TEST, MAIL, recipient, "queued", message_id=mail.id), now)

    try:
        await control.database.write(store)
    except BaseException:
        expected.close()
        raise
    control.queue.on_backlog(mail.account_id)
    return _said(await expected.wait(_WAIT_S), mail)


def _said(verdict: Verdict | None, mail: OwnMail) -> dict[str, str]:
    if verdict is None:
        return {"outcome": "queued", "detail": f"it waits: relay trace {format_id(mail.id)}"}
    if verdict.first is None:
        return {"outcome": "sent", "detail": ""}
    reply = f"{verdict.first.reply}: " if verdict.first.reply is not None else ""
    return {"outcome": "failed", "detail": f"{reply}{verdict.first.advice}"}


async def _remember(control: Control, account_id: int | None, told: dict[str, Any]) -> None:
    line = Told(_TEST, account_id, _TEST, told["channel"], told["recipient"], told["outcome"], told["detail"])
    await control.database.write(lambda connection: record(connection, line, now_ms()))


def _rests(control: Control, account: Account) -> bool:
    return control.lanes is not None and bool(control.lanes.state(account.id)["resting_s"])


def _name(control: Control, account_id: int | None) -> str:
    account = control.directory.account(account_id) if account_id is not None else None
    return account.address if account is not None else ""
