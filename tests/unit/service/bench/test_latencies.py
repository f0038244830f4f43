"""The arithmetic of a load test."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.latencies import Bin, Summary, histogram, percentile

TIMES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200)


@given(TIMES, st.integers(1, 40))
def test_every_time_is_in_the_bin_that_counts_it(seconds: list[float], bins: int) -> None:
    found = histogram(seconds, bins)
    assert (found[0].low, found[-1].high) == (min(seconds), max(seconds))
    assert sum(each.count for each in found) == len(seconds)
    for each in found[:-1]:
        assert each.count == sum(each.low <= time < each.high for time in seconds)
    assert found[-1].count == sum(time >= found[-1].low for time in seconds)


@given(TIMES, st.integers(1, 40))
def test_bins_join_and_grow_by_one_factor(seconds: list[float], bins: int) -> None:
    found = histogram(seconds, bins)
    assert all(before.high == after.low for before, after in pairwise(found))
    if len(found) > 1:
        assert len(found) == bins
        factor = (max(seconds) / min(seconds)) ** (1 / bins)
        assert [each.high / each.low for each in found] == pytest.approx([factor] * bins)


def test_times_that_are_alike_are_one_bin_and_none_are_none() -> None:
    assert histogram([0.5, 0.5], 20) == [Bin(0.5, 0.5, 2)]
    assert histogram([], 20) == []


@given(TIMES, st.floats(0, 100))
def test_a_percentile_is_one_of_the_times_that_so_many_do_not_exceed(seconds: list[float], percent: float) -> None:
    found = percentile(seconds, percent)
    assert found in seconds
    assert sum(time <= found for time in seconds) >= len(seconds) * percent / 100


def test_a_summary_is_made_of_the_percentiles() -> None:
    seconds = [number / 1000 for number in range(1000, 0, -1)]
    found = Summary.of(seconds)
    assert found.mean == pytest.approx(0.5005)
    assert (found.p50, found.p90, found.p99, found.longest) == (0.501, 0.901, 0.991, 1.0)
    assert Summary.of([2.0]) == Summary(2.0, 2.0, 2.0, 2.0, 2.0)
