"""The console's process beside a real daemon: closed by default, one door for programs, mail does not depend on it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, Relaying

ADMIN_PASSWORD = "correct horse battery"
OPEN = ("/healthz", "/readyz", "/login")


@asynccontextmanager
async def browsing(daemon: RelayDaemon, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    started = await daemon.event("console.started", timeout_s=30)
    base = f"http://127.0.0.1:{started['port']}"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=15) as client:
        yield client


async def token(daemon: RelayDaemon, name: str, *scopes: str) -> dict[str, str]:
    options = [option for scope in scopes for option in ("--scope", scope)]
    made = await daemon.cli("console", "token", name, *options)
    return {"authorization": f"Bearer {made.stdout.strip()}"}


async def test_nothing_is_open_without_a_login(relaying: Relaying) -> None:
    settings = {"RELAY_CONSOLE__ENABLED": "yes", "RELAY_CONSOLE__PORT": "0"}
    async with relaying(fresh=True, **settings) as daemon, browsing(daemon) as web:
        assert (await web.get("/healthz")).text == "ok\n"
        assert (await web.get("/readyz")).text == "ready\n"
        metrics = (await web.get("/metrics")).text
        assert 'relay_queue_deliveries{state="queued"} 0.0' in metrics
        assert "relay_messages_accepted_total 0.0" in metrics
        document = (await web.get("/api/v1/openapi.json", headers=await token(daemon, "doc", "read"))).json()
        assert (await web.get("/api/v1/openapi.json")).status_code == 401
        for path, methods in document["paths"].items():
            for method in methods:
                answer = await web.request(method, path.replace("{", "").replace("}", ""), json={})
                assert answer.status_code in (401, 422), (method, path)
                assert answer.headers["content-type"] == "application/problem+json"
                assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (await web.get("/login", headers={"host": "evil.example"})).status_code == 421
        assert (await web.get("/metrics", headers={"host": "evil.example"})).status_code == 421
        assert (await web.post("/api/v1/keys", headers={"origin": "http://evil.example"})).status_code == 403


async def test_a_balancer_may_ask_by_any_name_and_hears_one_word(relaying: Relaying) -> None:
    settings = {
        "RELAY_CONSOLE__ENABLED": "yes",
        "RELAY_CONSOLE__PORT": "0",
        "RELAY_QUEUE__MIN_FREE_BYTES": str(1 << 50),
    }
    async with relaying(**settings) as daemon, browsing(daemon) as web:
        why = await web.get("/readyz")
        assert (why.status_code, why.text.splitlines()[0]) == (503, "not ready")
        assert "octets are free" in why.text
        for host in ("10.1.2.3:8025", "relay-1", "evil.example"):
            asked = {"host": host}
            assert (await web.get("/healthz", headers=asked)).text == "ok\n"
            assert (await web.get("/readyz", headers=asked)).text == "not ready\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", web.base_url.port)
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")  # as HAProxy's `option httpchk` asks
        assert (await reader.read()).endswith(b"\r\n\r\nnot ready\n")
        writer.close()


async def test_a_program_does_what_its_scope_allows_and_repeats_nothing(relaying: Relaying) -> None:
    async with relaying(RELAY_CONSOLE__ENABLED="yes", RELAY_CONSOLE__PORT="0") as daemon, browsing(daemon) as web:
        reader, keeper = await token(daemon, "r", "read"), await token(daemon, "k", "read", "accounts")
        assert [one["address"] for one in (await web.get("/api/v1/accounts", headers=reader)).json()] == [APP]
        body = {"address": "bob@example.com", "host": "mail.example.com", "password": "another-secret-1"}
        assert (await web.post("/api/v1/accounts", headers=reader, json=body)).status_code == 403
        once = keeper | {"idempotency-key": "k-1"}
        first = await web.post("/api/v1/accounts", headers=once, json=body)
        assert first.status_code == 201
        assert (await web.post("/api/v1/accounts", headers=once, json=body)).json() == first.json()
        other = await web.post("/api/v1/accounts", headers=once, json=body | {"address": "eve@example.com"})
        assert other.status_code == 409
        assert (await web.post("/api/v1/accounts", headers=keeper, json=body)).status_code == 409
        wrong = await web.post(
            "/api/v1/accounts", headers=keeper, json=body | {"port": 70000, "address": "x@example.com"}
        )
        assert wrong.status_code == 422
        assert "port" in wrong.json()["detail"]
        misspelt = await web.post("/api/v1/accounts", headers=keeper, json={"adress": "x@example.com"})
        assert {error["field"] for error in misspelt.json()["errors"]} == {"address", "adress"}
        assert (await web.get("/api/v1/accounts/nobody@example.com", headers=reader)).status_code == 404
        assert (await web.get("/api/v1/users", headers=keeper)).status_code == 403
        audit = (await daemon.cli("audit", "--json")).stdout
        assert "token:k" in audit
        assert "another-secret-1" not in audit + first.text + wrong.text
        await daemon.cli("console", "revoke", "r")
        assert (await web.get("/api/v1/accounts", headers=reader)).status_code == 401


async def test_mail_goes_on_without_the_console_and_it_comes_back(
    relaying: Relaying, upstream: ScriptedUpstream
) -> None:
    async with relaying(fresh=True, RELAY_CONSOLE__ENABLED="yes", RELAY_CONSOLE__PORT="0") as daemon:
        await daemon.event("console.started", timeout_s=30)
        seen = len(daemon.events)
        os.kill(_child_of(daemon.pid), signal.SIGKILL)
        await daemon.event("console.ended", since=seen)
        await daemon.submit(APP, ["ann@example.org"], b"Subject: x\r\n\r\nhello\r\n")
        await daemon.event("delivery.relayed", since=seen)
        async with browsing(daemon) as web:
            await daemon.event("console.started", since=seen, timeout_s=30)
            assert (await web.get("/healthz")).status_code == 200
        child = _child_of(daemon.pid)
        await daemon.kill()
        async with asyncio.timeout(10):
            while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
                await asyncio.sleep(0.05)  # no event tells of the end of a process that is not ours
        assert upstream.messages


async def test_a_taken_port_is_told_and_mail_is_taken(relaying: Relaying, upstream: ScriptedUpstream) -> None:
    async with relaying(RELAY_CONSOLE__ENABLED="yes", RELAY_CONSOLE__PORT=str(upstream.port)) as daemon:
        told = await daemon.event("console.unavailable")
        assert "RELAY_CONSOLE__PORT" in told["to_do"]
        await daemon.submit(APP, ["ann@example.org"], b"Subject: x\r\n\r\nhello\r\n")
        await daemon.event("delivery.relayed")


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(child) for child in children if b"relay.console" in Path(f"/proc/{child}/cmdline").read_bytes())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
