"""The forecast is what a simulation with the lanes' own pace and quota does, message by message."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.dispatch.forecast import Forecast, Limits, Waiting, forecast, quota_free_at
from relay.dispatch.pace import Pace, Quota
from tests.lengths import examples

NOW = 1_795_000_000.0  # 2026-11-18, not at the beginning of an hour
HOUR = int(NOW // 3600)


def simulated(load: list[Waiting], limits: Limits, start: float, sent: dict[int, int]) -> float:
    """Every message by itself, by the rules of `Lane.take`."""
    clock = max(start, NOW)
    pace, quota = Pace(limits.per_minute, now=clock), Quota(limits.per_day)
    quota.restore(dict(sent))
    for due_s, recipients, messages in sorted(load):
        for _ in range(messages):
            left = recipients
            while left:
                part = min(left, limits.recipients_per_transaction)
                clock = max(clock, due_s)
                clock += pace.wait_s(clock) + 1e-9
                while (wait := quota.wait_s(part, clock)) > 0:
                    clock += wait
                pace.spend()
                quota.spend(part, clock)
                left -= part
    return clock


loads = st.lists(
    st.builds(
        Waiting,
        due_s=st.integers(-7200, 4 * 3600).map(lambda s: NOW + s),
        recipients=st.integers(1, 12),
        messages=st.integers(0, 40),
    ),
    max_size=5,
)
paces = st.sampled_from([0, 1, 2, 7, 25, 60])
# The parts of a message that is split fit into a quota in another order, so those are looked at without one.
limits = st.one_of(
    st.builds(Limits, per_minute=paces, per_day=st.sampled_from([0, 5, 40, 100, 1000])),
    st.builds(Limits, per_minute=paces, per_day=st.just(0), recipients_per_transaction=st.sampled_from([1, 5])),
)
histories = st.dictionaries(st.integers(HOUR - 23, HOUR), st.integers(1, 40), max_size=6)


@given(load=loads, limit=limits, rest=st.integers(0, 9000), sent=histories)
@settings(deadline=None, max_examples=examples(50))
def test_it_ends_when_a_simulation_of_every_message_does(
    load: list[Waiting], limit: Limits, rest: int, sent: dict[int, int]
) -> None:
    found = forecast(load, limit, now_s=NOW, rests_until_s=NOW + rest, sent=sent)
    if not any(each.messages for each in load):
        assert found == Forecast(NOW, "nothing")
        return
    end = simulated(load, limit, NOW + rest, sent)
    if found.end_s is None:
        assert end > NOW + 90 * 86_400
        return
    # A message may fall on either side of the end of an hour: then its quota is free an hour sooner or later.
    tolerance = 3600.0 if limit.per_day and limit.per_minute else 1.0
    assert abs(found.end_s - end) <= tolerance


@given(load=loads, limit=limits, sent=histories, more=st.integers(1, 50))
@settings(deadline=None, max_examples=examples(40))
def test_more_mail_never_ends_sooner_and_no_limit_never_later(
    load: list[Waiting], limit: Limits, sent: dict[int, int], more: int
) -> None:
    end = forecast(load, limit, now_s=NOW, sent=sent).end_s
    larger = forecast([*load, Waiting(NOW, 1, more)], limit, now_s=NOW, sent=sent).end_s
    unlimited = forecast(load, Limits(0, 0), now_s=NOW, sent=sent).end_s
    assert unlimited is not None
    assert end is None or end >= unlimited
    assert end is None or larger is None or larger >= end - 1


def test_five_thousand_at_25_a_minute_take_three_hours_and_twenty_minutes() -> None:
    found = forecast([Waiting(NOW, 1, 5_000)], Limits(25, 10_000), now_s=NOW, sent={})
    assert found.limited_by == "pace"
    assert found.end_s is not None
    assert abs(found.end_s - NOW - 200 * 60) < 60


def test_a_quota_that_is_used_up_goes_on_a_day_after_it_was_used() -> None:
    sent = {HOUR - 20: 900, HOUR - 1: 100}
    found = forecast([Waiting(NOW, 1, 950)], Limits(0, 1_000), now_s=NOW, sent=sent)
    assert found == Forecast((HOUR + 23) * 3600.0, "quota")
    assert quota_free_at(1, 1_000, now_s=NOW, sent=sent) == (HOUR + 4) * 3600.0
    assert quota_free_at(1, 1_001, now_s=NOW, sent=sent) is None


def test_what_is_due_later_and_what_rests_is_told_apart() -> None:
    later, rests = NOW + 600, NOW + 60
    assert forecast([Waiting(later, 1, 3)], Limits(0, 0), now_s=NOW, sent={}) == Forecast(later, "retry")
    assert forecast([Waiting(NOW, 1, 3)], Limits(0, 0), now_s=NOW, rests_until_s=rests, sent={}).limited_by == "rest"
    assert forecast([Waiting(NOW, 1, 3)], Limits(0, 0), now_s=NOW, sent={}) == Forecast(NOW, "nothing")


def test_a_hundred_thousand_messages_are_quick_and_what_takes_months_has_no_end() -> None:
    found = forecast([Waiting(NOW, 2, 100_000)], Limits(25, 10_000), now_s=NOW, sent={})
    assert found.limited_by == "quota"
    assert found.end_s is not None
    assert 18 < (found.end_s - NOW) / 86_400 < 21
    assert forecast([Waiting(NOW, 1, 10_000_000)], Limits(0, 100), now_s=NOW, sent={}).end_s is None
