"""The loopback listener of a sign-in: who may answer, and what is turned away."""

from __future__ import annotations

import asyncio
import io
import sys

import pytest

from relay.cli import connecting
from relay.control.loopback import MAX_REQUEST_BYTES, listening
from relay.credentials.oauth import TokenRefused


def code_of(url: str) -> str:
    if "state=ours" not in url:
        raise TokenRefused("state_mismatch")
    if "error=" in url:
        raise TokenRefused("access_denied")
    return url.partition("code=")[2].partition("&")[0]


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def test_the_first_answer_with_our_state_counts() -> None:
    async with listening(0, code_of) as loopback:
        assert b"404" in await ask(loopback.port, get("/favicon.ico"))
        assert b"400" in await ask(loopback.port, get("/?code=forged&state=theirs"))
        assert b"404" in await ask(loopback.port, b"POST /?code=forged&state=ours HTTP/1.1\r\n\r\n")
        assert await ask(loopback.port, b"GET /?" + b"a" * MAX_REQUEST_BYTES * 2) == b""
        assert not loopback.code.done()
        page = await ask(loopback.port, get("/?code=c0de&state=ours"))
        assert b"Signed in" in page
        assert b"no-store" in page
        assert b"c0de" not in page
        assert b"404" in await ask(loopback.port, get("/?code=another&state=ours"))
        assert await loopback.code == "c0de"


async def test_the_provider_s_refusal_ends_the_wait() -> None:
    async with listening(0, code_of) as loopback:
        assert b"refused" in await ask(loopback.port, get("/?error=access_denied&state=ours"))
        with pytest.raises(TokenRefused) as refused:
            await loopback.code
        assert refused.value.error == "access_denied"


async def test_whoever_guesses_is_not_heard_for_long() -> None:
    async with listening(0, code_of) as loopback:
        for _ in range(50):
            await ask(loopback.port, get("/?code=forged&state=theirs"))
        assert b"404" in await ask(loopback.port, get("/?code=c0de&state=ours"))


async def test_a_pasted_address_is_as_good_as_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(0, code_of) as loopback:
        pasted = "what?\nhttp://localhost:1/?code=c0de&state=ours\n"
        monkeypatch.setattr(sys, "stdin", io.StringIO(pasted))
        await asyncio.to_thread(connecting._forward_pasted, loopback.port)
        async with asyncio.timeout(5):
            assert await loopback.code == "c0de"
