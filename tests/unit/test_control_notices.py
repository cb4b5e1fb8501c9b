"""The actions about notices, over a store without a daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.config.settings import NoticesSettings, RelaySettings
from relay.control import registry
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from tests.peers.webhook import Webhook
from tests.store import lay_store

ANN = "ann@example.com"


@pytest.fixture
async def hook() -> AsyncIterator[Webhook]:
    with Webhook() as webhook:
        yield webhook


@pytest.fixture
async def control(tmp_path: Path, hook: Webhook) -> AsyncIterator[Control]:
    urls = [hook.url(), hook.url("/refuses/topsecret")]
    notices = NoticesSettings(administrator=("it@example.com",), urls=urls)  # type: ignore[arg-type]
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"), notices=notices)) as opened:
        yield opened.asked_by("tester", lambda _: None)


async def act(control: Control, action: str, **arguments: object) -> object:
    return await registry.run(control, action, arguments)


async def add(control: Control, **more: object) -> None:
    await act(control, "account.add", address=ANN, host="mx.example.com", auth="none", tls="starttls", **more)


async def test_each_channel_says_what_became_of_the_test(control: Control, hook: Webhook) -> None:
    await add(control)
    results = await act(control, "notice.test")
    assert isinstance(results, list)
    assert [(one["channel"], one["recipient"], one["outcome"], one["account"]) for one in results] == [
        ("json (URL 1)", "", "sent", ""),
        ("json (URL 2)", "", "failed", ""),
        ("mail", "it@example.com", "queued", ANN),
    ]
    assert [one["title"].startswith("Test notice") for one in hook.taken] == [True]
    listed = await act(control, "notice.list")
    assert isinstance(listed, list)
    assert [(one["channel"], one["outcome"]) for one in listed] == [
        ("mail", "queued"),
        ("json (URL 2)", "failed"),
        ("json (URL 1)", "sent"),
    ]
    assert "topsecret" not in repr(results) + repr(listed)
    of_account = await act(control, "notice.list", account=ANN)
    assert isinstance(of_account, list)
    assert [one["message_id"] for one in of_account] == [results[2]["message_id"]]
    [row] = [row for row in await act(control, "audit") if row["action"] == "notice.test"]  # type: ignore[attr-defined]
    assert row["actor"] == "tester"


async def test_with_no_way_to_tell_anybody_the_remedy_is_named(tmp_path: Path) -> None:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as control:
        with pytest.raises(ControlError, match=r"no healthy account and no URL; .*RELAY_NOTICES__URLS"):
            await act(control, "notice.test")


async def test_an_account_has_an_owner_and_may_say_that_its_upstream_takes_the_null_path(control: Control) -> None:
    await add(control, owner="eve@Example.com")
    shown = await act(control, "account.show", account=ANN)
    assert (shown["owner"], shown["null_sender"]) == ("eve@example.com", False)  # type: ignore[index]
    await act(control, "account.set", account=ANN, null_sender=True, defaults=["owner"])
    shown = await act(control, "account.show", account=ANN)
    assert (shown["owner"], shown["null_sender"]) == (ANN, True)  # type: ignore[index]
    with pytest.raises(ControlError, match="owner cannot be"):
        await act(control, "account.set", account=ANN, owner="nobody")
