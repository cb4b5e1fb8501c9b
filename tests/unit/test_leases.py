"""Nodes and leases by their rules, in a store of one process: who may have what, and what becomes of the dead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, insert, select

from relay.database.schema import accounts, deliveries, leases, messages, metadata, nodes
from relay.mail.ids import NODES
from relay.queue import nodes as fleet
from relay.queue.leases import JOBS, account_of, free, held_by, of_account, rests, standings, surplus, take
from relay.queue.nodes import Identity

LEASE_MS = 60_000


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        for number, in_doubt in ((1, "retry"), (2, "hold")):
            connection.execute(
                insert(accounts).values(
                    id=number,
                    address=f"a{number}@example.com",
                    provider="custom",
                    auth="none",
                    in_doubt=in_doubt,
                    created_at=0,
                )
            )
        yield connection


def join(connection: Connection, name: str, *, now: int = 0, home: str | None = None) -> int:
    who = Identity(name, home or f"home of {name}", "1", 1)
    return fleet.join(connection, who, now=now, lease_ms=LEASE_MS).node


def deliver(
    connection: Connection, message_id: int, node: int | None, *, state: str = "queued", account: int = 1
) -> None:
    connection.execute(
        insert(messages).values(
            id=message_id, account_id=account, reverse_path="a@example.com", header_message_id="", client="", size=1,
            eight_bit=0, smtputf8=0, accepted_at=0,
        )
    )  # fmt: skip
    connection.execute(
        insert(deliveries).values(
            message_id=message_id, number=0, recipient="b@example.org", account_id=account, state=state, due_at=5,
            attempts=0, owner=node, token=3,
        )
    )  # fmt: skip


def delivery(connection: Connection, message_id: int) -> Any:
    return connection.execute(select(deliveries).where(deliveries.c.message_id == message_id)).one()


def test_one_node_has_a_lease_until_it_gives_it_up(connection: Connection) -> None:
    a, b = join(connection, "a"), join(connection, "b")
    names = [of_account(1), JOBS]
    assert [lease.token for lease in take(connection, a, names, now=0)[0]] == [1, 1]
    assert take(connection, b, names, now=10 * LEASE_MS) == ([], sorted(names))  # time alone changes no hands
    assert free(connection, b, names) == 0
    assert free(connection, a, [of_account(1)]) == 1
    taken, refused = take(connection, b, names, now=0)
    assert [(lease.name, lease.token) for lease in taken] == [(of_account(1), 2)]
    assert refused == [JOBS]
    assert held_by(connection) == {a: 0, b: 1}


def test_a_node_whose_lease_passed_is_buried_with_all_it_held_and_nobody_else_is(connection: Connection) -> None:
    a, b = join(connection, "a"), join(connection, "b")
    take(connection, a, [of_account(1), JOBS], now=0)
    deliver(connection, 10, a)
    deliver(connection, 11, a, state="active")
    deliver(connection, 12, a, state="active", account=2)
    deliver(connection, 13, b, state="active")
    assert fleet.renew(connection, b, now=50_000, lease_ms=LEASE_MS)
    assert fleet.overdue(connection, now=LEASE_MS, longest_ms=10 * LEASE_MS) == []
    assert fleet.overdue(connection, now=LEASE_MS + 1, longest_ms=10 * LEASE_MS) == [a]
    [buried] = fleet.bury(connection, [a], now=77)
    assert (buried.node, buried.name, buried.in_doubt) == (a, "a", (11, 12))
    untouched, doubtful, held, others = (delivery(connection, number) for number in (10, 11, 12, 13))
    assert (untouched.state, untouched.owner, untouched.due_at, untouched.possible_duplicate) == ("queued", None, 5, 0)
    assert (doubtful.state, doubtful.owner, doubtful.due_at, doubtful.possible_duplicate) == ("in_doubt", None, 77, 1)
    assert (held.state, held.owner, held.possible_duplicate) == ("held", None, 1)
    assert {untouched.token, doubtful.token, held.token} == {4}  # what the buried one still writes changes nothing
    assert (others.state, others.owner, others.token) == ("active", b, 3)
    assert not fleet.renew(connection, a, now=0, lease_ms=LEASE_MS)
    assert take(connection, a, [of_account(1)], now=0) == ([], [of_account(1)])  # the dead get nothing
    assert len(take(connection, b, [of_account(1), JOBS], now=0)[0]) == 2


def test_a_clock_of_the_store_that_was_set_back_keeps_no_dead_node_among_the_living(connection: Connection) -> None:
    dead, alive = join(connection, "dead", now=86_400_000), join(connection, "alive", now=86_400_000)
    assert fleet.renew(connection, alive, now=0, lease_ms=LEASE_MS)
    assert fleet.overdue(connection, now=1, longest_ms=10 * LEASE_MS) == [dead]


def test_what_a_buried_node_wrote_late_is_swept(connection: Connection) -> None:
    a, b = join(connection, "a"), join(connection, "b")
    fleet.bury(connection, [a], now=0)
    deliver(connection, 20, a)
    deliver(connection, 21, a, state="active")
    deliver(connection, 22, b)
    deliver(connection, 23, None)
    assert fleet.sweep(connection, now=0) == [21]
    assert [delivery(connection, number).owner for number in (20, 21, 22, 23)] == [None, None, b, None]
    assert delivery(connection, 23).token == 3


def test_a_node_buries_its_earlier_life_but_not_a_namesake(connection: Connection) -> None:
    before, namesake = join(connection, "a", home="x"), join(connection, "a", home="y")
    take(connection, before, [of_account(1)], now=0)
    after = fleet.join(connection, Identity("a", "x", "1", 2), now=1, lease_ms=LEASE_MS)
    assert [one.node for one in after.buried] == [before]
    assert set(held_by(connection)) == {namesake, after.node}
    assert take(connection, after.node, [of_account(1)], now=1)[0]


def test_an_orderly_end_gives_back_without_doubt(connection: Connection) -> None:
    a = join(connection, "a")
    take(connection, a, [of_account(1)], now=0)
    deliver(connection, 30, a, state="active")  # marked, and then not sent
    fleet.leave(connection, a)
    assert (delivery(connection, 30).state, delivery(connection, 30).owner) == ("queued", None)
    assert connection.scalars(select(leases.c.node)).all() == [None]
    assert held_by(connection) == {}


def test_a_rest_goes_with_the_lease(connection: Connection) -> None:
    a, b = join(connection, "a"), join(connection, "b")
    take(connection, a, [of_account(1)], now=0)
    rests(connection, a, of_account(1), until=5000, cause="greylisted", failures=2)
    rests(connection, b, of_account(1), until=1, cause="not its to say", failures=0)
    assert standings(connection)[1].rest_until == 5000
    fleet.bury(connection, [a], now=0)
    [lease], _ = take(connection, b, [of_account(1)], now=0)
    assert (lease.rest_until, lease.rest_cause, lease.rest_failures) == (5000, "greylisted", 2)
    assert standings(connection)[1].node_name == "b"


def test_ids_of_living_nodes_have_different_numbers(connection: Connection) -> None:
    connection.execute(insert(nodes).values(id=5, started_at=0, lease_until=0))
    connection.execute(insert(nodes).values(id=NODES + 4, started_at=0, lease_until=0))
    joined = fleet.join(connection, Identity("a", "x", "1", 1), now=0, lease_ms=LEASE_MS)
    assert joined.node == NODES + 6  # NODES + 5 would make the ids of node 5
    assert joined.number == 6


@given(st.dictionaries(st.integers(1, 40), st.integers(0, 300), min_size=1, max_size=8))
def test_evening_out_ends_and_never_overshoots(held: dict[int, int]) -> None:
    total = sum(held.values())
    for _ in range(5000):
        moves = [(node, *surplus(held, node)) for node in held]
        moves = [move for move in moves if move[1]]
        if not moves:
            break
        node, many, to = moves[0]
        assert 0 < many <= held[node] - held[to]
        held[node] -= many
        held[to] += many
    assert sum(held.values()) == total
    assert max(held.values()) - min(held.values()) <= max(1, len(held) - 1)
    assert all(count <= -(-total // len(held)) + 1 for count in held.values())


def test_names_of_leases() -> None:
    assert account_of(of_account(17)) == 17
    assert account_of(JOBS) is None
