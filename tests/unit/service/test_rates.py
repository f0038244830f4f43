"""How much one caller may ask, by a clock of the test's own."""

import itertools
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import Limit
from service.errors import RateLimited, TooManyRequests
from service.rates import Allowance


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowance(rate: float = 0, concurrency: int = 0, workers: int = 1, clock: Clock | None = None) -> Allowance:
    return Allowance(
        Limit("requests_per_second", rate), Limit("concurrent_requests", concurrency), workers, clock or Clock()
    )


def accepted(one: Allowance, attempts: int) -> int:
    """Return how many of some requests, one after the other, are taken."""
    count = 0
    for _ in range(attempts):
        try:
            with one.use():
                count += 1
        except RateLimited:
            pass
    return count


def test_without_limits_everything_is_taken() -> None:
    assert accepted(allowance(), 1000) == 1000


def test_a_second_s_worth_may_come_at_once_and_then_as_many_a_second() -> None:
    clock = Clock()
    one = allowance(rate=5, clock=clock)
    assert accepted(one, 20) == 5
    for _ in range(10):
        clock.now += 0.2
        assert accepted(one, 3) == 1
    clock.now += 3600
    assert accepted(one, 20) == 5


def test_less_than_one_a_second_lets_the_first_one_pass() -> None:
    clock = Clock()
    one = allowance(rate=0.1, clock=clock)
    assert accepted(one, 3) == 1
    with pytest.raises(RateLimited, match=r"0\.1 requests a second") as refused, one.use():
        pass
    assert refused.value.retry_after_seconds == 10
    clock.now += 9.9
    assert accepted(one, 1) == 0
    clock.now += 0.2
    assert accepted(one, 3) == 1


@given(
    rate=st.floats(0.05, 200),
    workers=st.integers(1, 8),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_no_stretch_of_time_has_more_than_the_rate_and_a_bucket(rate: float, workers: int, gaps: list[float]) -> None:
    clock = Clock()
    one = allowance(rate=rate, workers=workers, clock=clock)
    taken = []
    for gap in gaps:
        clock.now += gap
        taken += [clock.now] * accepted(one, 3)
    share = rate / workers
    for (i, first), (j, last) in itertools.combinations(enumerate(taken), 2):
        assert j - i + 1 <= max(1, share) + share * (last - first) + 1e-6


@given(rate=st.floats(0.01, 50), elapsed=st.floats(0, 3))
def test_who_waits_as_long_as_told_is_let_in(rate: float, elapsed: float) -> None:
    clock = Clock()
    one = allowance(rate=rate, clock=clock)
    accepted(one, 60)
    clock.now += elapsed
    accepted(one, 60)
    with pytest.raises(RateLimited) as refused, one.use():
        pass
    clock.now += refused.value.retry_after_seconds + 1e-6
    with one.use():
        pass


def test_as_many_are_under_way_as_may_be_and_each_gives_its_place_back() -> None:
    one = allowance(concurrency=2)
    with one.use():
        with pytest.raises(ZeroDivisionError), one.use():
            _ = 1 / 0
        with (
            one.use(),
            pytest.raises(TooManyRequests, match="2 requests under way") as refused,
            one.use(),
        ):
            pass
        assert refused.value.limit == Limit("concurrent_requests", 2)
        assert one.under_way == 1
    assert one.under_way == 0


def test_who_is_refused_for_too_many_at_once_has_spent_nothing() -> None:
    one = allowance(rate=2, concurrency=1)
    with one.use():
        for _ in range(5):
            with pytest.raises(TooManyRequests), one.use():
                pass
    assert accepted(one, 5) == 1


@pytest.mark.parametrize(("workers", "share"), [(1, 4), (2, 2), (3, 2), (4, 1), (16, 1)])
def test_workers_share_what_may_be_under_way(workers: int, share: int) -> None:
    one = allowance(concurrency=4, workers=workers)
    with ExitStack() as held:
        for _ in range(share):
            held.enter_context(one.use())
        with pytest.raises(TooManyRequests, match="4 requests"):
            held.enter_context(one.use())


def test_workers_share_the_rate() -> None:
    assert accepted(allowance(rate=8, workers=4), 20) == 2
