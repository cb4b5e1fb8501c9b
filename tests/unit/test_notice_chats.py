"""Chats, webhooks and pagers: told through Apprise in a process of its own, and nothing of a URL gets out."""

from __future__ import annotations

import os
import time

import pytest
from pydantic import SecretStr

from relay.aftercare.chat import Chats
from relay.config.egress import EgressSettings
from relay.config.settings import NoticesSettings
from tests.peers.proxies import running_proxy
from tests.peers.webhook import Webhook

SECRET = "a-token-nobody-may-see"


def chats(*urls: str, timeout_s: float = 20) -> Chats:
    return Chats([SecretStr(url) for url in urls], timeout_s=timeout_s, environ=os.environ)


async def test_each_url_is_told_and_says_how_it_went(caplog: pytest.LogCaptureFixture) -> None:
    with Webhook() as hook:
        told = chats(
            hook.url(login=f"bot:{SECRET}@"),
            hook.url(f"/refuses/{SECRET}"),
            f"json://127.0.0.1:1/{SECRET}",
            f"nope://{SECRET}",
        )
        outcomes = await told.tell("Suspended: a@example.com", "Über\nzwei Zeilen")
        assert [(one.channel, one.sent, one.why) for one in outcomes] == [
            ("json (URL 1)", True, ""),
            ("json (URL 2)", False, "the service answered 403"),
            ("json (URL 3)", False, "no connection to the service"),
            ("nope (URL 4)", False, "not a URL that Apprise knows, or a part of it is missing"),
        ]
        assert [(one["title"], one["message"]) for one in hook.taken] == [
            ("Suspended: a@example.com", "Über\nzwei Zeilen")
        ]
    assert SECRET not in repr(outcomes) + repr(vars(told)) + caplog.text


async def test_a_service_that_hangs_is_given_up() -> None:
    with Webhook() as hook:
        began = time.monotonic()
        [outcome] = await chats(hook.url("/hangs"), timeout_s=1.5).tell("t", "b")
        assert (outcome.sent, outcome.why) == (False, "no answer within 1.5 s")
        assert time.monotonic() - began < 10


async def test_they_are_reached_through_the_relays_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # what the environment says does not count
    async with running_proxy("socks5", login=f"relay:{SECRET}") as proxy:
        with Webhook() as hook:
            proxy.resolves["chat.invalid"] = "127.0.0.1"
            egress = EgressSettings(proxy=f"socks5://relay@127.0.0.1:{proxy.port}", proxy_password=SECRET)  # type: ignore[arg-type]
            urls = [SecretStr(f"json://chat.invalid:{hook.port}/ok"), SecretStr(hook.url())]
            told = Chats(urls, timeout_s=20, environ=os.environ, egress=egress)
            outcomes = await told.tell("t", "b")
            assert [one.sent for one in outcomes] == [True, True]
            assert proxy.asked == [f"chat.invalid:{hook.port}"]  # the other one is at an address of no_proxy
    assert SECRET not in repr(outcomes) + repr(vars(told))


async def test_they_are_reached_from_the_relays_own_address() -> None:
    with Webhook() as hook:
        egress = EgressSettings(source_address="127.0.0.9, ::1", ip="4")  # type: ignore[arg-type]
        told = Chats([SecretStr(hook.url())], timeout_s=20, environ=os.environ, egress=egress)
        assert [one.sent for one in await told.tell("t", "b")] == [True]
        assert hook.callers == ["127.0.0.9"]
        six = EgressSettings(ip="6")
        told = Chats([SecretStr(hook.url())], timeout_s=20, environ=os.environ, egress=six)
        assert [one.sent for one in await told.tell("t", "b")] == [False], "the hook is at an IPv4 address"


def test_services_that_know_no_way_out_are_named() -> None:
    assert chats("mailtos://u:p@example.com", "json://x/", "mqtt://x").directly() == ["mailtos (URL 1)", "mqtt (URL 3)"]


async def test_without_urls_no_process_is_started() -> None:
    assert await Chats([], timeout_s=0.001, environ={}).tell("t", "b") == []


def test_urls_are_secrets_and_may_hold_commas() -> None:
    settings = NoticesSettings(urls=f"mailto://u:p@host?to=a@b.c,d@e.f, slack://{SECRET}/x")  # type: ignore[arg-type]
    assert [url.get_secret_value() for url in settings.urls] == [
        "mailto://u:p@host?to=a@b.c,d@e.f",
        f"slack://{SECRET}/x",
    ]
    assert SECRET not in repr(settings) + str(settings.urls)
