"""Two daemons on one PostgreSQL: what is done at one counts at the other, and neither harms what the other does."""

from __future__ import annotations

import asyncio
import json
import smtplib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.lengths import LONG
from tests.peers.authority import USER, Authority
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.peers.tcp_proxy import TcpProxy
from tests.postgresql import server
from tests.system.conftest import APP, PASSWORD, QUICK, at

MAIL = b"Subject: hello\r\n\r\nbody\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"".join(b"%070d\r\n" % line for line in range(8000))
FOLLOW_S = 20  # docs/cluster.md: after so long at the latest a change is in force everywhere

at_length = pytest.mark.skipif(not LONG, reason="TESTS_LONG is not set")


def node(folder: Path, name: str, url: str, **settings: str) -> RelayDaemon:
    """A node by that name, on the keys that all nodes of `folder` have."""
    (folder / name).mkdir(exist_ok=True)
    ours = {"RELAY_DATABASE__URL": url, "RELAY_KEYS_DIR": str(folder / "keys"), "RELAY_NODE__NAME": name}
    return RelayDaemon(folder / name / "data", QUICK | ours | settings)


@asynccontextmanager
async def two(
    folder: Path, upstream: ScriptedUpstream, *options: str, url: str = "", **settings: str
) -> AsyncIterator[tuple[RelayDaemon, RelayDaemon]]:
    """Nodes a and b, and an account at `upstream`, which b has leased."""
    authority = folder / "ca.pem"
    upstream.authority.cert_pem.write_to_path(str(authority))
    url = url or server().fresh()
    async with AsyncExitStack() as stack:
        a, b = node(folder, "a", url, **settings), node(folder, "b", url, **settings)
        await a.add_account(APP, PASSWORD, *at(upstream, authority), *options)
        await stack.enter_async_context(a)
        await stack.enter_async_context(b)
        await b.submit(APP, ["first@example.org"], MAIL)
        await b.event("lease.taken")
        assert (await upstream.next_message()).recipients == ("first@example.org",)
        await b.event("delivery.relayed", recipient="first@example.org")
        yield a, b


async def waiting(daemon: RelayDaemon, what: str = "state") -> dict[str, str]:
    """What is owed, as this node shows it: that of each recipient."""
    listed = json.loads((await daemon.cli("queue", "list", "--json")).stdout)
    return {line["recipient"]: line[what] for line in listed}


async def test_what_another_node_has_in_hand_is_held_removed_and_released(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with two(tmp_path, upstream, "--max-connections", "1") as (a, b):
        upstream.on("DATA", times=1).pauses()
        await b.submit(APP, ["one@example.org"], MAIL)
        await upstream.until(lambda: "RCPT TO:<one@example.org>" in upstream.lines())
        for recipient in ("held@example.org", "removed@example.org"):
            await b.submit(APP, [recipient], MAIL)
        ids = await waiting(a, "id")
        await a.cli("queue", "hold", ids["held@example.org"])
        await a.cli("queue", "remove", ids["removed@example.org"], "--yes")
        upstream.go_on()
        assert (await upstream.next_message()).recipients == ("one@example.org",)
        await b.submit(APP, ["last@example.org"], MAIL)
        assert (await upstream.next_message()).recipients == ("last@example.org",)
        await b.event("delivery.relayed", recipient="last@example.org")
        assert await waiting(b) == {"held@example.org": "held"}
        await a.cli("queue", "release", ids["held@example.org"])
        assert (await upstream.next_message()).recipients == ("held@example.org",)
        assert not [event for event in b.events if event["event"] in ("delivery.fenced", "daemon.fault")]


async def test_what_is_changed_at_one_node_is_in_force_at_the_other(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    url = server().fresh()
    async with two(tmp_path, upstream, "--max-connections", "1", url=url) as (a, b):
        upstream.accounts[APP] = "another-password"
        await a.cli("account", "set-password", APP, "--password-file", "-", stdin="another-password")
        await b.event("accounts.changed")
        seen = len(b.events)
        await a.cli("account", "suspend", APP)
        await b.event("accounts.changed", since=seen)
        await b.submit(APP, ["waits@example.org"], MAIL)
        assert await waiting(a) == {"waits@example.org": "queued"}
        assert not upstream.messages
        # The connection that listens is lost, and with it the call that says so.
        lost = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'relay bell'"
        assert server().execute(f"{lost} AND datname = '{url.rpartition('/')[2]}'") == [(2,)]
        await a.cli("account", "resume", APP)
        assert (await upstream.next_message(FOLLOW_S)).recipients == ("waits@example.org",)
        assert [event for event in b.events if event["event"] == "node.deaf"]
        assert not [event for event in b.events if event["event"] == "account.suspended"]  # the new password
        await a.cli("account", "set", APP, "--max-connections", "3")
        upstream.on("DATA", times=3).pauses()
        for number in range(3):
            await b.submit(APP, [f"n{number}@example.org"], MAIL)
        await upstream.until(lambda: sum("RCPT TO:<n" in line for line in upstream.lines()) == 3, 15)
        upstream.go_on()


@at_length
async def test_a_token_is_asked_for_once_whichever_node_needs_it(
    tmp_path: Path, authority: Authority, upstream: ScriptedUpstream
) -> None:
    """The authority ends a grant of which a turned token is used again."""
    authority.reset()
    settings = {
        "RELAY_OAUTH__CA_FILE": str(authority.ca),
        "RELAY_EGRESS__NO_PROXY": "nowhere.invalid",
        "RELAY_SUBMISSION__MAX_MESSAGES_PER_CONNECTION": "1",
        "RELAY_DISPATCH__PROBE_S": "0",
    }
    upstream.mechanisms = "PLAIN LOGIN XOAUTH2"
    async with two(tmp_path, upstream, **settings) as (a, b):
        place = at(upstream, tmp_path / "ca.pem")
        app = ("--auth", "oauth-device", "--provider", "m365", "--client-id", "public")
        where = ("--token-url", authority.url("token"), "--device-url", authority.url("device"))
        await a.cli("account", "add", USER, *place, *app, *where)
        authority.lives_s, authority.answers_at_once = 1, True
        await a.cli("account", "connect", USER)
        await a.submit(USER, ["before@example.org"], MAIL)
        assert (await upstream.next_message(15)).recipients == ("before@example.org",)
        await a.event("lease.taken", account_id=2)  # it was there that the account began to be ready
        authority.lives_s = 3600
        authority.asked.clear()
        with authority.held():
            testing = asyncio.create_task(b.cli("account", "test", USER))
            assert await asyncio.to_thread(authority.arrived.wait, 10)
            await a.submit(USER, ["ann@example.org"], MAIL)
        await testing
        taken = {(await upstream.next_message(15)).recipients[0] for _ in range(2)}
        assert "ann@example.org" in taken
        assert authority.asked == [("refresh_token", 200)]
        for number in range(4):  # and so on, each with a token that is over
            authority.lives_s = 1
            await asyncio.gather(
                a.submit(USER, [f"a{number}@example.org"], MAIL),
                b.submit(USER, [f"b{number}@example.org"], MAIL),
                a.cli("account", "test", USER),
                b.cli("account", "test", USER),
            )
        for _ in range(16):
            await upstream.next_message(15)
        assert not authority.revoked_families
        assert {status for _, status in authority.asked} == {200}


@at_length
async def test_two_nodes_begin_on_an_empty_database_at_the_same_time(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    url = server().empty()
    a, b = node(tmp_path, "a", url), node(tmp_path, "b", url)
    migrated = [json.loads(done.stdout) for done in await asyncio.gather(*(n.cli("migrate", "--json") for n in (a, b)))]
    assert [each["migrated"] for each in migrated].count(True) >= 1
    await asyncio.gather(a.start(), b.start())
    created = [event["key_id"] for each in (a, b) for event in each.events if event["event"] == "key.created"]
    assert len(created) == 1, "the key ring is the same"
    listed = json.loads((await a.cli("node", "list", "--json")).stdout)
    assert sorted(line["host"] for line in listed) == ["a", "b"]
    assert await asyncio.gather(a.stop(), b.stop()) == [0, 0]


async def test_a_role_whose_rights_are_taken_away_is_told_so_and_goes_on_when_it_has_them_again(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    url = server().fresh()
    database = url.rpartition("/")[2]
    server().execute(f"CREATE ROLE {database} LOGIN")
    server().execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {database}", database)
    server().execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {database}", database)
    theirs = url.replace("//relay@", f"//{database}@")
    async with two(tmp_path, upstream, url=theirs) as (a, b):
        server().execute(f"REVOKE INSERT ON messages FROM {database}", database)
        with pytest.raises(smtplib.SMTPDataError) as refused:
            await a.submit(APP, ["ann@example.org"], MAIL)
        assert refused.value.smtp_code == 451
        failed = await a.event("storage.failed")
        assert "permission denied for table messages" in failed["detail"]
        assert "rights" in failed["detail"]
        server().execute(f"GRANT INSERT ON messages TO {database}", database)
        await a.submit(APP, ["ben@example.org"], MAIL)
        assert (await upstream.next_message()).recipients == ("ben@example.org",)
        assert not [event for each in (a, b) for event in each.events if event["event"] == "daemon.fault"]


@at_length
async def test_a_line_to_the_server_that_is_cut_amid_data_confirms_nothing_that_is_not_stored(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    url = server().fresh()
    async with TcpProxy("127.0.0.1", server().port) as proxy:
        by_proxy = url.replace(f":{server().port}/", f":{proxy.port}/")
        async with two(tmp_path, upstream, url=by_proxy) as (a, _b):
            reader, writer = await asyncio.open_connection("127.0.0.1", a.port)

            async def reply(line: bytes = b"") -> bytes:
                writer.write(line)
                async with asyncio.timeout(15):
                    while (answer := await reader.readline())[3:4] == b"-":
                        pass
                return answer[:3]

            async def envelope(recipient: bytes) -> None:
                assert await reply(b"MAIL FROM:<app@example.com>\r\n") == b"250"
                assert await reply(b"RCPT TO:<%b>\r\n" % recipient) == b"250"
                assert await reply(b"DATA\r\n") == b"354"

            assert await reply() == b"220"
            assert await reply(b"EHLO app.example\r\n") == b"250"
            await envelope(b"cut@example.org")
            writer.write(LARGE[: len(LARGE) // 2])
            await writer.drain()
            proxy.refusing = True
            proxy.drop_all()
            assert await reply(LARGE[len(LARGE) // 2 :] + b".\r\n") == b"451"
            proxy.refusing = False
            await a.event("storage.regained")
            await envelope(b"again@example.org")
            proxy.cut_after(b"again@example.org")  # with its COMMIT; the reply is lost, and the line with it
            assert await reply(MAIL + b".\r\n") == b"250"
            assert proxy.cut.is_set()
            writer.close()
            assert (await upstream.next_message(20)).recipients == ("again@example.org",)
        stored = server().execute("SELECT recipient, state FROM deliveries ORDER BY 1", url.rpartition("/")[2])
        assert stored == [("again@example.org", "relayed"), ("first@example.org", "relayed")]
