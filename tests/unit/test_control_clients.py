"""Client entries and From policies through the actions: all options, what is refused, and no password anywhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from relay.accounts.passwords import verify_password
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from relay.database.schema import audit
from relay.mail.tolerance import DEFAULT
from tests.store import lay_store

SECRET = "a-secret-of-the-client-tests"
EVERYTHING: dict[str, Any] = {
    "name": "erp",
    "networks": ["10.1.0.0/16"],
    "senders": ["@example.com"],
    "answer": "direct",
    "tolerate": ["no-brackets", "raw-8bit", "bare-recipients"],
    "auth": "login",
    "login": "erp",
    "password": SECRET,
    "identity": "map",
    "sender_map": ["root@localhost=app@example.com", "bounce=1@old.example=app@example.com", "<>=app@example.com"],
    "messages_per_minute": 60,
    "recipients_per_minute": 600,
    "bytes_per_day": 10_000_000,
    "recipients": ["@example.org"],
    "denied": ["boss@example.org"],
    "capture": "tests@example.com",
    "default_domain": "example.org",
    "charset": "cp1252",
}


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        yield opened.asked_by("tester", lambda _: None)


async def act(control: Control, action: str, **arguments: object) -> Any:
    result = await registry.run(control, action, arguments)
    assert SECRET not in json.dumps(result)
    assert "argon2" not in json.dumps(result)
    return result


async def refusal(control: Control, action: str, **arguments: object) -> str:
    with pytest.raises(ControlError) as caught:
        await registry.run(control, action, arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
    return str(caught.value)


async def test_every_option_is_kept_and_shown_but_the_password(control: Control) -> None:
    added = await act(control, "client.add", **EVERYTHING)
    shown = await act(control, "client.show", name="erp")
    assert added.pop("warning")
    assert added == shown
    assert await act(control, "client.list") == [shown]
    expected = {**EVERYTHING, "charset": "windows-1252", "password_set": True}
    del expected["password"]
    assert {name: shown[name] for name in expected} == expected
    assert "no-brackets" in shown["tolerated"]
    assert "bare-lf" in shown["tolerated"]
    client = control.directory.client_by_login("erp")
    assert client is not None
    assert verify_password(client.password_hash, SECRET)


async def test_what_was_shown_can_be_given_again(control: Control) -> None:
    await act(control, "client.add", **EVERYTHING)
    shown = await act(control, "client.show", name="erp")
    given = {name: value for name, value in shown.items() if name in EVERYTHING and name != "networks"}
    again = await act(control, "client.set", **given)
    again.pop("warning")
    assert again.pop("changed") == {}
    assert again == shown


async def test_the_audit_trail_says_that_a_password_was_set_and_no_more(control: Control) -> None:
    await act(control, "client.add", **EVERYTHING)
    await act(control, "client.set", name="erp", password=SECRET + "2", messages_per_minute=7)
    rows = await control.database.read(
        lambda c: c.execute(select(audit.c.action, audit.c.target, audit.c.detail)).all()
    )
    assert [(row.action, row.target) for row in rows] == [("client.add", "erp"), ("client.set", "erp")]
    detail = json.loads(rows[1].detail)
    assert (detail["password"], detail["after"]) == ("set", {"messages_per_minute": 7})
    assert json.loads(rows[0].detail)["sender_map"][0] == ["root@localhost", "app@example.com"]
    for row in rows:
        assert SECRET not in row.detail
        assert "argon2" not in row.detail


async def test_a_set_changes_what_is_given_and_an_empty_value_clears(control: Control) -> None:
    await act(control, "client.add", **EVERYTHING)
    changed = await act(control, "client.set", name="erp", answer="queued", recipients=[], capture="", bytes_per_day=0)
    assert (changed["answer"], changed["recipients"], changed["capture"], changed["bytes_per_day"]) == (
        "queued",
        [],
        "",
        0,
    )
    assert changed["messages_per_minute"] == 60
    assert changed["login"] == "erp"
    opened = await act(control, "client.set", name="erp", auth="none")
    assert (opened["auth"], opened["login"], opened["password_set"]) == ("none", "", False)
    assert control.directory.client_by_login("erp") is None


async def test_a_set_says_what_was_and_what_is(control: Control) -> None:
    await act(control, "client.add", **EVERYTHING)
    changed = (await act(control, "client.set", name="erp", tolerate=["-no-brackets"], answer="direct"))["changed"]
    assert changed == {
        "tolerate": {
            "before": ["no-brackets", "raw-8bit", "bare-recipients"],
            "after": ["raw-8bit", "bare-recipients"],
        },
        "tolerated": {
            "before": sorted({*DEFAULT, "no-brackets", "raw-8bit", "bare-recipients"}),
            "after": sorted({*DEFAULT, "raw-8bit", "bare-recipients"}),
        },
    }
    assert (await act(control, "client.set", name="erp", answer="direct"))["changed"] == {}


async def test_a_login_comes_with_its_password_later_too(control: Control) -> None:
    await act(control, "client.add", name="erp", networks=["10.1.0.0/16"])
    assert "--password-file" in await refusal(control, "client.set", name="erp", auth="login", login="erp")
    changed = await act(control, "client.set", name="erp", login="erp", password=SECRET, networks=[])
    assert (changed["auth"], changed["networks"], changed["password_set"]) == ("login", [], True)


async def test_refusals_name_the_option_and_the_remedy(control: Control) -> None:
    await act(control, "client.add", **EVERYTHING)
    net = {"name": "b", "networks": ["10.2.0.0/16"]}
    for more, words in (
        ({"name": "erp"}, "there is a client erp already; change it with `relay client set erp`"),
        ({"networks": []}, "network is missing; give at least one --network"),
        ({"login": "erp", "password": SECRET}, "client erp logs in as erp already"),
        ({"login": "b", "password": ""}, "password is missing; give one with --password-file"),
        ({"login": "b", "password": SECRET * 100}, "password cannot be longer than 1024 octets"),
        ({"password": SECRET}, "give --auth login"),
        ({"sender_map": ["root@localhost"]}, "write FROM=TO"),
        ({"sender_map": [""]}, "write FROM=TO"),
        ({"identity": "map"}, "--map FROM=TO"),
        ({"tolerate": ["bare_lf"]}, "did you mean bare-lf?"),
        ({"tolerate": ["bare-recipients"]}, "--default-domain"),
        ({"charset": "windows-1252"}, "--tolerate raw-8bit"),
        ({"capture": "\x1b[31m@example.com"}, "\\x1b"),
        ({"bytes_per_day": -1}, "bytes-per-day cannot be -1"),
        ({"senders": ["example.com"]}, "sender cannot be example.com; write"),
        ({"sender_map": ["root=a@example.com"]}, "map cannot be root; write"),
        ({"sender_map": ["*=nobody"]}, "map cannot be nobody; "),
        ({"sender_map": ["*="]}, "map cannot be an empty text; "),
        ({"capture": "nobody"}, "capture cannot be nobody; "),
        ({"recipients": ["*"]}, "recipient cannot be *; write"),
        ({"denied": ["*"]}, "deny cannot be *; write"),
    ):
        assert words in await refusal(control, "client.add", **{**net, **more})
    assert "nothing to change" in await refusal(control, "client.set", name="erp")
    assert "no client b" in await refusal(control, "client.set", name="b", answer="direct")
    assert "no client b" in await refusal(control, "client.show", name="b")
    assert len(await act(control, "client.list")) == 1


async def test_warnings_tell_what_would_not_work_yet(control: Control) -> None:
    added = await act(
        control,
        "client.add",
        name="erp",
        networks=["10.1.0.0/16"],
        senders=["billing@example.com"],
        sender_map=["*=app@example.com"],
        default_domain="example.org",
        capture="tests@example.com",
    )
    for words in (
        "127.0.0.1 included",
        "10.1.0.0/16 may not connect yet: add it to RELAY_LISTENER__ALLOWED_NETWORKS",
        "app@example.com goes through no account yet",
        "app@example.com is none of its senders",
        "--tolerate bare-recipients only",
        "to tests@example.com and to nobody else",
    ):
        assert words in added["warning"]
    await act(control, "account.add", address="app@example.com", host="mail.example.com", password=SECRET)
    await act(control, "account.add", address="billing@example.com", host="mail.example.com", password=SECRET)
    fixed = await act(
        control,
        "client.set",
        name="erp",
        senders=["billing@example.com", "app@example.com"],
        tolerate=["bare-recipients"],
        capture="",
        networks=["127.0.0.0/8"],
    )
    assert fixed["warning"] == ""


@pytest.mark.parametrize("policy", ["keep", "rewrite", "refuse"])
async def test_a_sender_has_a_from_policy(control: Control, policy: str) -> None:
    await act(control, "account.add", address="ann@example.com", host="mail.example.com", password=SECRET)
    added = await act(control, "sender.add", pattern="@example.com", account="ann@example.com", from_policy=policy)
    assert added["from"] == policy
    assert (await act(control, "sender.which", address="bob@example.com"))["from"] == policy
    assert "keep, rewrite, refuse" in await refusal(
        control, "sender.add", pattern="@example.com", account="ann@example.com", from_policy="forge"
    )
