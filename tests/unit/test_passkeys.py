"""Passkeys, recovery codes, and the proof that what cannot be undone needs, on a real store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyotp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from relay.config.console import ConsoleSettings
from relay.config.own_address import origin_of
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.access import admission, ceremonies
from relay.control.access.attempts import MOST
from relay.control.access.ceremonies import LIFETIME_S, Ceremonies
from relay.control.access.model import needs_proof
from relay.control.access.proof import PROVED_S
from relay.control.context import Control, ControlError, now_ms
from relay.daemon.build import open_control
from relay.database.schema import console_sessions
from tests.peers.authenticator import Authenticator, decoded

PASSWORD = "correct horse battery"
HERE = "192.0.2.1"
ORIGIN = "https://relay.example.com"


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    console = ConsoleSettings(url=ORIGIN)
    async with open_control(RelaySettings(data_dir=tmp_path / "data", console=console)) as opened:
        control = opened.asked_by("tester", lambda _: None)
        await act(control, "console.password", password=PASSWORD)
        yield control


async def act(control: Control, action: str, **arguments: object) -> Any:
    return await registry.run(control, action, arguments)


async def web(control: Control, session: dict[str, str], action: str, **arguments: object) -> Any:
    admitted = await admission.admitted(control, session, action, arguments)
    return await registry.run(admitted, action, arguments)


async def login(control: Control, username: str = "admin", **more: object) -> Any:
    return await act(control, "console.login", username=username, password=PASSWORD, address=HERE, **more)


async def signed_in(control: Control, username: str = "admin") -> dict[str, str]:
    return {"session": (await login(control, username))["session"]}


async def register(control: Control, session: dict[str, str]) -> tuple[Authenticator, list[str]]:
    begun = await web(control, session, "me.passkey_begin", origin=ORIGIN)
    key = Authenticator(ORIGIN)
    answer = key.create(begun["options"])
    made = await web(control, session, "me.passkey_finish", ceremony=begun["ceremony"], answer=answer, name="laptop")
    return key, made["recovery_codes"]


async def begin(control: Control) -> tuple[str, Any]:
    begun = await act(control, "console.passkey_begin", origin=ORIGIN, address=HERE)
    return begun["ceremony"], begun["options"]


async def enter(control: Control, ceremony: str, answer: str) -> Any:
    control.desk.attempts.good(f"address {HERE}")
    return await act(control, "console.passkey_login", ceremony=ceremony, answer=answer, address=HERE)


async def kind(awaitable: Any) -> str:
    with pytest.raises(ControlError) as caught:
        await awaitable
    return caught.value.kind


async def age(control: Control, by_ms: int) -> None:
    """Every session proved itself so long ago."""
    await control.database.write(lambda c: c.execute(update(console_sessions).values(proved_at=now_ms() - by_ms)))


async def test_a_passkey_signs_in_without_a_password_and_is_a_second_factor_with_one(control: Control) -> None:
    session = await signed_in(control)
    key, codes = await register(control, session)
    assert len(set(codes)) == 10
    ceremony, options = await begin(control)
    assert (options["userVerification"], options["rpId"]) == ("required", "relay.example.com")
    entered = await enter(control, ceremony, key.get(options))
    assert entered["name"] == "admin"
    await web(control, {"session": entered["session"]}, "key.rotate")  # it is a proof
    assert await login(control) == {"needs": "passkey"}
    assert await kind(login(control, code="000000")) == "unauthenticated"
    assert "session" in await login(control, code=codes[0].upper().replace("-", " "))
    assert await kind(login(control, code=codes[0])) == "unauthenticated"  # each once
    me = await web(control, session, "me")
    assert (me["second_factors"], me["recovery_codes"], me["passkeys"][0]["name"]) == (["passkey"], 9, "laptop")
    assert me["passkeys"][0]["used_at"] is not None
    dump = b"".join(file.read_bytes() for file in control.settings.data_dir.glob("relay.db*"))
    assert not any(code.replace("-", "").encode() in dump or code.encode() in dump for code in codes)


async def test_no_answer_counts_that_is_not_the_passkeys_own_to_this_very_question(control: Control) -> None:
    key, _ = await register(control, await signed_in(control))
    stranger = Authenticator(ORIGIN, id=key.id, handle=key.handle)
    forged = {
        "another origin": lambda o: key.get(o, origin="https://relay.example.com.evil.example"),
        "another scheme": lambda o: key.get(o, origin="http://relay.example.com"),
        "another port": lambda o: key.get(o, origin=f"{ORIGIN}:8443"),
        "another site": lambda o: key.get(o, site="evil.example"),
        "another question": lambda o: key.get({**o, "challenge": "AAAA" + o["challenge"][4:]}),
        "a registration": lambda o: key.get(o, type="webauthn.create"),
        "without PIN or fingerprint": lambda o: key.get(o, flags=0x01),
        "without anybody there": lambda o: key.get(o, flags=0x04),
        "another key": stranger.get,
        "nobody's": lambda o: key.get(o, handle=None),
        "somebody else's": lambda o: key.get(o, handle=b"\x00" * 32),
        "an unknown passkey": Authenticator(ORIGIN, handle=key.handle).get,
    }
    for what, forge in forged.items():
        ceremony, options = await begin(control)
        assert await kind(enter(control, ceremony, forge(options))) == "unauthenticated", what
    ceremony, options = await begin(control)
    answer = key.get(options)
    assert "session" in await enter(control, ceremony, answer)
    assert await kind(enter(control, ceremony, answer)) == "unauthenticated"  # replayed
    other, _ = await begin(control)
    assert await kind(enter(control, other, answer)) == "unauthenticated"  # replayed to another question
    ceremony, options = await begin(control)
    answer = key.get(options)
    both = await asyncio.gather(*(enter(control, ceremony, answer) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, dict) for one in both) == 1


async def test_a_count_that_does_not_grow_is_a_copy(control: Control) -> None:
    key, _ = await register(control, await signed_in(control))
    for _ in range(2):  # one that does not count at all is no copy
        ceremony, options = await begin(control)
        assert "session" in await enter(control, ceremony, key.get(options, counts=0))
    key.count = 41
    ceremony, options = await begin(control)
    assert "session" in await enter(control, ceremony, key.get(options))
    for count in (0, 41, 42):
        key.count = count
        ceremony, options = await begin(control)
        with pytest.raises(ControlError, match="copy"):
            await enter(control, ceremony, key.get(options, counts=0))
    key.count = 42
    ceremony, options = await begin(control)
    assert "session" in await enter(control, ceremony, key.get(options))


async def test_a_passkey_is_its_persons_alone(control: Control) -> None:
    await act(control, "user.add", name="ann", password=PASSWORD)
    mine, hers = await signed_in(control), await signed_in(control, "ann")
    key, _ = await register(control, mine)
    own = (await web(control, mine, "me"))["passkeys"][0]["id"]
    assert await kind(web(control, hers, "me.passkey_rename", id=own, name="x")) == "not-found"
    assert await kind(web(control, hers, "me.passkey_remove", id=own)) == "not-found"
    begun = await web(control, hers, "me.proof_begin", origin=ORIGIN)
    answer = key.get(begun["options"])
    proved = web(control, hers, "me.prove", ceremony=begun["ceremony"], answer=answer)
    assert await kind(proved) == "proof"
    begun = await web(control, mine, "me.proof_begin", origin=ORIGIN)
    proved = web(control, hers, "me.prove", ceremony=begun["ceremony"], answer=key.get(begun["options"]))
    assert await kind(proved) == "proof"
    begun = await web(control, mine, "me.passkey_begin", origin=ORIGIN)
    assert [decoded(one["id"]) for one in begun["options"]["excludeCredentials"]] == [key.id]
    finish = {"ceremony": begun["ceremony"], "answer": Authenticator(ORIGIN).create(begun["options"]), "name": "x"}
    assert await kind(web(control, hers, "me.passkey_finish", **finish)) == "unauthenticated"
    begun = await web(control, hers, "me.passkey_begin", origin=ORIGIN)
    stolen = Authenticator(ORIGIN, id=key.id).create(begun["options"])  # the id of another person's passkey
    refused = web(control, hers, "me.passkey_finish", ceremony=begun["ceremony"], answer=stolen, name="x")
    assert await kind(refused) == "conflict"
    await web(control, mine, "me.passkey_rename", id=own, name="  old   laptop ")
    assert (await web(control, mine, "me"))["passkeys"][0]["name"] == "old laptop"
    await web(control, mine, "me.passkey_remove", id=own)
    ceremony, options = await begin(control)
    assert await kind(enter(control, ceremony, key.get(options))) == "unauthenticated"
    assert "session" in await login(control)


async def test_a_passkey_of_somebody_locked_out_or_reset_opens_nothing(control: Control) -> None:
    await act(control, "user.add", name="ann", role="administrator", password=PASSWORD)
    key, codes = await register(control, await signed_in(control, "ann"))
    await act(control, "user.set", name="ann", disabled=True)
    ceremony, options = await begin(control)
    assert await kind(enter(control, ceremony, key.get(options))) == "unauthenticated"
    await act(control, "user.set", name="ann", disabled=False, reset_second_factor=True)
    ceremony, options = await begin(control)
    assert await kind(enter(control, ceremony, key.get(options))) == "unauthenticated"
    assert "session" in await login(control, "ann")
    key, codes = await register(control, await signed_in(control, "ann"))
    await act(control, "user.remove", name="ann")
    await act(control, "user.add", name="ann", password=PASSWORD)
    assert await kind(act(control, "console.login", username="ann", password=codes[0], address=HERE)) != "ok"
    ceremony, options = await begin(control)
    assert await kind(enter(control, ceremony, key.get(options))) == "unauthenticated"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answer=st.one_of(
        st.text(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["id", "rawId", "type", "response", "clientDataJSON", "userHandle", "signature"]),
                    inner,
                )
            ),
            max_leaves=10,
        ).map(json.dumps),
    )
)
async def test_whatever_a_stranger_sends_is_refused_and_no_fault(control: Control, answer: str) -> None:
    ceremony, _ = await begin(control)
    assert await kind(enter(control, ceremony, answer)) == "unauthenticated"


def test_ceremonies_end_are_bounded_and_logins_push_no_others_out() -> None:
    now = 0.0
    kept, console = Ceremonies(lambda: now), ConsoleSettings(url=ORIGIN)
    registering, _ = kept.begin(console, "register", ORIGIN, 1)
    first, _ = kept.begin(console, "login", ORIGIN, None)
    for _ in range(ceremonies._MOST):
        last, _ = kept.begin(console, "login", ORIGIN, None)
    for purpose, id_, user_id in (("login", first, None), ("login", registering, None), ("prove", last, None)):
        with pytest.raises(ControlError):
            kept.take(purpose, id_, user_id)  # type: ignore[arg-type]
    assert kept.take("register", registering, 1).site == "relay.example.com"
    now = LIFETIME_S
    with pytest.raises(ControlError):
        kept.take("login", last, None)


def test_a_passkey_belongs_to_the_name_in_the_settings() -> None:
    set_url, unset = ConsoleSettings(url="https://Relay.example.com:443"), ConsoleSettings()
    assert ceremonies.site_of(set_url, "https://Relay.example.com:443") == ("relay.example.com", ORIGIN)
    assert ceremonies.site_of(unset, "http://localhost:8025") == ("localhost", "http://localhost:8025")
    for console, origin in (
        (set_url, "https://evil.example"),
        (unset, "http://evil.example:8025"),
        (unset, "http://127.0.0.1:8025"),
        (unset, "http://[::1]:8025"),
        (unset, "http://x@localhost:8025"),
    ):
        with pytest.raises(ControlError):
            ceremonies.site_of(console, origin)
    assert origin_of("http://[::1]:80/x") == ("::1", "http://[::1]")


# -- the proof -----------------------------------------------------------------------------------------------------


def test_what_of_an_account_needs_a_proof() -> None:
    assert not needs_proof("account.set", {"account": "a", "per_minute": 3, "defaults": ["per_day"]})
    for given_ in ({"host": "h"}, {"trust": "sha256:x"}, {"defaults": ["host"]}, {"imap_host": "h", "per_day": 1}):
        assert needs_proof("account.set", {"account": "a", **given_})


async def test_a_session_alone_does_nothing_that_could_not_be_undone(control: Control) -> None:
    await act(control, "account.add", address="ann@example.com", host="mail.example.com", password="x" * 12)
    await act(control, "user.add", name="bob", role="administrator", password=PASSWORD)
    session = await signed_in(control)
    await age(control, PROVED_S * 1000 + 1000)
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("me.password", {"password": "a-new-password"}),
        ("me.totp_begin", {}),
        ("me.totp_remove", {}),
        ("me.recovery_codes", {}),
        ("me.passkey_begin", {"origin": ORIGIN}),
        ("me.passkey_remove", {"id": "00"}),
        ("user.add", {"name": "eve", "role": "administrator"}),
        ("user.set", {"name": "bob", "disabled": True}),
        ("user.remove", {"name": "bob"}),
        ("user.invite", {"name": "bob"}),
        ("user.invite", {"name": "ann@example.com", "accounts": ["ann@example.com"]}),
        ("token.add", {"name": "x", "scopes": ["read"]}),
        ("key.add", {}),
        ("key.rotate", {}),
        ("key.drop", {"id": "x"}),
        ("account.set", {"account": "ann@example.com", "host": "evil.example"}),
        ("account.add", {"address": "ceo@example.com", "host": "evil.example", "password": "x" * 12}),
        ("account.remove", {"account": "ann@example.com"}),
        ("sender.add", {"pattern": "@example.com", "account": "ann@example.com"}),
        ("sender.remove", {"pattern": "ann@example.com"}),
        ("client.add", {"name": "eve", "networks": ["10.0.0.0/8"]}),
        ("client.set", {"name": "eve"}),
        ("client.remove", {"name": "eve"}),
        ("queue.remove", {"filters": {"account": "ann@example.com"}}),
    ]
    before = await act(control, "audit", limit=1000)
    for action, arguments in attempts:
        assert await kind(web(control, session, action, **arguments)) == "proof", action
    assert await act(control, "audit", limit=1000) == before
    await web(control, session, "account.set", account="ann@example.com", per_minute=3)
    await web(control, session, "account.suspend", account="ann@example.com")
    proved = await web(control, session, "me.prove", password=PASSWORD)
    renewed = {"session": proved["session"]}
    assert await kind(web(control, session, "me")) == "unauthenticated"  # a thief's copy of it ended
    await web(control, renewed, "user.set", name="bob", disabled=True)
    await age(control, PROVED_S * 1000 - 60_000)
    await web(control, renewed, "key.rotate")
    await age(control, -60_000)  # a clock that was set back
    assert await kind(web(control, renewed, "key.rotate")) == "proof"


async def test_a_proof_takes_the_second_factor_and_few_guesses(control: Control) -> None:
    session = await signed_in(control)
    begun = await web(control, session, "me.totp_begin")
    totp = pyotp.TOTP(begun["secret"])
    codes = (await web(control, session, "me.totp_finish", code=totp.now()))["recovery_codes"]
    assert await kind(web(control, session, "me.prove", password=PASSWORD)) == "proof"
    assert await kind(web(control, session, "me.prove", password=PASSWORD, code=totp.now())) == "proof"  # used
    assert await kind(web(control, session, "me.prove", password="wrong", code=codes[0])) == "proof"
    proved = await web(control, session, "me.prove", password=PASSWORD, code=codes[0])
    session = {"session": proved["session"]}
    assert await kind(web(control, session, "me.prove", password=PASSWORD, code=codes[0])) == "proof"
    ahead = totp.at(time.time() + 30)
    proved = await web(control, session, "me.prove", password=PASSWORD, code=ahead)
    session = {"session": proved["session"]}
    for _ in range(MOST - 1):
        control.desk.attempts.bad("proof 1")
    assert await kind(web(control, session, "me.prove", password="guess")) == "proof"
    assert await kind(web(control, session, "me.prove", password=PASSWORD, code=codes[1])) == "throttled"
    assert "session" in await login(control, code=codes[1])  # its owner is not locked out by a thief


async def test_an_invitation_is_no_proof_where_there_is_a_second_factor(control: Control) -> None:
    await register(control, await signed_in(control))
    for name, kind_ in (("admin", "proof"), ("new@example.com", "")):
        link = (await act(control, "user.invite", name=name))["path"].removeprefix("/invite/")
        session = {"session": (await act(control, "console.accept", token=link, address=HERE))["session"]}
        tried = web(control, session, "me.password", password="a-new-password")
        assert (await kind(tried) if kind_ else (await tried and "") or "") == kind_


async def test_a_token_reaches_as_far_as_its_maker(control: Control) -> None:
    await act(control, "user.add", name="bob", role="administrator", password=PASSWORD)
    session = await signed_in(control, "bob")
    token = {"token": (await web(control, session, "token.add", name="t", scopes=["read", "admin"]))["token"]}
    assert await web(control, token, "user.list")
    for action, arguments in (
        ("token.add", {"name": "u", "scopes": ["read"]}),
        ("token.remove", {"name": "t"}),
        ("user.add", {"name": "eve", "role": "administrator", "password": PASSWORD}),
        ("user.set", {"name": "bob", "reset_second_factor": True}),
        ("user.invite", {"name": "admin"}),
        ("user.remove", {"name": "bob"}),
    ):
        assert await kind(web(control, token, action, **arguments)) == "forbidden", action
    await web(control, token, "user.invite", name="ann@example.com")
    assert await kind(web(control, token, "user.set", name="ann@example.com", role="administrator")) == "forbidden"
    for change, back in (({"disabled": True}, {"disabled": False}), ({"role": "owner"}, {"role": "administrator"})):
        await act(control, "user.set", name="bob", **change)
        assert await kind(web(control, token, "user.list")) == "unauthenticated"
        assert (await act(control, "token.list"))[0]["rests"]
        await act(control, "user.set", name="bob", **back)
        assert await web(control, token, "user.list")
    await act(control, "user.remove", name="bob")
    assert await kind(web(control, token, "user.list")) == "unauthenticated"
    assert await act(control, "token.list") == []
    machine = {"token": (await act(control, "token.add", name="m", scopes=["read"]))["token"]}
    assert await web(control, machine, "account.list") == []


async def test_an_account_waits_for_its_owner_who_gives_the_password(control: Control) -> None:
    address = "ann@example.com"
    made = await act(control, "account.add", address=address, host="mail.example.com", invite=True)
    assert made["state"] == "suspended"
    shown = await act(control, "account.show", account=address)
    assert (shown["state"], shown["who"]) == ("suspended", "owner")
    assert "Its owner was invited" in shown["cause"]
    link = (await act(control, "user.invite", name=address, accounts=[address]))["path"].removeprefix("/invite/")
    session = {"session": (await act(control, "console.accept", token=link, address=HERE))["session"]}
    stored = await web(control, session, "account.set_password", account=address, password="mailbox-password")
    assert stored["resumed"]
    assert (await act(control, "account.show", account=address))["state"] == "ok"
    both = act(control, "account.add", address="b@example.com", host="h.example", invite=True, password="x" * 12)
    assert await kind(both) == "refused"
