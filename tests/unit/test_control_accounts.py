"""Accounts, senders and clients through the actions: what they change, refuse and leave in the audit trail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.accounts import store
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from relay.queue.model import Arrival
from tests.store import arrival, lay_store

SECRET = "a-secret-of-the-control-tests"


class Lanes:
    """What the actions ask of a dispatcher, written down."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def refresh(self) -> None:
        self.asked.append(("refresh", 0))

    def wake(self, account_id: int) -> None:
        self.asked.append(("wake", account_id))

    def state(self, account_id: int) -> dict[str, object]:
        return {"resting_s": 0, "in_hand": 0, "active": 0, "connections": 0, "cause": ""}


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        yield opened.asked_by("tester", lambda _: None)


async def act(control: Control, action: str, **arguments: object) -> object:
    return await registry.run(control, action, arguments)


async def refusal(control: Control, action: str, **arguments: object) -> ControlError:
    with pytest.raises(ControlError) as caught:
        await registry.run(control, action, arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
    return caught.value


async def add(control: Control, address: str = "ann@example.com", **more: object) -> None:
    await act(control, "account.add", **{"address": address, "host": "mail.example.com", "password": SECRET, **more})


async def test_an_account_comes_with_its_secret_and_its_own_sender(control: Control) -> None:
    result = await act(control, "account.add", address="Ann@Example.com", provider="m365", password=SECRET)
    assert isinstance(result, dict)
    assert (result["host"], result["port"], result["tls"]) == ("smtp.office365.com", 587, "starttls")
    assert result["senders"] == ["ann@example.com"]
    account = control.directory.by_address("ann@example.com")
    assert account is not None
    assert await control.vault.fetch(account.id, "password") == SECRET
    which = await act(control, "sender.which", address="ANN@example.com")
    assert isinstance(which, dict)
    assert which["account"] == "Ann@Example.com"
    assert "exact" in which["why"]


async def test_a_refused_account_leaves_nothing(control: Control) -> None:
    await add(control)
    await act(control, "sender.add", pattern="bob@example.com", account="ann@example.com")
    await refusal(control, "account.add", address="bob@example.com", host="mail.example.com", password=SECRET)
    assert [account.address for account in control.directory.accounts()] == ["ann@example.com"]
    assert sum((await control.vault.key_usage()).values()) == 1
    trail = await act(control, "audit")
    assert isinstance(trail, list)
    assert [entry["action"] for entry in trail] == ["account.add", "sender.add"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"password": None}, "no password"),
        ({"auth": "oauth-code"}, "has no password"),
        ({"auth": "oauth-code", "password": None}, "--client-id"),
        ({"auth": "oauth-code", "password": None, "client_id": "x"}, "--token-url"),
        ({"auth": "none"}, "has no password"),
        ({"auth": "oauth"}, "one of password, none, oauth-code"),
        ({"address": "not an address"}, "not possible"),
        ({"provider": "nobody", "host": None}, "provider"),
        ({"tls": "none"}, "clear text"),
        ({"tls": "sometimes"}, "tls"),
        ({"trust": "none"}, "trust"),
        ({"password": ""}, "password"),
        ({"port": 0}, "port"),
    ],
)
async def test_what_cannot_be_is_refused_with_a_remedy(
    control: Control, arguments: dict[str, object], said: str
) -> None:
    base: dict[str, object] = {"address": "ann@example.com", "host": "mail.example.com", "password": SECRET}
    assert said in str(await refusal(control, "account.add", **{**base, **arguments}))
    assert control.directory.accounts() == []


async def test_changed_settings_apply_at_once_and_go_back(control: Control) -> None:
    await add(control)
    await act(control, "account.set", account="ann@example.com", port=2587, per_minute=5)
    shown = await act(control, "account.show", account="ann@example.com")
    assert isinstance(shown, dict)
    assert (shown["port"], shown["per_minute"]) == (2587, 5)
    await act(control, "account.set", account="ann@example.com", defaults=["port"])
    shown = await act(control, "account.show", account="ann@example.com")
    assert isinstance(shown, dict)
    assert (shown["port"], shown["per_minute"]) == (587, 5)
    assert "clear text" in str(await refusal(control, "account.set", account="ann@example.com", tls="none"))
    await refusal(control, "account.set", account="ann@example.com")


async def test_a_new_password_ends_a_suspension_by_the_relay_but_not_by_an_operator(control: Control) -> None:
    lanes = Lanes()
    control = Control(**{**{name: getattr(control, name) for name in Control.__slots__}, "lanes": lanes})
    await add(control)
    await act(control, "account.suspend", account="ann@example.com")
    result = await act(control, "account.set_password", account="ann@example.com", password="new " + SECRET)
    assert result == {"account": "ann@example.com", "resumed": False}
    account = control.directory.by_address("ann@example.com")
    assert account is not None
    assert account.state == "suspended"

    await control.database.write(
        lambda c: store.set_state(c, account.id, "suspended", "gmail-bad-password", "535 no", 1)
    )
    await control.directory.reload()
    result = await act(control, "account.set_password", account="ann@example.com", password=SECRET)
    assert result == {"account": "ann@example.com", "resumed": True}
    resumed = control.directory.by_address("ann@example.com")
    assert resumed is not None
    assert resumed.state == "ok"
    assert resumed.revision > account.revision
    assert lanes.asked[-2:] == [("refresh", 0), ("wake", account.id)]
    assert await control.vault.fetch(account.id, "password") == SECRET


async def test_an_account_that_is_needed_is_not_removed(control: Control) -> None:
    await add(control)
    await act(control, "sender.add", pattern="@shop.example.com", account="ann@example.com")
    assert "@shop.example.com" in str(await refusal(control, "account.remove", account="ann@example.com"))
    account = control.directory.by_address("ann@example.com")
    assert account is not None
    message = await control.queue.accept(arrival(account=account.id, sender="ann@example.com"))
    assert "wait" in str(await refusal(control, "account.remove", account="ann@example.com", force=True))
    assert [sender.pattern for sender in control.directory.senders()] == ["@shop.example.com", "ann@example.com"]
    await control.queue.operator.remove([message])
    result = await act(control, "account.remove", account="ann@example.com", force=True)
    assert result == {"account": "ann@example.com", "senders": ["@shop.example.com", "ann@example.com"]}
    assert control.directory.accounts() == []
    assert control.directory.senders() == []
    assert sum((await control.vault.key_usage()).values()) == 0


async def test_which_says_what_was_tried(control: Control) -> None:
    await add(control)
    await act(control, "sender.add", pattern="@example.com", account="ann@example.com")
    found = await act(control, "sender.which", address="carol+x@example.com")
    assert isinstance(found, dict)
    assert (found["step"], found["rule"]) == ("domain", "@example.com")
    assert "no account may send as carol@example.org" in str(
        await refusal(control, "sender.which", address="carol@example.org")
    )
    assert "no account may send as <>" in str(await refusal(control, "sender.which", address="<>"))


async def test_clients_bind_networks(control: Control) -> None:
    added = await act(control, "client.add", name="erp", networks=["10.1.0.0/16"], senders=["@example.com"])
    assert isinstance(added, dict)
    assert added["networks"] == ["10.1.0.0/16"]
    assert "host bits" in str(await refusal(control, "client.add", name="b", networks=["10.2.0.1/16"]))
    assert "belongs to client erp" in str(await refusal(control, "client.add", name="b", networks=["10.1.0.0/16"]))
    assert "127.0.0.1 included" in added["warning"]
    assert "@example.com goes through no account" in added.pop("warning")
    assert "known are" in str(await refusal(control, "client.add", name="c", networks=["10.3.0.0/16"], tolerate=["x"]))
    assert await act(control, "client.show", name="erp") == added
    assert await act(control, "client.list") == [added]
    removed = await act(control, "client.remove", name="erp")
    assert isinstance(removed, dict)
    assert removed["left"] == 0
    assert "any registered sender" in removed["warning"]
    await refusal(control, "client.show", name="erp")


async def test_the_audit_trail_names_who_did_what_and_no_secret(control: Control) -> None:
    await add(control)
    await act(control, "account.set_password", account="ann@example.com", password=SECRET)
    await act(control, "client.add", name="erp", networks=["10.0.0.0/8"])
    trail = await act(control, "audit", since="1h")
    assert isinstance(trail, list)
    assert [(entry["actor"], entry["action"], entry["target"]) for entry in trail] == [
        ("tester", "account.add", "ann@example.com"),
        ("tester", "account.set-password", "ann@example.com"),
        ("tester", "client.add", "erp"),
    ]
    assert SECRET not in json.dumps(trail)
    assert await act(control, "audit", since="2999-01-01") == []
    await refusal(control, "audit", since="yesterday")


async def test_a_message_of_no_route_follows_a_new_sender(control: Control) -> None:
    await add(control)
    await add(control, "bob@example.com")
    bob = control.directory.by_address("bob@example.com")
    assert bob is not None
    accepted = Arrival(
        "ann@example.com", ("x@example.org",), arrival().content, bob.id, "<1@x>", "127.0.0.1", False, False
    )
    await control.queue.accept(accepted)
    summary = await act(control, "queue.summary")
    assert isinstance(summary, dict)
    assert [(entry["account"], entry["deliveries"]) for entry in summary["accounts"]] == [("bob@example.com", 1)]


async def test_suspending_twice_leaves_one_audit_row(control: Control) -> None:
    await add(control)
    for action in ("account.suspend", "account.resume"):
        for changed in (True, False):
            result = await act(control, action, account="ann@example.com")
            assert isinstance(result, dict)
            assert result["changed"] is changed
    trail = await act(control, "audit")
    assert isinstance(trail, list)
    assert [entry["action"] for entry in trail] == ["account.add", "account.suspend", "account.resume"]


async def test_who_opts_out_of_tls_is_warned(control: Control) -> None:
    added = await act(control, "account.add", address="lan@example.com", host="lan.example", auth="none", tls="none")
    assert isinstance(added, dict)
    assert "mail goes to lan.example in CLEAR TEXT" in added["warning"]
    changed = await act(control, "account.set", account="lan@example.com", tls="starttls")
    assert isinstance(changed, dict)
    assert changed["warning"] == ""
    lines = await act(control, "account.set", account="lan@example.com", tls="none")
    assert isinstance(lines, dict)
    assert lines["warning"]
    checked = await act(control, "check", login=False)
    assert isinstance(checked, list)
    assert any("lan.example in CLEAR TEXT" in str(line) for line in checked)
