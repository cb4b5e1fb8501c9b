"""Tokens over a real vault and a real authorization server: shared, durable, renewed in time, and never in a loop."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from relay.credentials.errors import SecretMissing
from relay.credentials.oauth import Flow, OAuthApp, TokenRefused, TokenUnavailable, sealed
from relay.credentials.oauth.answers import Grant
from relay.credentials.oauth.client import OAuthClient
from relay.credentials.oauth.http import HttpsPost
from relay.credentials.oauth.tokens import Tokens
from relay.credentials.vault import Vault, open_vault
from relay.database.engine import Database, open_database
from relay.database.schema import accounts, secrets
from relay.mail.errors import StorageFailed
from tests.peers.authority import SECRET, Authority, Fault, running_authority
from tests.store import lay_store

SMTP, IMAP = "https://outlook.office.com/SMTP.Send", "https://outlook.office.com/IMAP.AccessAsUser.All"
SCOPES = f"{SMTP} {IMAP} offline_access"
APP_SMTP = "https://outlook.office365.com/.default"
DAY_S = 86400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with running_authority(tmp_path_factory.mktemp("authority")) as authority:
        yield authority


@pytest.fixture
def authority(server: Authority) -> Authority:
    server.reset()
    return server


class Time:
    """Both clocks, as the test sets them."""

    def __init__(self) -> None:
        self.wall, self.monotonic = time.time(), 1000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


class House:
    """A store with two accounts, and the tokens of one process after another."""

    def __init__(self, database: Database, vault: Vault, authority: Authority) -> None:
        self.database, self.vault, self.authority = database, vault, authority
        self.time = Time()
        self.flow: Flow = "oauth-code"
        self.app = OAuthApp("microsoft", client_id="public", tenant="contoso.example", token_url=authority.url("token"))
        self.tokens = self.process()

    def process(self) -> Tokens:
        """As after a restart: nothing is in memory."""
        return Tokens(
            self.vault,
            self.database,
            OAuthClient(HttpsPost(self.authority.ca, timeout_s=5), now_s=lambda: self.time.wall),
            lambda account_id: (self.app, self.flow),
            now_s=lambda: self.time.wall,
            monotonic_s=lambda: self.time.monotonic,
            chance=lambda: 0.5,
            second_look_s=0.05,
        )

    async def sign_in(self, account_id: int = 1) -> str:
        refresh_token = self.authority.grant("public", SCOPES)
        await self.tokens.sign_in(account_id, Grant("unused", 3600, refresh_token))
        return refresh_token

    @property
    def asked(self) -> int:
        return len(self.authority.asked)

    async def revision(self) -> int:
        chosen = select(accounts.c.revision).where(accounts.c.id == 1)
        return await self.database.read(lambda connection: connection.execute(chosen).scalar_one())


def _add_accounts(connection: Connection) -> None:
    rows = [{"address": f"a{n}@example.com", "provider": "m365", "auth": "oauth-code", "created_at": 0} for n in (1, 2)]
    connection.execute(insert(accounts), rows)


@asynccontextmanager
async def open_house(folder: Path, authority: Authority) -> AsyncIterator[House]:
    async with open_database(lay_store(folder) / "relay.db") as database:
        await database.write(_add_accounts)
        vault = await open_vault(database, folder / "keys", environ={}, secrets_dir=None)
        house = House(database, vault, authority)
        yield house
        await house.tokens.close()


@pytest.fixture
async def house(tmp_path: Path, authority: Authority) -> AsyncIterator[House]:
    async with open_house(tmp_path, authority) as house:
        yield house


# One refresh


async def test_many_who_need_a_token_at_once_share_one_refresh(house: House) -> None:
    await house.sign_in()
    found = await asyncio.gather(*(house.tokens.access_token(1) for _ in range(50)))
    assert len(set(found)) == 1
    assert house.asked == 1
    assert house.authority.check(found[0], SMTP)


async def test_a_waiter_that_is_cancelled_does_not_take_the_refresh_with_it(house: House) -> None:
    await house.sign_in()
    with house.authority.held():
        impatient = asyncio.create_task(house.tokens.access_token(1))
        patient = asyncio.create_task(house.tokens.access_token(1))
        assert await asyncio.to_thread(house.authority.arrived.wait, 10)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
    assert house.authority.check(await patient, SMTP)
    assert house.asked == 1


async def test_two_purposes_are_served_one_after_the_other_by_one_grant(house: House) -> None:
    await house.sign_in()
    smtp, imap = await asyncio.gather(house.tokens.access_token(1), house.tokens.access_token(1, "imap"))
    assert house.authority.check(smtp, SMTP)
    assert house.authority.check(imap, IMAP)
    assert [status for _, status in house.authority.asked] == [200, 200]


async def test_a_token_is_renewed_ahead_of_its_end_and_not_before(house: House) -> None:
    await house.sign_in()
    first = await house.tokens.access_token(1)
    house.time.passes(3600 - 661)
    assert await house.tokens.access_token(1) == first
    house.time.passes(2)  # 10 minutes and half of the jitter before its end
    assert await house.tokens.access_token(1) != first
    house.app = OAuthApp("microsoft-hve", "public", tenant="contoso.example", token_url=house.app.token_url, scope=SMTP)
    await house.tokens.forget(1)
    hve = await house.tokens.access_token(1)
    house.time.passes(3600 - 1319)  # 20 minutes
    assert await house.tokens.access_token(1) != hve


async def test_a_short_lived_token_is_used_for_half_its_life(house: House) -> None:
    house.authority.lives_s = 300
    await house.sign_in()
    first = await house.tokens.access_token(1)
    house.time.passes(149)
    assert await house.tokens.access_token(1) == first
    house.time.passes(2)
    assert await house.tokens.access_token(1) != first


async def test_a_token_that_could_not_be_renewed_is_used_to_its_end(house: House) -> None:
    await house.sign_in()
    first = await house.tokens.access_token(1)
    house.time.passes(3600 - 600)
    house.authority.order(Fault(500), Fault(500))
    assert await house.tokens.access_token(1) == first
    assert await house.tokens.access_token(1) == first  # nobody was asked again
    assert house.asked == 2
    house.time.passes(545)
    with pytest.raises(TokenUnavailable):
        await house.tokens.access_token(1)


async def test_apps_without_a_person_ask_again_and_keep_no_grant(house: House) -> None:
    house.flow = "oauth-app"
    house.app = OAuthApp("microsoft", "secret", tenant="contoso.example", token_url=house.app.token_url)
    with pytest.raises(SecretMissing):
        await house.tokens.access_token(1)
    await house.vault.store(1, "client_secret", SECRET)
    token = await house.tokens.access_token(1)
    assert house.authority.check(token, APP_SMTP)
    assert await house.vault.kinds(1) == ["access_token", "client_secret"]
    assert await house.process().access_token(1) == token


# Over a restart


async def test_a_restart_asks_nobody_while_the_kept_token_is_good(house: House) -> None:
    await house.sign_in()
    token = await house.tokens.access_token(1)
    assert await house.process().access_token(1) == token
    house.time.passes(2650)
    after = await house.process().access_token(1)
    assert after != token
    assert house.asked == 2


@pytest.mark.parametrize("skew_s", [-DAY_S, -301, 3300, DAY_S])
async def test_a_clock_that_was_set_between_two_starts_costs_a_refresh_at_most(house: House, skew_s: float) -> None:
    await house.sign_in()
    token = await house.tokens.access_token(1)
    house.time.wall += skew_s
    again = await house.process().access_token(1)
    assert again != token
    assert house.asked == 2


async def test_a_clock_that_is_set_meanwhile_changes_nothing(house: House) -> None:
    await house.sign_in()
    token = await house.tokens.access_token(1)
    house.time.wall += 10 * DAY_S
    assert await house.tokens.access_token(1) == token


async def test_renewing_a_token_leaves_the_connections_of_its_account_alone(house: House) -> None:
    await house.sign_in()
    before = await house.revision()
    await house.tokens.access_token(1)
    await house.tokens.renew(1)
    assert await house.revision() == before
    await house.sign_in()
    assert await house.revision() > before


async def test_no_secret_is_in_the_store_in_clear(house: House, tmp_path: Path) -> None:
    refresh_token = await house.sign_in()
    token = await house.tokens.access_token(1)
    turned = await house.vault.fetch(1, "refresh_token")
    assert turned != refresh_token
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("relay.db*"))
    for secret in (refresh_token, turned, token):
        assert secret.encode() not in stored


# Rotation, interrupted


async def test_a_turned_grant_is_durable_before_its_token_is_given_out(house: House) -> None:
    first = await house.sign_in()
    seen: list[str] = []

    async def ask() -> None:
        await house.tokens.access_token(1)
        seen.append(await house.vault.fetch(1, "refresh_token"))

    await ask()
    assert seen[0] != first


async def test_a_store_that_fails_keeps_the_turned_grant_in_memory_until_it_is_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await house.sign_in()
    whole = sealed.keep
    failing = True

    def keep(*given: Any, **named: Any) -> bool:
        done = whole(*given, **named)
        if failing:
            raise StorageFailed("the disk said no")
        return done

    monkeypatch.setattr(sealed, "keep", keep)
    with pytest.raises(TokenUnavailable) as unavailable:
        await house.tokens.access_token(1)
    assert unavailable.value.reason == "store-failed"
    assert await house.vault.fetch(1, "refresh_token") == first
    failing = False
    house.time.passes(10)
    assert house.authority.check(await house.tokens.access_token(1), SMTP)
    assert house.asked == 1  # the answer of then
    assert await house.vault.fetch(1, "refresh_token") != first


class _Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("seam", ["before asking", "answer lost", "before writing", "in the write", "after writing"])
async def test_an_end_at_any_point_of_a_refresh_loses_no_grant(
    house: House, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    await house.sign_in()
    for _ in range(3):  # the same way three times over: each start has what the last one left
        _break_at(house, monkeypatch, seam)
        dying = house.process()
        with pytest.raises((_Killed, TokenUnavailable)):
            await dying.renew(1)
        monkeypatch.undo()
        assert house.authority.check(await house.process().renew(1), SMTP)


def _break_at(house: House, monkeypatch: pytest.MonkeyPatch, seam: str) -> None:
    whole_keep, whole_write = sealed.keep, house.database.write

    def die(*given: Any, **named: Any) -> Any:
        raise _Killed

    def fail_after_keep(*given: Any, **named: Any) -> Any:
        whole_keep(*given, **named)
        raise StorageFailed("the power went")

    async def die_after_write(function: Callable[[Connection], Any]) -> Any:
        await whole_write(function)
        raise _Killed

    async def die_before_write(function: Callable[[Connection], Any]) -> Any:
        raise _Killed

    match seam:
        case "before asking":
            monkeypatch.setattr(OAuthClient, "refresh", die)
        case "answer lost":
            house.authority.order(Fault(200, b"", after=True))
        case "before writing":
            monkeypatch.setattr(house.database, "write", die_before_write)
        case "in the write":
            monkeypatch.setattr(sealed, "keep", fail_after_keep)
        case "after writing":
            monkeypatch.setattr(house.database, "write", die_after_write)


async def test_a_sign_in_during_a_refresh_is_not_overwritten_by_it(house: House) -> None:
    await house.sign_in()
    with house.authority.held():
        waiting = asyncio.create_task(house.tokens.access_token(1))
        assert await asyncio.to_thread(house.authority.arrived.wait, 10)
        second = await house.sign_in()
    await waiting
    kept = await house.vault.fetch(1, "refresh_token")
    family = {grant.token: grant.family for grant in house.authority.grants}
    assert family[kept] == family[second]
    assert house.authority.check(await house.tokens.access_token(1), SMTP)


async def test_google_keeps_its_grant_when_it_sends_no_other(house: House) -> None:
    house.authority.turning = False
    first = await house.sign_in()
    assert await house.tokens.access_token(1)
    assert await house.tokens.renew(1)
    assert await house.vault.fetch(1, "refresh_token") == first


# No


async def test_a_revoked_grant_is_asked_with_once_in_twenty_minutes(house: House) -> None:
    await house.sign_in()
    await house.tokens.access_token(1)
    house.authority.revoke()
    house.time.passes(3600)
    before = house.asked
    for _ in range(100):
        with pytest.raises(TokenRefused) as refused:
            await house.tokens.access_token(1)
        assert refused.value.error == "invalid_grant"
    assert house.asked == before + 1
    house.time.passes(1201)
    with pytest.raises(TokenRefused):
        await house.tokens.access_token(1)
    assert house.asked == before + 2
    await house.sign_in()
    assert house.authority.check(await house.tokens.access_token(1), SMTP)


async def test_what_is_unavailable_is_asked_for_with_growing_waits(house: House) -> None:
    await house.sign_in()
    house.authority.order(*[Fault(503)] * 10)
    times: list[float] = []
    begun, before = house.time.monotonic, 0
    while house.asked < 5:
        with pytest.raises(TokenUnavailable) as unavailable:
            await house.tokens.access_token(1)
        if house.asked > before:
            before = house.asked
            times.append(house.time.monotonic - begun)
        assert unavailable.value.reason == "server-error"
        house.time.passes(0.5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps == [5.5, 11, 22, 44]


async def test_a_provider_that_names_a_wait_is_left_alone_for_so_long(house: House) -> None:
    await house.sign_in()
    house.authority.order(Fault(429, headers={"Retry-After": "90"}))
    with pytest.raises(TokenUnavailable) as unavailable:
        await house.tokens.access_token(1)
    assert unavailable.value.retry_after_s == 90
    house.time.passes(89)
    with pytest.raises(TokenUnavailable) as unavailable:
        await house.tokens.access_token(1)
    assert unavailable.value.retry_after_s == 1
    assert house.asked == 1
    house.tokens.retry_now(1)
    assert await house.tokens.access_token(1)


async def test_a_refused_login_forces_one_refresh_for_all_who_met_it_and_then_ends(house: House) -> None:
    await house.sign_in()
    first = await house.tokens.access_token(1)
    second = await asyncio.gather(*(house.tokens.refused(1, first) for _ in range(9)))
    assert len(set(second)) == 1
    assert second[0] != first
    assert house.asked == 2
    assert await house.tokens.refused(1, first) == second[0]  # a straggler
    for _ in range(5):
        with pytest.raises(TokenRefused) as refused:
            await house.tokens.refused(1, second[0])
        assert refused.value.error == "rejected_by_server"
        with pytest.raises(TokenRefused):
            await house.tokens.access_token(1)
    assert house.asked == 2


async def test_a_server_that_refuses_for_hours_is_met_three_times_an_hour_at_most(house: House) -> None:
    await house.sign_in()
    logins = 0
    for _ in range(4 * 60):
        try:
            token = await house.tokens.access_token(1)
            logins += 1
            await house.tokens.refused(1, token)
            logins += 1
        except TokenRefused:
            pass
        house.time.passes(60)
    assert logins <= 2 + 4 * 3
    assert house.asked <= 2 + 4 * 3


async def test_a_refused_token_is_never_given_out_again(house: House) -> None:
    await house.sign_in()
    first = await house.tokens.access_token(1)
    house.authority.order(Fault(500))
    with pytest.raises(TokenUnavailable):
        await house.tokens.refused(1, first)
    with pytest.raises(TokenUnavailable):
        await house.tokens.access_token(1)
    house.time.passes(10)
    assert await house.tokens.access_token(1) != first


async def test_a_broken_app_says_that_all_its_accounts_are_concerned(house: House) -> None:
    house.flow = "oauth-app"
    house.app = OAuthApp("microsoft", "secret", tenant="contoso.example", token_url=house.app.token_url)
    await house.vault.store(1, "client_secret", "an old secret")
    with pytest.raises(TokenRefused) as refused:
        await house.tokens.access_token(1)
    assert (refused.value.error, refused.value.scope) == ("invalid_client", "app")
    await house.vault.store(1, "client_secret", SECRET)
    await house.tokens.forget(1)
    assert await house.tokens.access_token(1)


# Duties


async def test_an_idle_grant_is_used_before_it_dies_and_a_busy_one_left_alone(house: House) -> None:
    await house.sign_in(1)
    await house.sign_in(2)
    await house.tokens.access_token(1)
    assert (await house.tokens.keep_alive()).refreshed == ()
    house.time.passes(5 * DAY_S)
    await house.tokens.access_token(1)
    house.time.passes(2 * DAY_S + 60)
    assert (await house.tokens.keep_alive()).refreshed == (2,)
    assert (await house.tokens.keep_alive()).refreshed == ()
    house.authority.revoke()
    house.time.passes(8 * DAY_S)
    kept = await house.tokens.keep_alive()
    assert kept.refreshed == ()
    assert {account: refusal.error for account, refusal in kept.refused.items()} == {
        1: "invalid_grant",
        2: "invalid_grant",
    }


async def test_a_grant_of_google_is_used_once_a_month(house: House) -> None:
    house.authority.turning = False
    house.app = OAuthApp("google", "public", token_url=house.app.token_url, scope=SMTP)
    await house.sign_in()
    house.time.passes(29 * DAY_S)
    assert (await house.tokens.keep_alive()).refreshed == ()
    house.time.passes(2 * DAY_S)
    assert (await house.tokens.keep_alive()).refreshed == (1,)
    assert (await house.tokens.keep_alive()).refreshed == ()


async def test_a_grant_is_kept_alive_for_the_transport_it_is_for(house: House) -> None:
    scope = "https://graph.microsoft.com/Mail.Send offline_access"
    house.app = dataclasses.replace(house.app, provider="microsoft", scope="")
    await house.tokens.sign_in(1, Grant("unused", 3600, house.authority.grant(house.app.client_id, scope)))
    house.tokens._purpose_of = lambda account_id: "graph"
    house.time.passes(8 * DAY_S)
    assert (await house.tokens.keep_alive()).refreshed == (1,)
    house.authority.check(await house.tokens.access_token(1, "graph"), "https://graph.microsoft.com/Mail.Send")


async def test_what_is_forgotten_is_asked_for_anew(house: House) -> None:
    await house.sign_in()
    first = await house.tokens.access_token(1)
    await house.tokens.forget(1)
    assert await house.vault.kinds(1) == ["refresh_token"]
    assert await house.tokens.access_token(1) != first


async def test_closing_lets_a_refresh_under_way_end(house: House) -> None:
    first = await house.sign_in()
    with house.authority.held():
        waiting = asyncio.create_task(house.tokens.access_token(1))
        assert await asyncio.to_thread(house.authority.arrived.wait, 10)
        closing = asyncio.create_task(house.tokens.close())
        await asyncio.sleep(0)
    await closing
    assert await waiting
    assert await house.vault.fetch(1, "refresh_token") != first
    with pytest.raises(TokenUnavailable):
        await house.tokens.renew(1)


async def test_a_damaged_kept_token_costs_one_refresh(house: House) -> None:
    await house.sign_in()
    await house.tokens.access_token(1)
    damage = update(secrets).where(secrets.c.kind == "access_token").values(sealed=b"\x01" + b"x" * 60)
    await house.database.write(lambda connection: connection.execute(damage).rowcount)
    assert house.authority.check(await house.process().access_token(1), SMTP)


# Clocks and figures that cannot be


@pytest.mark.parametrize("skew_s", [-600, 600])
async def test_an_authority_whose_clock_is_wrong_changes_nothing(house: House, skew_s: int) -> None:
    house.authority.skew_s = skew_s
    await house.sign_in()
    first = await house.tokens.access_token(1)
    house.time.passes(3600 - 661)
    assert await house.tokens.access_token(1) == first
    assert house.asked == 1
    house.time.passes(2)
    assert await house.tokens.access_token(1) != first
    assert house.asked == 2


@pytest.mark.parametrize(
    ("says", "lasts_s"),
    [
        (None, 3600),
        (0, 3600),
        (-3600, 3600),
        ("0", 3600),
        ("soon", 3600),
        (1, 60),
        (0.5, 60),
        (True, 3600),
        (315_360_000, 86400),
        (1e300, 3600),
    ],
)
async def test_an_absurd_life_of_a_token_makes_no_loop(house: House, says: object, lasts_s: int) -> None:
    house.authority.says["expires_in"] = says
    await house.sign_in()
    first = await house.tokens.access_token(1)
    assert house.authority.check(first, SMTP)
    early_s = min(660, lasts_s / 2)
    for _ in range(50):
        house.time.passes((lasts_s - early_s - 1) / 50)
        assert await house.tokens.access_token(1) == first
    assert house.asked == 1
    house.time.passes(2)
    assert await house.tokens.access_token(1) != first
    assert house.asked == 2
    # What the mail server says counts, whatever the figure was: one more, and no other after that.
    held = await house.tokens.access_token(1)
    other = await house.tokens.refused(1, held)
    assert house.asked == 3
    with pytest.raises(TokenRefused):
        await house.tokens.refused(1, other)
    assert house.asked == 3


async def test_a_person_who_acted_gets_another_token_after_a_forced_one_was_refused(house: House) -> None:
    await house.sign_in()
    forced = await house.tokens.refused(1, await house.tokens.access_token(1))
    with pytest.raises(TokenRefused):
        await house.tokens.refused(1, forced)
    house.tokens.retry_now(1)
    assert await house.tokens.refused(1, await house.tokens.access_token(1)) != forced


# Two processes on one store


async def test_two_processes_that_refresh_at_once_lose_no_grant(house: House) -> None:
    await house.sign_in()
    revoked = set(house.authority.revoked_families)
    other = house.process()
    for number in range(1, 21):
        with house.authority.held():
            both = [asyncio.create_task(tokens.access_token(1)) for tokens in (house.tokens, other)]
            assert await asyncio.to_thread(house.authority.arrived.wait, 10)
            if number % 2:
                await asyncio.sleep(0.02)  # so that mostly both have asked; either order must do
        for token in await asyncio.gather(*both):
            assert house.authority.check(token, SMTP)
        house.time.passes(3600)
    assert house.authority.revoked_families == revoked
    assert house.asked <= 40
    await other.close()


async def test_who_comes_second_with_a_used_grant_takes_what_the_first_one_got(house: House) -> None:
    await house.sign_in()
    other = house.process()
    real = other._client.refresh

    async def too_late(*arguments: Any) -> Grant:
        """Read the store, and reach the provider when another process has turned the grant there, and kept it."""
        if not late:
            late.append(await house.tokens.access_token(1))
            house.authority.order(Fault(400, b'{"error":"invalid_grant"}'))
        return await real(*arguments)

    late: list[str] = []
    other._client.refresh = too_late  # type: ignore[method-assign]
    assert await other.access_token(1) == await house.tokens.access_token(1) == late[0]
    assert [status for _, status in house.authority.asked] == [200, 400]
    await other.close()


async def test_a_renewal_takes_the_token_that_another_process_just_kept(house: House) -> None:
    await house.sign_in()
    other = house.process()
    assert await house.tokens.access_token(1) == await other.access_token(1)
    house.time.passes(3600 - 600)
    assert await house.tokens.access_token(1) == await other.access_token(1)
    assert house.asked == 2
    first = await other.access_token(1)
    assert await other.refused(1, first) == await house.tokens.refused(1, first)
    assert house.asked == 3
    await other.close()
