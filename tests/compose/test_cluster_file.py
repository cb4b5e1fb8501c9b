"""docker/compose.cluster.yaml, run as its first lines say: mail through HAProxy, who sent it, and a node that dies."""

from __future__ import annotations

import asyncio
import json
import re
import smtplib
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compose.conftest import NEEDS_ENGINE
from tests.compose.stack import APP, PASSWORD, Provider, Stack, docker, image_of, until

pytestmark = NEEDS_ENGINE
NODES = ("relay-1", "relay-2", "relay-3")
MAILS = 90
# An application in the network of the nodes: tells its address, then the id of each mail that was accepted.
APPLICATION = """
import smtplib, sys, time
for number in range(int(sys.argv[1])):
    content = f"Subject: {number}\\r\\nX-Bench-Id: m{number}\\r\\n\\r\\nhello\\r\\n".encode()
    for _ in range(60):
        try:
            with smtplib.SMTP("haproxy", 2525, "app.example", 30) as client:
                if number == 0:
                    print(client.sock.getsockname()[0], flush=True)
                client.sendmail(sys.argv[2], [f"you{number}@example.com"], content)
        except (smtplib.SMTPException, OSError):
            time.sleep(1)
        else:
            print(f"m{number}", flush=True)
            break
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Up, by the lines at the head of the file but the last one, which adds an account."""
    found = Stack(tmp_path_factory.mktemp("cluster"), "compose.cluster.yaml")
    try:
        head = (found.folder / "compose.cluster.yaml").read_text()
        lines = [line.removeprefix("#").removeprefix("   ") for line in re.findall(r"^#   .*$", head, re.MULTILINE)]
        assert "account add" in lines[-1]
        found.script(lines[:-1], found.folder)
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def provider(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    found = Provider(stack, f"{stack.project}_inside", tmp_path_factory.mktemp("provider"))
    try:
        yield found
    finally:
        found.close()


def members(stack: Stack, at: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stack.relay(at, "node", "list", "--json"))
    return found


async def test_a_mail_goes_through_the_balancer(stack: Stack, provider: Provider) -> None:
    await stack.healthy("postgres", *NODES)
    assert {one["host"] for one in members(stack, "relay-2")} == set(NODES)

    def balanced() -> bool:
        said = docker("logs", stack.container("haproxy"))
        return all(f"Server smtp/{node} is UP" in said for node in NODES)

    await until(balanced, "HAProxy's checks find every node ready")
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.console}/readyz", timeout=10) as answer:
        assert answer.read() == b"ready\n"
    for node in NODES:
        docker("cp", str(provider.ca), f"{stack.container(node)}:/var/lib/relay/ca.pem")
    stack.relay("relay-1", "account", "add", APP, *provider.account(), stdin=PASSWORD)
    with smtplib.SMTP("127.0.0.1", stack.port, "app.example", 30) as client:
        client.sendmail(APP, ["you@example.com"], b"Subject: hello\r\n\r\nIt works.\r\n")
    await until(lambda: len(provider.taken()) == 1, "the mail arrived")
    assert (provider.taken()[0].account, provider.taken()[0].recipients) == (APP, ("you@example.com",))


async def test_a_node_that_is_killed_loses_nothing(stack: Stack, provider: Provider) -> None:
    await until(lambda: sum(one["accounts"] for one in members(stack, "relay-1")) == 1, "a node has the account")
    [killed] = [one["host"] for one in members(stack, "relay-1") if one["accounts"]]
    others = [node for node in NODES if node != killed]
    application = await asyncio.create_subprocess_exec(
        *("docker", "run", "--rm", "--network", f"{stack.project}_inside", "--no-healthcheck"),
        *("--entrypoint", "python", image_of(stack), "-c", APPLICATION, str(MAILS), APP),
        stdout=asyncio.subprocess.PIPE,
    )
    assert application.stdout is not None
    said = []
    while line := await application.stdout.readline():
        said.append(line.decode().strip())
        if len(said) == MAILS // 3:
            await asyncio.to_thread(docker, "kill", stack.container(killed))
    await application.wait()
    address, accepted = said[0], said[1:]
    assert len(accepted) == MAILS
    await until(lambda: set(accepted) <= {one.id for one in provider.taken()}, "all that was accepted arrived")
    await until(lambda: {one["host"] for one in members(stack, others[0])} == set(others), "the dead node is buried")
    with smtplib.SMTP("127.0.0.1", stack.port, "app.example", 30) as client:
        client.sendmail(APP, ["last@example.com"], b"Subject: last\r\nX-Bench-Id: last\r\n\r\nhello\r\n")
    await until(lambda: "last" in {one.id for one in provider.taken()}, "another node has its account")

    heard = [one for node in NODES for one in stack.events(node) if one["event"] == "message.accepted"]
    balancer = stack.state("haproxy")["NetworkSettings"]["Networks"][f"{stack.project}_inside"]["IPAddress"]
    assert address != balancer
    assert [one["client"] for one in heard].count(address) >= MAILS  # once more where an answer was lost
    assert balancer not in {one["client"] for one in heard}
