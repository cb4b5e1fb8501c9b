"""Mail and tokens through real proxies: tinyproxy (CONNECT, Basic) and microsocks (SOCKS 5), by the real daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.peers.authority import SECRET, USER, Authority
from tests.peers.postfix import free_port, wait_for_port
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store

ABSENT = [program for program in ("tinyproxy", "microsocks") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(ABSENT), reason=f"{' and '.join(ABSENT)} not installed" if ABSENT else "present"),
]
PASSWORD, OTHER_PASSWORD = "s3cret-of-tinyproxy", "s3cret-of-microsocks"
MAIL = b"Subject: hello\r\n\r\nIt works.\r\n"
SCOPE = "https://outlook.office365.com/.default"


@contextmanager
def running(arguments: Sequence[str], port: int) -> Iterator[int]:
    """A proxy in the foreground, until the end."""
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def tinyproxy(folder: Path, *more: str) -> Iterator[int]:
    port = free_port()
    lines = (f"Port {port}", "Listen 127.0.0.1", "Timeout 30", "MaxClients 20", f'LogFile "{folder}/proxy-{port}.log"')
    config = folder / f"tinyproxy-{port}.conf"
    config.write_text("\n".join((*lines, "LogLevel Connect", *more, "")))
    with running(("tinyproxy", "-d", "-c", str(config)), port):
        yield port


@pytest.fixture
async def upstream(tmp_path: Path, authority: Authority) -> AsyncIterator[ScriptedUpstream]:
    def takes(_: str, token: str) -> bool:
        return bool(authority.check(token, SCOPE))

    async with ScriptedUpstream(mechanisms="XOAUTH2") as upstream:
        upstream.authority.cert_pem.write_to_path(tmp_path / "upstream.pem")
        upstream.takes_token = takes
        yield upstream


async def test_mail_and_tokens_go_through_the_proxy(
    tmp_path: Path, authority: Authority, upstream: ScriptedUpstream
) -> None:
    socks_port = free_port()
    socks = ("microsocks", "-i", "127.0.0.1", "-p", str(socks_port), "-u", "relay", "-P", OTHER_PASSWORD)
    with (
        tinyproxy(tmp_path, f"BasicAuth relay {PASSWORD}") as connect_port,
        tinyproxy(tmp_path, "ConnectPort 443") as strict_port,
        running(socks, socks_port),
    ):
        settings = {
            "RELAY_EGRESS__PROXY": f"http://relay@127.0.0.1:{connect_port}",
            "RELAY_EGRESS__PROXY_PASSWORD": PASSWORD,
            "RELAY_EGRESS__NO_PROXY": "nowhere.invalid",
            "RELAY_OAUTH__CA_FILE": str(authority.ca),
            "RELAY_SUBMISSION__STAGE_TIMEOUT_S": "10",
            "RELAY_SUBMISSION__MAX_MESSAGES_PER_CONNECTION": "1",
            "RELAY_DISPATCH__FIRST_RETRY_S": "0.2",
            "RELAY_DISPATCH__MAX_RETRY_S": "0.4",
            "RELAY_LOG__LEVEL": "debug",
        }
        async with RelayDaemon(lay_store(tmp_path / "data"), settings) as daemon:
            place = ("--host", "localhost", "--port", str(upstream.port), "--trust", str(tmp_path / "upstream.pem"))
            app = ("--provider", "m365", "--auth", "oauth-app", "--tenant", "contoso.example", "--client-id", "secret")
            oauth = (*app, "--client-secret-file", "-", "--token-url", authority.url("token"))
            await daemon.cli("account", "add", USER, *place, *oauth, stdin=SECRET)

            async def relayed(recipient: str) -> None:
                await daemon.submit(USER, [recipient], MAIL)
                assert (await upstream.next_message(15)).recipients == (recipient,)

            await relayed("connect@example.org")
            log = (tmp_path / f"proxy-{connect_port}.log").read_text()
            for port in (authority.port, upstream.port):
                assert f"CONNECT localhost:{port}" in log

            mine = ("--proxy", f"socks5://relay@127.0.0.1:{socks_port}", "--proxy-password-file", "-")
            await daemon.cli("account", "set", USER, *mine, stdin=OTHER_PASSWORD)
            assert (
                f"through proxy socks5://relay@127.0.0.1:{socks_port}"
                in (await daemon.cli("account", "show", USER)).stdout
            )
            await relayed("socks@example.org")
            assert (tmp_path / f"proxy-{connect_port}.log").read_text().count("CONNECT localhost") == 2

            # A wrong password, then a proxy that allows 443 alone: the mail waits, and goes once that is mended.
            await daemon.cli("account", "set", USER, *mine, stdin="wrong")
            await daemon.submit(USER, ["late@example.org"], MAIL)
            refused = await daemon.event("attempt.unreachable", remedy="proxy-auth")
            assert refused["stage"] == "connect"
            await daemon.cli("account", "set", USER, "--proxy", f"http://127.0.0.1:{strict_port}")
            await daemon.event("attempt.unreachable", remedy="proxy-refused")
            waiting = json.loads((await daemon.cli("account", "show", USER, "--json")).stdout)
            assert (waiting["state"], waiting["waiting"]) == ("ok", 1)
            await daemon.cli("account", "set", USER, "--proxy", "direct")
            assert (await upstream.next_message(15)).recipients == ("late@example.org",)
            spoken = json.dumps(daemon.events) + "\n".join(daemon.other_output)
        for file in (tmp_path / "data").rglob("*"):
            if file.is_file() and file.parent.name != "keys":
                spoken += file.read_bytes().decode("latin-1")
        assert PASSWORD not in spoken
        assert OTHER_PASSWORD not in spoken
