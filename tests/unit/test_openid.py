"""Signing in to the console at an OpenID provider: which answers are believed, and whom they let in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.access import admission
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from tests.peers import authority as authorities
from tests.peers.authority import SECRET, USER, Authority, Fault
from tests.store import lay_store
from tests.unit.test_browser_sign_in import browse

REDIRECT = "http://localhost:8025/login/oidc/callback"
HERE = "192.0.2.1"


@pytest.fixture
async def control(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Control]:
    """A relay with one account, and the authority as its provider."""
    authority.reset()
    monkeypatch.setattr(authorities, "REDIRECT", REDIRECT)
    console = {"oidc_issuer": authority.issuer, "oidc_client_id": "secret", "oidc_client_secret": SECRET}
    settings = RelaySettings(
        data_dir=lay_store(tmp_path / "data"),
        oauth={"ca_file": authority.ca},  # type: ignore[arg-type]
        console=console,  # type: ignore[arg-type]
    )
    async with open_control(settings) as opened:
        await act(opened, "account.add", address=USER, host="mail.example.com", password="pw-of-ann-1")
        yield opened


def with_settings(control: Control, **changed: object) -> Control:
    console = control.settings.console.model_copy(update=changed)
    return replace(control, settings=control.settings.model_copy(update={"console": console}))


async def act(control: Control, action: str, **arguments: object) -> Any:
    return await registry.run(control, action, arguments)


async def sign_in(control: Control, authority: Authority) -> Any:
    begun = await act(control, "console.oidc_begin", redirect=REDIRECT)
    answer = browse(authority, begun["url"])
    return await act(control, "console.oidc_finish", answer=answer, browser=begun["browser"], address=HERE)


async def refusal(awaitable: Any) -> ControlError:
    with pytest.raises(ControlError) as caught:
        await awaitable
    return caught.value


async def invite(control: Control) -> None:
    await act(control, "user.invite", name=USER, accounts=[USER])


async def test_who_was_invited_signs_in_at_the_provider(control: Control, authority: Authority) -> None:
    assert (await act(control, "console.ready"))["provider"] == "localhost"
    await invite(control)
    opened = await sign_in(control, authority)
    assert (opened["name"], opened["owner"]) == (USER, True)
    session = {"session": opened["session"]}
    admitted = await admission.admitted(control, session, "me", {})
    assert (await registry.run(admitted, "me", {}))["accounts"] == [USER]
    authority.claims["email"] = "married@example.com"  # the same person, known by their subject now
    assert (await sign_in(control, authority))["name"] == USER
    authority.claims |= {"email": USER, "sub": "another"}  # the address went to somebody else there
    assert (await refusal(sign_in(control, authority))).kind == "forbidden"
    authority.claims.clear()
    await act(control, "console.password", password="correct horse battery")
    await act(control, "user.set", name=USER, disabled=True)
    assert (await refusal(sign_in(control, authority))).kind == "forbidden"
    said = [one["action"] for one in await act(control, "audit") if one["actor"] == f"console:{USER}"]
    assert sorted(set(said)) == ["console.login", "user.linked"]


async def test_an_owner_of_an_account_comes_uninvited_where_that_is_set(control: Control, authority: Authority) -> None:
    assert (await refusal(sign_in(control, authority))).kind == "forbidden"
    assert await act(control, "user.list") == []
    open_to_all = with_settings(control, oidc_owners=True)
    authority.user = "stranger@example.com"
    assert (await refusal(sign_in(open_to_all, authority))).kind == "forbidden"
    authority.user = USER
    assert (await refusal(sign_in(with_settings(open_to_all, oidc_domains=("x.org",)), authority))).kind == "forbidden"
    assert (await sign_in(with_settings(open_to_all, oidc_domains=("Example.COM",)), authority))["owner"]
    [user] = await act(control, "user.list")
    assert (user["name"], user["role"], user["accounts"]) == (USER, "owner", [USER])


@pytest.mark.parametrize("claims", [{"email_verified": False}, {"email_verified": None}, {"email_verified": "false"}])
async def test_an_address_that_nobody_verified_is_nobodys(
    control: Control, authority: Authority, claims: dict[str, Any]
) -> None:
    await invite(control)
    authority.claims |= claims
    said = await refusal(sign_in(control, authority))
    assert "OIDC_TRUST_EMAIL" in said.remedy
    assert (await sign_in(with_settings(control, oidc_trust_email=True), authority))["name"] == USER


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another-client"},
        {"aud": ["secret", "another"], "azp": None},
        {"azp": "another-client"},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"iat": 9_000_000_000},
        {"nonce": "of-another-sign-in"},
        {"nonce": None},
        {"sub": None},
        {"sub": ""},
    ],
    ids=str,
)
async def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    control: Control, authority: Authority, claims: dict[str, Any]
) -> None:
    await invite(control)
    authority.claims |= claims
    assert (await refusal(sign_in(control, authority))).kind == "unauthenticated"


def forged(authority: Authority, how: str) -> str:
    """An ID token with the right claims whose signature is worth nothing."""
    now = int(time.time())
    claims = {"iss": authority.issuer, "aud": "secret", "sub": "x", "email": USER, "email_verified": True}
    claims |= {"iat": now, "exp": now + 600, "nonce": "n"}
    match how:
        case "another key":
            return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, RSAKey.generate_key(2048))
        case "unknown key":
            return jwt.encode({"alg": "RS256", "kid": "k9"}, claims, RSAKey.generate_key(2048))
        case "client secret":
            return jwt.encode({"alg": "HS256", "kid": "k1"}, claims, OctKey.import_key(SECRET * 2))
        case "none":
            signed = jwt.encode({"alg": "RS256"}, claims, authority.signing)
            return "eyJhbGciOiJub25lIn0." + signed.split(".")[1] + "."
        case _:
            return "no.token.at-all"


@pytest.mark.parametrize("how", ["another key", "unknown key", "client secret", "none", "garbage"])
async def test_a_signature_counts_only_by_the_providers_own_keys(
    control: Control, authority: Authority, how: str
) -> None:
    await invite(control)
    authority.id_token = forged(authority, how)
    said = await refusal(sign_in(control, authority))
    assert said.kind == "unauthenticated"
    assert "InvalidClaim" not in said.text  # the signature came first


async def test_an_answer_counts_once_and_for_the_browser_that_began(control: Control, authority: Authority) -> None:
    await invite(control)
    begun = await act(control, "console.oidc_begin", redirect=REDIRECT)
    answer = browse(authority, begun["url"])
    other = await act(control, "console.oidc_begin", redirect=REDIRECT)
    finish = {"answer": answer, "address": HERE}
    for browser in ("", other["browser"]):
        assert (await refusal(act(control, "console.oidc_finish", browser=browser, **finish))).kind == "unauthenticated"
    await act(control, "console.oidc_finish", browser=begun["browser"], **finish)
    refused = await refusal(act(control, "console.oidc_finish", browser=begun["browser"], **finish))
    assert refused.kind == "unauthenticated"
    elsewhere = act(control, "console.oidc_begin", redirect="https://evil.example/login/oidc/callback")
    assert (await refusal(elsewhere)).kind == "invalid"


async def test_who_guesses_answers_waits(control: Control) -> None:
    refused = []
    for _ in range(11):
        guess = act(control, "console.oidc_finish", answer="x?state=y&code=z", browser="b", address=HERE)
        refused.append(await refusal(guess))
    assert [one.kind for one in refused] == ["unauthenticated"] * 10 + ["throttled"]
    assert 0 < (refused[-1].wait_s or 0) <= 600


async def test_an_issuer_that_calls_itself_otherwise_is_named(control: Control, authority: Authority) -> None:
    other = with_settings(control, oidc_issuer=authority.issuer + "/")
    said = await refusal(act(other, "console.oidc_begin", redirect=REDIRECT))
    assert authority.issuer in said.text
    assert "RELAY_CONSOLE__OIDC_ISSUER" in said.remedy


async def test_a_provider_that_is_down_is_told(control: Control, authority: Authority) -> None:
    await invite(control)
    begun = await act(control, "console.oidc_begin", redirect=REDIRECT)
    answer = browse(authority, begun["url"])
    authority.order(Fault(503))
    finish = act(control, "console.oidc_finish", answer=answer, browser=begun["browser"], address=HERE)
    assert (await refusal(finish)).kind == "unavailable"
