"""Rates of clients: buckets by the minute, octets by the day, nothing kept of who has no limits."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accounts.model import Client
from relay.listener import rates as module
from relay.listener.rates import Rates

NETWORK = (ip_network("192.0.2.0/24"),)
HOUR = 3600


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(clock: Clock) -> Rates:
    return Rates(clock)


@pytest.mark.parametrize(
    ("spend", "limit"), [("message", "messages_per_minute"), ("recipient", "recipients_per_minute")]
)
def test_a_minute_s_worth_may_come_at_once_and_comes_back_evenly(
    rates: Rates, clock: Clock, spend: str, limit: str
) -> None:
    client = Client("erp", NETWORK, **{limit: 6})
    take = getattr(rates, spend)
    assert [take(client) for _ in range(7)] == [True] * 6 + [False]
    clock.now += 9
    assert not take(client)
    clock.now += 1
    assert [take(client), take(client)] == [True, False]
    clock.now += 86_400
    assert [take(client) for _ in range(7)] == [True] * 6 + [False]


def test_messages_and_recipients_are_counted_apart_and_each_client_for_itself(rates: Rates) -> None:
    one = Client("one", NETWORK, messages_per_minute=1, recipients_per_minute=1)
    other = Client("other", NETWORK, messages_per_minute=1)
    assert rates.message(one)
    assert rates.recipient(one)
    assert rates.message(other)
    assert rates.recipient(other)
    assert rates.recipient(other)
    assert not rates.message(one)
    assert not rates.recipient(one)
    assert not rates.message(other)


def test_a_changed_limit_counts_at_once(rates: Rates, clock: Clock) -> None:
    assert [rates.message(Client("erp", NETWORK, messages_per_minute=100)) for _ in range(10)] == [True] * 10
    few = Client("erp", NETWORK, messages_per_minute=2)
    assert [rates.message(few) for _ in range(3)] == [True, True, False]
    assert rates.message(Client("erp", NETWORK))
    clock.now += 1
    assert rates.message(Client("erp", NETWORK, messages_per_minute=60))


def test_octets_fit_until_the_day_is_full(rates: Rates, clock: Clock) -> None:
    client = Client("erp", NETWORK, bytes_per_day=1000)
    assert rates.fits(client, 1000)
    assert not rates.fits(client, 1001)
    rates.spend(client, 600)
    assert rates.fits(client, 400)
    assert not rates.fits(client, 401)
    rates.spend(client, 400)
    assert not rates.fits(client, 0)
    clock.now += 22 * HOUR
    assert not rates.fits(client, 0)
    clock.now += 2 * HOUR
    assert rates.fits(client, 1000)


def test_a_day_slides_by_the_hour(rates: Rates, clock: Clock) -> None:
    client = Client("erp", NETWORK, bytes_per_day=24)
    for _ in range(24):
        assert rates.fits(client, 1)
        rates.spend(client, 1)
        clock.now += HOUR
    assert rates.fits(client, 1)  # the first hour's is a day old
    rates.spend(client, 1)
    assert not rates.fits(client, 1)
    clock.now += 5 * HOUR
    assert rates.fits(client, 5)
    assert not rates.fits(client, 6)


@given(st.lists(st.tuples(st.integers(0, 40 * HOUR), st.integers(0, 50)), max_size=60))
def test_what_the_last_23_hours_saw_counts_and_what_is_24_hours_old_does_not(steps: list[tuple[int, int]]) -> None:
    clock = Clock(0.0)
    rates = Rates(clock)
    client = Client("erp", NETWORK, bytes_per_day=1_000_000)
    spent: list[tuple[float, int]] = []
    for wait, octets in steps:
        clock.now += wait
        rates.spend(client, octets)
        spent.append((clock.now, octets))
        recent = sum(amount for at, amount in spent if clock.now - at < 23 * HOUR)
        possible = sum(amount for at, amount in spent if clock.now - at < 24 * HOUR)
        assert not rates.fits(client, 1_000_000 - recent + 1)
        assert rates.fits(client, 1_000_000 - possible)


@given(st.floats(0, 200_000), st.lists(st.tuples(st.integers(-10, 40 * HOUR), st.integers(0, 50)), max_size=40))
def test_what_an_earlier_process_accepted_counts_as_long(up_s: float, earlier: list[tuple[int, int]]) -> None:
    clock = Clock(up_s)  # the machine may just have started: before it the clock was below 0
    rates = Rates(clock)
    client = Client("erp", NETWORK, bytes_per_day=1_000_000)
    for age, octets in earlier:
        rates.remember(client, octets, age)
    for passed in (0, HOUR, 12 * HOUR, 30 * HOUR):
        clock.now = up_s + passed
        recent = sum(octets for age, octets in earlier if max(age, 0) + passed < 23 * HOUR)
        possible = sum(octets for age, octets in earlier if max(age, 0) + passed < 24 * HOUR)
        assert not rates.fits(client, 1_000_000 - recent + 1)
        assert rates.fits(client, 1_000_000 - possible)


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=200))
def test_no_minute_sees_more_than_a_full_bucket_and_what_came_back(limit: int, waits: list[float]) -> None:
    clock = Clock(0.0)
    rates = Rates(clock)
    client = Client("erp", NETWORK, messages_per_minute=limit)
    taken: list[float] = []
    for wait in waits:
        clock.now += wait
        if rates.message(client):
            taken.append(clock.now)
        assert len([at for at in taken if clock.now - at < 60]) <= 2 * limit


def test_a_client_without_limits_leaves_nothing_behind(rates: Rates) -> None:
    client = Client("erp", NETWORK)
    assert rates.message(client)
    assert rates.recipient(client)
    assert rates.fits(client, 10**15)
    rates.spend(client, 10**15)
    assert rates._uses == {}


def test_removed_clients_are_forgotten(rates: Rates) -> None:
    stays, goes = (Client(name, NETWORK, messages_per_minute=1) for name in ("stays", "goes"))
    assert rates.message(stays)
    assert rates.message(goes)
    rates.forget({"stays"})
    assert not rates.message(stays)
    assert rates.message(goes)


def test_no_more_clients_are_kept_than_the_bound(rates: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CLIENTS", 10)
    for number in range(100):
        assert rates.message(Client(f"c{number}", NETWORK, messages_per_minute=1))
    assert len(rates._uses) == 10
