"""Who may sign in to the console and what they may do, on a real store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyotp
import pytest

from relay.config.console import ConsoleSettings
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.access import admission, answers, second_factor
from relay.control.access.attempts import MOST, WINDOW_S, Attempts
from relay.control.access.model import OWNED, PERSONAL, SCOPE_OF, SCOPES
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from tests.store import lay_store

PASSWORD = "correct horse battery"
MAILBOX = "the-mailbox-password"
HERE = "192.0.2.1"


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        control = opened.asked_by("tester", lambda _: None)
        for address in ("ann@example.com", "dept@example.com", "bob@example.com"):
            await act(control, "account.add", address=address, host="mail.example.com", password=MAILBOX)
        await act(control, "console.password", password=PASSWORD)
        yield control


async def act(control: Control, action: str, **arguments: object) -> Any:
    return await registry.run(control, action, arguments)


async def web(control: Control, credential: dict[str, str], action: str, **arguments: object) -> Any:
    admitted = await admission.admitted(control, credential, action, arguments)
    return await registry.run(admitted, action, arguments)


async def login(control: Control, username: str = "admin", password: str = PASSWORD, **more: object) -> Any:
    return await act(control, "console.login", username=username, password=password, address=HERE, **more)


async def kind(awaitable: Any) -> str:
    with pytest.raises(ControlError) as caught:
        await awaitable
    return caught.value.kind


def test_every_action_of_the_web_exists_and_every_scope_is_used() -> None:
    assert {*SCOPE_OF, *OWNED, *PERSONAL} <= registry.ACTIONS.keys()
    assert set(SCOPE_OF.values()) == set(SCOPES)
    never = {"metrics", "health", "principal", "migrate"} | {
        name for name in registry.ACTIONS if name.startswith("console.")
    }
    assert not never & {*SCOPE_OF, *OWNED, *PERSONAL}


async def test_a_session_is_its_users_and_ends(control: Control) -> None:
    session = {"session": (await login(control))["session"]}
    assert (await web(control, session, "principal"))["name"] == "console:admin"
    assert (await web(control, session, "me"))["role"] == "administrator"
    assert len(await web(control, session, "account.list")) == 3
    again = {"session": (await login(control))["session"]}
    assert again != session
    await act(control, "console.logout", session=session["session"])
    assert await kind(web(control, session, "account.list")) == "unauthenticated"
    await act(control, "console.password", password=PASSWORD + "2")
    assert await kind(web(control, again, "account.list")) == "unauthenticated"
    idle = replace(control, settings=control.settings.model_copy(update={"console": ConsoleSettings(idle_s=0.001)}))
    third = {"session": (await login(control, password=PASSWORD + "2"))["session"]}
    assert await kind(web(idle, third, "account.list")) == "unauthenticated"


async def test_an_owner_touches_what_was_granted_and_nothing_else(control: Control) -> None:
    link = await act(control, "user.invite", name="Ann@example.com", accounts=["ann@example.com", "dept@example.com"])
    token = link["path"].removeprefix("/invite/")
    assert (await act(control, "console.invitation", token=token, address=HERE))["name"] == "ann@example.com"
    session = {"session": (await act(control, "console.accept", token=token, address=HERE))["session"]}
    assert await kind(act(control, "console.accept", token=token, address=HERE)) == "unauthenticated"
    mine = await web(control, session, "me")
    assert mine["accounts"] == ["ann@example.com", "dept@example.com"]
    assert mine["mailboxes"][0] == {"address": "ann@example.com", "state": "ok", "waiting": 0}
    assert (await web(control, session, "account.show", account="DEPT@example.com"))["address"] == "dept@example.com"
    await web(control, session, "account.set_password", account="ann@example.com", password="new-password")
    for action in sorted(SCOPE_OF.keys() & registry.ACTIONS.keys()):
        assert await kind(web(control, session, action, account="bob@example.com")) == "forbidden"
        if action not in OWNED:
            assert await kind(web(control, session, action, account="ann@example.com")) == "forbidden"
    refused = web(control, session, "account.test", account="ann@example.com", to="victim@example.net")
    assert await kind(refused) == "forbidden"
    audit = await act(control, "audit")
    assert [one["target"] for one in audit if one["actor"] == "console:ann@example.com"] == ["ann@example.com"] * 2
    await act(control, "account.remove", account="dept@example.com", force=True)
    assert (await web(control, session, "me"))["accounts"] == ["ann@example.com"]


async def test_a_token_reaches_as_far_as_its_scopes_and_its_days(control: Control) -> None:
    made = await act(control, "token.add", name="nagios", scopes=["read"])
    token = {"token": made["token"]}
    assert len(await web(control, token, "account.list")) == 3
    assert await kind(web(control, token, "queue.hold", ids=["x"])) == "forbidden"
    assert await kind(web(control, token, "me")) == "forbidden"
    assert await kind(act(control, "token.add", name="nagios", scopes=["read"])) == "conflict"
    admin = {"token": (await act(control, "token.add", name="a", scopes=["admin"]))["token"]}
    assert await kind(web(control, admin, "token.add", name="b", scopes=["admin", "read"])) == "forbidden"
    assert [one["name"] for one in await act(control, "token.list")] == ["a", "nagios"]
    assert made["token"] not in str(await act(control, "token.list"))
    await act(control, "token.remove", name="nagios")
    assert await kind(web(control, token, "account.list")) == "unauthenticated"


async def test_who_guesses_waits(control: Control) -> None:
    assert await kind(login(control, username="nobody")) == "unauthenticated"
    for _ in range(MOST):
        assert await kind(login(control, password="wrong")) in ("unauthenticated", "throttled")
    assert await kind(login(control)) == "throttled"
    assert await kind(act(control, "console.accept", token="x", address=HERE)) == "throttled"


async def test_guesses_that_come_together_are_counted_one_by_one(control: Control) -> None:
    for number in range(MOST - 2):
        control.desk.attempts.bad("name admin", f"address elsewhere {number}")
    kinds = await asyncio.gather(*(kind(login(control, password=f"wrong {number}")) for number in range(6)))
    assert sorted(kinds) == ["throttled"] * 4 + ["unauthenticated"] * 2


async def test_a_login_of_ones_own_buys_no_more_guesses_at_others(control: Control) -> None:
    await act(control, "user.add", name="ann", password=PASSWORD)
    for number in range(MOST):
        control.desk.attempts.bad(f"name {number}", f"address {HERE}")
        if number == MOST - 2:
            await login(control, "ann")
    assert await kind(login(control)) == "throttled"


async def test_a_change_of_one_thing_leaves_a_user_locked_out(control: Control) -> None:
    await act(control, "user.add", name="ann", password=PASSWORD)
    link = (await act(control, "user.invite", name="ann"))["path"]
    await act(control, "user.set", name="ann", disabled=True)
    changed = await act(control, "user.set", name="ann", accounts=["bob@example.com"])
    assert changed["disabled"]
    assert await kind(login(control, "ann")) == "unauthenticated"
    await act(control, "user.set", name="ann", disabled=False)
    assert "session" in await login(control, "ann")
    used = act(control, "console.accept", token=link.removeprefix("/invite/"), address=HERE)
    assert await kind(used) == "unauthenticated"


async def test_an_invitation_that_two_follow_at_once_lets_one_in(control: Control) -> None:
    token = (await act(control, "user.invite", name="ann"))["path"].removeprefix("/invite/")
    came = (act(control, "console.accept", token=token, address=HERE) for _ in range(4))
    entered = [answer for answer in await asyncio.gather(*came, return_exceptions=True) if isinstance(answer, dict)]
    assert len(entered) == 1


async def test_a_new_password_ends_an_invitation_that_is_on_its_way(control: Control) -> None:
    first = {"session": (await login(control))["session"]}
    token = (await act(control, "user.invite", name="admin"))["path"].removeprefix("/invite/")
    await web(control, first, "me.password", password=PASSWORD + "3")
    assert await kind(act(control, "console.accept", token=token, address=HERE)) == "unauthenticated"


async def test_no_password_can_be_guessed_from_a_request_that_is_remembered(control: Control) -> None:
    asked = control.asked_by("token:x", lambda _: None)
    arguments = {"account": "ann@example.com", "password": MAILBOX}
    first = await answers.once(asked, "k", "account.set_password", arguments, registry.run)
    await act(control, "key.rotate")
    assert await answers.once(asked, "k", "account.set_password", arguments, registry.run) == first
    other = answers.once(asked, "k", "account.set_password", arguments | {"password": "another"}, registry.run)
    assert await kind(other) == "conflict"
    plain = hashlib.sha256(json.dumps(["account.set_password", arguments], sort_keys=True).encode()).digest()
    dump = b"".join(file.read_bytes() for file in control.settings.data_dir.glob("relay.db*"))
    assert plain not in dump
    assert MAILBOX.encode() not in dump
    elsewhere = control.asked_by("token:y", lambda _: None)
    shown = await answers.once(elsewhere, "k", "account.show", {"account": "bob@example.com"}, registry.run)
    assert shown["address"] == "bob@example.com"


def test_bad_logins_are_forgotten_after_their_time() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for _ in range(MOST):
        assert attempts.wait_s("a") == 0
        attempts.bad("a", "b")
    assert attempts.wait_s("a") == attempts.wait_s("c", "b") == WINDOW_S
    now = WINDOW_S
    assert attempts.wait_s("a") == 0
    attempts.bad("a")
    attempts.good("b")
    assert attempts.wait_s("b") == 0


async def test_a_second_factor_counts_each_code_once_and_survives_a_new_key(control: Control) -> None:
    session = {"session": (await login(control))["session"]}
    begun = await web(control, session, "me.totp_begin")
    assert begun["uri"].startswith("otpauth://totp/relay:admin?")
    assert await kind(web(control, session, "me.totp_finish", code="000000")) == "invalid"
    code = pyotp.TOTP(begun["secret"]).now()
    assert len((await web(control, session, "me.totp_finish", code=code))["recovery_codes"]) == 10
    assert await login(control) == {"needs": "code"}
    assert await kind(login(control, code=code)) == "unauthenticated"  # it was used to set it up
    assert await kind(login(control, code="123")) == "unauthenticated"
    await act(control, "key.rotate")
    rotated = await act(control, "key.rotate")
    old = [key["id"] for key in await act(control, "key.list") if not key["primary"] and not key["secrets"]]
    assert old
    for key_id in old:
        await act(control, "key.drop", id=key_id)
    assert rotated["unreadable"] == []
    code = pyotp.TOTP(begun["secret"]).at(time.time() + 30)  # a clock may be ahead
    assert "session" in await login(control, code=code)
    assert await kind(login(control, code=code)) == "unauthenticated"
    dump = b"".join(file.read_bytes() for file in control.settings.data_dir.glob("relay.db*"))
    assert begun["secret"].encode() not in dump
    assert PASSWORD.encode() not in dump


def test_a_code_fits_its_half_minute_and_its_neighbours() -> None:
    secret, now = second_factor.new_secret(), time.time()
    at = pyotp.TOTP(secret).at
    step = int(now // 30)
    assert second_factor.matching_step(secret, at(now), now_s=now) == step
    assert second_factor.matching_step(secret, at(now - 30), now_s=now) == step - 1
    assert second_factor.matching_step(secret, at(now - 90), now_s=now) is None
    assert second_factor.matching_step(secret, at(now), after=step, now_s=now) is None
    assert second_factor.matching_step(secret, "١٢٣٤٥٦", now_s=now) is None


async def test_the_last_administrator_stays(control: Control) -> None:
    assert await kind(act(control, "user.remove", name="admin")) == "conflict"
    assert await kind(act(control, "user.set", name="admin", role="owner")) == "conflict"
    await act(control, "user.add", name="root@example.com", role="administrator", password=PASSWORD)
    await act(control, "user.remove", name="admin")
    assert await kind(login(control)) == "unauthenticated"
    assert [user["name"] for user in await act(control, "user.list")] == ["root@example.com"]


async def test_a_key_stands_for_one_request_of_one_asker(control: Control) -> None:
    done: list[str] = []

    async def run(_control: Control, action: str, arguments: Any) -> Any:
        done.append(action)
        if arguments.get("how") == "again":  # the same key while its request is under way
            return await kind(answers.once(control, "k", action, arguments, run))
        if arguments.get("how") == "refused":
            raise ControlError("no", "never", "conflict")
        return {"number": len(done), "token": f"shown-once-{action}"}

    first = await answers.once(control, "k1", "sender.add", {"how": "a"}, run)
    assert await answers.once(control, "k1", "sender.add", {"how": "a"}, run) == first
    assert await kind(answers.once(control, "k1", "sender.add", {"how": "b"}, run)) == "conflict"
    other = control.asked_by("somebody-else", lambda _: None)
    assert await answers.once(other, "k1", "sender.add", {"how": "a"}, run) != first
    assert await answers.once(control, "k", "sender.add", {"how": "again"}, run) == "conflict"
    for _ in range(2):  # a refusal does not use the key up
        assert await kind(answers.once(control, "k2", "sender.add", {"how": "refused"}, run)) == "conflict"
    assert done == ["sender.add"] * 5
    made = await answers.once(control, "k3", "token.add", {}, run)
    assert made["token"] == "shown-once-token.add"
    assert "token" not in await answers.once(control, "k3", "token.add", {}, run)
    dump = b"".join(file.read_bytes() for file in control.settings.data_dir.glob("relay.db*"))
    assert b"shown-once-sender.add" in dump
    assert b"shown-once-token.add" not in dump
