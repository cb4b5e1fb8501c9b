"""Queue, trace and keys through the actions, over a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from relay.cli.queue import message_lines
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from relay.mail.dsn import NO_RECIPIENT_REQUEST, MessageRequest, RecipientRequest
from relay.mail.ids import format_id
from relay.queue.model import AttemptRecord, Settlement, State
from tests.store import arrival, lay_store

REFUSED = AttemptRecord("refused", "rcpt", 550, "5.1.1", "no such user", "m365-recipient-unknown", 12)
LATER = AttemptRecord("refused", "mail", 451, "4.3.0", "try later", "fallback-temporary", 7)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        control = opened.asked_by("tester", lambda _: None)
        await registry.run(
            control,
            "account.add",
            {"address": "ann@example.com", "host": "mail.example.com", "password": "stored-by-the-queue-tests"},
        )
        yield control


async def accept(control: Control, *recipients: str) -> str:
    account = control.directory.by_address("ann@example.com")
    assert account is not None
    return format_id(await control.queue.accept(arrival(*recipients, account=account.id, sender="ann@example.com")))


async def settle(control: Control, *states: tuple[State, AttemptRecord]) -> None:
    """One attempt at everything that is due."""
    account = control.directory.by_address("ann@example.com")
    assert account is not None
    [message], _ = await control.queue.claim_due(account.id, limit=10)
    settlements = [
        Settlement(delivery, state, (1 << 45), attempt)
        for delivery, (state, attempt) in zip(message.deliveries, states, strict=True)
    ]
    await control.queue.settle(message, settlements)
    control.queue.put_down(message)


async def act(control: Control, action: str, **arguments: object) -> object:
    return await registry.run(control, action, arguments)


async def refusal(control: Control, action: str, **arguments: object) -> str:
    with pytest.raises(ControlError) as caught:
        await registry.run(control, action, arguments)
    return str(caught.value)


async def test_a_list_shows_what_is_owed_with_the_last_reply(control: Control) -> None:
    number = await accept(control, "gone@example.org", "slow@example.org")
    await settle(control, (State.BOUNCED, REFUSED), (State.DEFERRED, LATER))
    owed = await act(control, "queue.list")
    assert isinstance(owed, list)
    [entry] = owed
    assert (entry["id"], entry["recipient"], entry["state"], entry["attempts"]) == (
        number,
        "slow@example.org",
        "deferred",
        1,
    )
    assert entry["reply"] == "451 4.3.0 try later"
    assert entry["next_attempt_at"] is not None
    bounced = await act(control, "queue.list", state="bounced", account="ann@example.com")
    assert isinstance(bounced, list)
    assert [row["recipient"] for row in bounced] == ["gone@example.org"]
    shown = await act(control, "queue.show", id=number.upper())
    assert isinstance(shown, dict)
    assert [row["state"] for row in shown["deliveries"]] == ["bounced", "deferred"]
    assert "no such state" in await refusal(control, "queue.list", state="sent")
    assert "no account" in await refusal(control, "queue.list", account="bob@example.com")


async def test_what_the_application_asked_is_shown_with_the_message(control: Control) -> None:
    account = control.directory.by_address("ann@example.com")
    assert account is not None
    given = arrival("a@example.org", "b@example.org", account=account.id, sender="ann@example.com")
    requests = (RecipientRequest("SUCCESS,DELAY", "rfc822;o@example.org"), NO_RECIPIENT_REQUEST)
    asking = replace(given, original_path="www-data@host", request=MessageRequest("HDRS", "QQ1"), requests=requests)
    number = format_id(await control.queue.accept(asking))
    shown = await act(control, "queue.show", id=number)
    [story] = await act(control, "trace", id=number)  # type: ignore[misc]
    assert isinstance(shown, dict)
    for message in (shown, story):
        assert (message["sender"], message["original_sender"]) == ("ann@example.com", "www-data@host")
        assert (message["envid"], message["ret"]) == ("QQ1", "HDRS")
        lines = dict(message_lines(message))
        assert lines["Original sender"] == "www-data@host"
        assert lines["Envelope id"] == "QQ1"
        assert lines["Asked"] == "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@example.org for a@example.org"
    assert [row["notify"] for row in shown["deliveries"]] == ["SUCCESS,DELAY", None]
    plain = await act(control, "queue.show", id=await accept(control, "c@example.org"))
    assert isinstance(plain, dict)
    assert (plain["original_sender"], plain["envid"], plain["ret"]) == (None, None, None)
    assert "Asked" not in dict(message_lines(plain))


async def test_session_and_repairs_are_kept_with_the_message(control: Control) -> None:
    given = arrival("a@example.org", sender="ann@example.com")
    session = control.queue.new_id()
    number = format_id(await control.queue.accept(replace(given, session=session, repaired="bare-lf,-bcc,Date")))
    [story] = await act(control, "trace", id=number)  # type: ignore[misc]
    shown = await act(control, "queue.show", id=number)
    assert isinstance(shown, dict)
    for message in (shown, story):
        assert message["session_id"] == format_id(session)
        assert message["repaired"] == ["bare-lf", "-bcc", "Date"]
        lines = dict(message_lines(message))
        assert lines["Session"] == format_id(session)
        assert str(lines["Repaired"]).endswith("Bcc was taken out; Date was missing and was added")
    plain = await act(control, "queue.show", id=await accept(control, "c@example.org"))
    assert isinstance(plain, dict)
    assert (plain["session_id"], plain["repaired"], plain["repairs"]) == (None, [], [])


async def test_hold_release_retry_remove(control: Control) -> None:
    number = await accept(control, "a@example.org", "b@example.org")
    held = await act(control, "queue.hold", ids=[number])
    assert isinstance(held, dict)
    assert held["changed"] == 2
    assert "held" in await refusal(control, "queue.retry", ids=[number])
    assert "held" in await refusal(control, "queue.hold", ids=[number])
    summary = await act(control, "queue.summary")
    assert isinstance(summary, dict)
    assert summary["states"] == {"held": 2}
    released = await act(control, "queue.release", ids=[number])
    assert isinstance(released, dict)
    assert released["changed"] == 2
    assert "nothing of it is held" in await refusal(control, "queue.release", ids=[number])
    await settle(control, (State.DEFERRED, LATER), (State.DEFERRED, LATER))
    retried = await act(control, "queue.retry", ids=[number])
    assert isinstance(retried, dict)
    assert retried["changed"] == 2
    await settle(control, (State.DEFERRED, LATER), (State.DEFERRED, LATER))  # due again: claimed at once
    removed = await act(control, "queue.remove", ids=[number])
    assert isinstance(removed, dict)
    assert removed["changed"] == 2
    assert "nothing is owed" in await refusal(control, "queue.remove", ids=[number])
    assert await act(control, "queue.list") == []


async def test_a_suspended_account_is_named_when_its_mail_is_tried_again(control: Control) -> None:
    number = await accept(control)
    await act(control, "account.suspend", account="ann@example.com")
    result = await act(control, "queue.retry", ids=[number])
    assert isinstance(result, dict)
    assert result["suspended"] == ["ann@example.com"]


async def test_ids_that_are_none_are_refused(control: Control) -> None:
    number = await accept(control)
    assert "not a message id" in await refusal(control, "queue.hold", ids=["short"])
    assert "no message id" in await refusal(control, "queue.hold", ids=[])
    assert "there is no message 0000000000000" in await refusal(control, "queue.hold", ids=[number, "0" * 13])
    summary = await act(control, "queue.summary")
    assert isinstance(summary, dict)
    assert summary["states"] == {"queued": 1}


async def test_a_trace_tells_the_story_in_order(control: Control) -> None:
    number = await accept(control, "gone@example.org", "slow@example.org")
    await settle(control, (State.BOUNCED, REFUSED), (State.DEFERRED, LATER))
    await act(control, "queue.hold", ids=[number])
    for wanted in (number, "<1@example.com>", "1@example.com"):
        stories = await act(control, "trace", id=wanted)
        assert isinstance(stories, list)
        [story] = stories
        assert story["id"] == number
        events = [event["event"] for event in story["events"]]
        assert events == ["accepted", "attempt.refused", "attempt.refused", "bounced", "queue.hold", "waiting"]
        assert story["events"][4]["by"] == "tester"
        assert story["events"][5]["state"] == "held"
        attempt = story["events"][2]
        assert (attempt["code"], attempt["status"], attempt["reply"]) == (451, "4.3.0", "try later")
        assert attempt["cause"]
        assert attempt["steps"]
    assert "no message of that id" in await refusal(control, "trace", id="<other@example.com>")


async def test_keys_are_added_rotated_dropped(control: Control) -> None:
    listed = await act(control, "key.list")
    assert isinstance(listed, list)
    [first] = listed
    assert first["primary"]
    assert first["secrets"] == 1
    assert "primary" in await refusal(control, "key.drop", id=first["id"])
    rotated = await act(control, "key.rotate")
    assert isinstance(rotated, dict)
    assert rotated["resealed"] == 1
    assert rotated["added"] == rotated["primary"] != first["id"]
    assert rotated["droppable"] == [first["id"]]
    added = await act(control, "key.add")
    assert isinstance(added, dict)
    assert "sealed" in await refusal(control, "key.drop", id=rotated["primary"])
    again = await act(control, "key.rotate")
    assert isinstance(again, dict)
    assert (again["primary"], again["added"], again["resealed"]) == (added["id"], None, 1)
    await act(control, "key.drop", id=first["id"])
    await act(control, "key.drop", id=rotated["primary"])
    listed = await act(control, "key.list")
    assert isinstance(listed, list)
    assert [key["id"] for key in listed] == [added["id"]]
    account = control.directory.by_address("ann@example.com")
    assert account is not None
    assert await control.vault.fetch(account.id, "password") == "stored-by-the-queue-tests"
    assert "no key" in await refusal(control, "key.drop", id="k0")


async def test_a_check_without_login_finds_what_is_open(control: Control) -> None:
    told: list[object] = []
    lines = await registry.run(control.asked_by("tester", told.append), "check", {"login": False})
    assert told == lines
    assert all(line["status"] != "failed" for line in lines)
    assert [line["item"] for line in lines if line["status"] == "ok"] == [
        "settings",
        "keys",
        "database",
        "secrets",
        "senders",
    ]
    warnings = [line["text"] for line in lines if line["status"] == "warning"]
    assert "no client is defined: any allowed network may use any registered sender" in warnings
