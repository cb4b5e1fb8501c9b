"""docker/compose.yaml, run from its section of the README: the first mail, what it may do, its end, its mistakes."""

from __future__ import annotations

import re
import secrets
import smtplib
import time
from collections.abc import Iterator

import pytest

from tests.compose.conftest import NEEDS_ENGINE
from tests.compose.stack import APP, PASSWORD, Provider, Stack, block_of, docker, image_of, until

pytestmark = NEEDS_ENGINE
DATA, UID = "/var/lib/relay", 10025
GRACE_S = 45


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    found = Stack(tmp_path_factory.mktemp("one"), "compose.yaml")
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def commands(stack: Stack) -> list[str]:
    """The README's lines: the folder, the key, the start, the alias and the mail."""
    lines = block_of(stack.checkout / "README.md", "cd docker")
    assert len(lines) == 5
    return lines


@pytest.fixture(scope="module")
def provider(stack: Stack, commands: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The stack is up, and its account lives at this provider."""
    stack.script(commands[:3], stack.checkout)
    found = Provider(stack, f"{stack.project}_default", tmp_path_factory.mktemp("provider"))
    try:
        docker("cp", str(found.ca), f"{stack.container('relay')}:{DATA}/ca.pem")
        stack.relay("relay", "account", "add", APP, *found.account(), stdin=PASSWORD)
        yield found
    finally:
        found.close()


async def test_the_first_mail_arrives_as_the_readme_says(stack: Stack, commands: list[str], provider: Provider) -> None:
    await stack.healthy("relay")
    assert "accepted  250" in stack.relay("relay", "account", "test", APP)
    stack.script(commands[4:], stack.folder)
    await until(lambda: len(provider.taken()) == 2, "both mails arrived")
    assert {(one.account, one.sender) for one in provider.taken()} == {(APP, APP)}
    assert provider.taken()[1].recipients == ("you@example.com",)
    await until(
        lambda: any(one["event"] == "delivery.relayed" and one["code"] == 250 for one in stack.events("relay")),
        "the log says what the README shows",
    )
    assert '"main"' in stack.relay("relay", "key", "list", "--json")  # of the host's file


async def test_it_has_no_rights_and_nothing_to_write_to(stack: Stack, provider: Provider) -> None:
    state = stack.state("relay")
    assert (state["Config"]["User"], state["HostConfig"]["ReadonlyRootfs"]) == (f"{UID}:{UID}", True)
    status = stack.compose("exec", "-T", "relay", "cat", "/proc/1/status").stdout
    assert set(re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE)) == {"0" * 16}
    assert re.findall(r"^NoNewPrivs:\t(\d)$", status, re.MULTILINE) == ["1"]
    refused = stack.compose("exec", "-T", "relay", "touch", "/opt/relay/new", check=False)
    assert refused.returncode != 0
    assert "Read-only file system" in refused.stdout + refused.stderr
    assert not any(binding["HostIp"] in ("", "::") for binding in state["NetworkSettings"]["Ports"]["2525/tcp"])


async def test_mail_that_waits_outlives_an_end_in_order(stack: Stack, provider: Provider) -> None:
    before = len(provider.taken())
    provider.stop()
    with smtplib.SMTP("127.0.0.1", stack.port, "app.example", 30) as client:
        client.sendmail(APP, ["later@example.com"], b"Subject: later\r\n\r\nIt waits.\r\n")
    began = time.monotonic()
    docker("stop", "-t", str(GRACE_S), stack.container("relay"))
    assert time.monotonic() - began < GRACE_S
    assert stack.state("relay")["State"]["ExitCode"] == 0
    provider.start()
    docker("start", stack.container("relay"))
    await stack.healthy("relay")
    retry = ("relay", "queue", "retry", "--account", APP, "--yes")
    stack.compose("exec", "-T", "relay", *retry, check=False)  # 1: it has gone by itself
    await until(lambda: len(provider.taken()) > before, "what waited arrived")
    assert [one.recipients for one in provider.taken()[before:]] == [("later@example.com",)]


async def test_a_wrong_key_and_a_volume_of_somebody_else_are_one_line_each(stack: Stack, provider: Provider) -> None:
    """The last test of the module: afterwards nothing starts."""
    stack.compose("stop")
    key = stack.folder / "secrets" / "relay-key-main"
    right = key.read_text()
    key.chmod(0o644)
    key.write_text(f"{secrets.token_hex(32)}\n")
    assert _said(stack) == [
        "relay: key main opens none of the secrets sealed under that name: it is not the key they were sealed with; "
        "put the right key file back (nothing was changed)"
    ]
    key.write_text(right)
    volume = f"{stack.project}_data:{DATA}"
    taking = ("run", "--rm", "--user", "0", "--volume", volume, "--entrypoint", "chown", image_of(stack))
    docker(*taking, "-R", "0:0", DATA)
    assert _said(stack) == [
        f"relay: RELAY_DATA_DIR: {DATA}/relay.db: Permission denied; give a folder that user {UID} can write "
        f"(chown -R {UID} {DATA})"
    ]


def _said(stack: Stack) -> list[str]:
    """What `relay serve` says beside its log when it does not start."""
    done = stack.compose("run", "--rm", "-T", "relay", check=False)
    assert done.returncode == 1
    return re.findall(r"^relay: .*?(?=\r?$)", done.stdout + done.stderr, re.MULTILINE)
