"""Signing an account in through the console's own page: who may, where the answer may go, what it changes."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from relay.accounts import store
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.access.model import Principal
from relay.control.context import Control, ControlError
from relay.control.sign_ins import Begun, SignIns
from relay.credentials.oauth import OAuthApp
from relay.credentials.oauth.client import SignIn
from relay.credentials.oauth.providers import CLOUDS, Cloud
from relay.daemon.build import open_control
from tests.peers import authority as authorities
from tests.peers.authority import USER, Authority, Fault
from tests.store import lay_store

REDIRECT = "http://127.0.0.1:8025/oauth/callback"


@pytest.fixture
async def control(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Control]:
    """An owner's control, with the authority in Microsoft's place and one account that has a password."""
    authority.reset()
    monkeypatch.setattr(authorities, "REDIRECT", REDIRECT)
    usual = CLOUDS["global"]
    there = Cloud(f"https://localhost:{authority.port}", usual.delegated, usual.own, usual.graph)
    monkeypatch.setitem(CLOUDS, "global", there)
    oauth = {"microsoft_client_id": "public", "ca_file": authority.ca}
    settings = RelaySettings(data_dir=lay_store(tmp_path / "data"), oauth=oauth)  # type: ignore[arg-type]
    async with open_control(settings) as opened:
        await registry.run(opened, "account.add", {"address": USER, "provider": "m365", "password": "pw-of-ann"})
        yield opened.in_name_of(owner(opened))


def owner(control: Control, name: str = "ann", session: str = "one") -> Principal:
    account = control.directory.by_address(USER)
    assert account is not None
    return Principal(f"console:{name}", frozenset(), frozenset({account.id}), 1, session)


async def act(control: Control, action: str, **arguments: object) -> Any:
    return await registry.run(control, action, arguments)


def browse(authority: Authority, url: str) -> str:
    """Where the provider sends the browser."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    context = ssl.create_default_context(cafile=str(authority.ca))
    opener = urllib.request.build_opener(Stay, urllib.request.HTTPSHandler(context=context))
    with pytest.raises(HTTPError) as sent:
        opener.open(url, timeout=10)
    return str(sent.value.headers["location"])


async def kinds(control: Control) -> list[str]:
    account = control.directory.by_address(USER)
    assert account is not None
    return await control.vault.kinds(account.id)


async def refusal(awaitable: Any) -> ControlError:
    with pytest.raises(ControlError) as caught:
        await awaitable
    return caught.value


async def test_a_password_account_signs_in_and_the_password_goes(control: Control, authority: Authority) -> None:
    account = control.directory.by_address(USER)
    assert account is not None
    await control.database.write(lambda c: store.set_state(c, account.id, "suspended", "bad-password", "535", 1))
    await control.directory.reload()
    begun = await act(control, "account.begin_sign_in", account=USER, redirect=REDIRECT)
    assert await kinds(control) == ["password"]
    answer = browse(authority, begun["url"])
    assert answer.startswith(REDIRECT)
    assert await act(control, "account.which_sign_in", answer=answer) == {"account": USER}
    done = await act(control, "account.finish_sign_in", account=USER, answer=answer)
    assert done == {"account": USER, "auth": "oauth-code", "resumed": True}
    assert await kinds(control) == ["refresh_token"]
    now = control.directory.by_address(USER)
    assert now is not None
    assert (now.auth, now.state) == ("oauth-code", "ok")
    assert authority.check(await control.logins.token(now.id, "smtp"), "https://outlook.office.com/SMTP.Send")
    assert (await refusal(act(control, "account.finish_sign_in", account=USER, answer=answer))).kind == "not-found"
    audit = await act(control, "audit")
    assert [one["actor"] for one in audit if one["action"] == "account.connect"] == ["console:ann"]
    again = await act(control, "account.begin_sign_in", account=USER, redirect=REDIRECT)
    await act(control, "account.finish_sign_in", account=USER, answer=browse(authority, again["url"]))


async def test_nobody_but_the_session_that_began_hears_of_it_or_ends_it(control: Control, authority: Authority) -> None:
    begun = await act(control, "account.begin_sign_in", account=USER, redirect=REDIRECT)
    answer = browse(authority, begun["url"])
    for other in (owner(control, "eve"), owner(control, session="two")):
        their = control.in_name_of(other)
        said = await refusal(act(their, "account.which_sign_in", answer=answer))
        assert (said.kind, USER in str(said)) == ("not-found", False)
        assert (await refusal(act(their, "account.finish_sign_in", account=USER, answer=answer))).kind == "not-found"
    await act(control, "account.finish_sign_in", account=USER, answer=answer)


@pytest.mark.parametrize("wrong", ["denied", "refused", "no grant", "down"])
async def test_what_fails_changes_nothing_and_says_why(control: Control, authority: Authority, wrong: str) -> None:
    begun = await act(control, "account.begin_sign_in", account=USER, redirect=REDIRECT)
    answer = browse(authority, begun["url"])
    match wrong:
        case "denied":
            answer = answer.replace("code=", "error=access_denied&x=")
        case "refused":
            authority.order(Fault(400, b'{"error":"invalid_grant"}'))
        case "no grant":
            authority.says["refresh_token"] = None
        case "down":
            authority.order(Fault(503))
    said = await refusal(act(control, "account.finish_sign_in", account=USER, answer=answer))
    assert said.text
    assert said.remedy
    assert await kinds(control) == ["password"]
    account = control.directory.by_address(USER)
    assert account is not None
    assert (account.auth, account.oauth) == ("password", "")


@pytest.mark.parametrize(
    "redirect",
    [
        "https://evil.example/oauth/callback",
        "http://127.0.0.1:8025/elsewhere",
        "http://127.0.0.1@evil.example/oauth/callback",
        "http://127.0.0.1:8025/oauth/callback?x=1",
        "ftp://127.0.0.1/oauth/callback",
        "http://[/oauth/callback",
    ],
)
async def test_the_answer_comes_back_here_alone(control: Control, redirect: str) -> None:
    said = await refusal(act(control, "account.begin_sign_in", account=USER, redirect=redirect))
    assert said.kind == "invalid"


async def test_without_an_app_the_setting_is_named(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = control.settings.oauth.model_copy(update={"microsoft_client_id": ""})
    object.__setattr__(control, "settings", control.settings.model_copy(update={"oauth": bare}))
    said = await refusal(act(control, "account.begin_sign_in", account=USER, redirect=REDIRECT))
    assert "RELAY_OAUTH__MICROSOFT_CLIENT_ID" in said.remedy


def test_sign_ins_under_way_are_few_and_end() -> None:
    now = 0.0
    kept = SignIns(lambda: now)

    def begin(state: str, asker: str) -> None:
        sign_in = SignIn("https://x.example", REDIRECT, state, "verifier")
        kept.keep(Begun((asker, ""), 1, OAuthApp("generic"), sign_in))

    for number in range(7):
        begin(f"a{number}", "ann")
    assert [number for number in range(7) if kept.find(f"a{number}", ("ann", ""))] == [2, 3, 4, 5, 6]
    for number in range(300):
        begin(f"b{number}", f"user{number}")
    assert kept.find("a6", ("ann", "")) is None
    assert kept.find("b299", ("user299", "")) is not None
    now = 601.0
    assert kept.find("b299", ("user299", "")) is None
