"""The pure rules of dispatch: waits, pace, quota."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.dispatch.pace import Pace, Quota
from relay.dispatch.schedule import backoff_s, jittered


@given(st.integers(1, 60), st.floats(0.1, 600), st.floats(600, 90_000))
def test_waits_never_shrink_and_never_pass_the_longest(failures: int, first: float, longest: float) -> None:
    wait = backoff_s(failures, first_s=first, longest_s=longest)
    assert first <= wait <= longest
    assert backoff_s(failures + 1, first_s=first, longest_s=longest) >= wait


@given(st.floats(1, 10_000), st.floats(0, 1))
def test_jitter_stays_within_a_fifth(wait: float, chance: float) -> None:
    assert 0.8 * wait <= jittered(wait, chance) <= 1.2 * wait + 1e-6


def test_pace_lets_no_more_through_than_its_rate_and_a_small_burst() -> None:
    pace = Pace(30, now=0.0)
    sent, now = 0, 0.0
    while now < 600:
        wait = pace.wait_s(now)
        if wait > 0:
            now += wait + 1e-9
        else:
            pace.spend()
            sent += 1
    assert 300 <= sent <= 300 + 4


def test_no_pace_means_no_wait() -> None:
    pace = Pace(0, now=0.0)
    for _ in range(1000):
        assert pace.wait_s(0.0) == 0
        pace.spend()


def test_the_day_slides() -> None:
    quota = Quota(100)
    start = 1_000_000 * 3600.0
    quota.spend(60, start)
    quota.spend(40, start + 5 * 3600)
    assert quota.wait_s(1, start + 6 * 3600) == pytest.approx(18 * 3600)
    assert quota.wait_s(60, start + 24 * 3600) == 0
    assert quota.wait_s(61, start + 24 * 3600) == pytest.approx(5 * 3600)


def test_more_recipients_than_a_day_holds_wait_for_an_empty_day_not_for_ever() -> None:
    quota = Quota(10)
    assert quota.wait_s(50, 0.0) == 0
    quota.spend(50, 0.0)
    assert 0 < quota.wait_s(1, 3600.0) <= 24 * 3600


def test_what_was_sent_before_a_restart_still_counts() -> None:
    quota = Quota(100)
    quota.spend(5, 500 * 3600.0)
    quota.restore({499: 50, 500: 3})
    assert quota.wait_s(45, 500 * 3600.0) == 0
    assert quota.wait_s(46, 500 * 3600.0) > 0
