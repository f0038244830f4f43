"""Values that are told together: the sums are those of telling them one by one."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.tallies import GaugeTally, HistogramTally

BOUNDS = (0.1, 1.0, 10.0)


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """What Prometheus would read, but for when it began."""
    lines = [
        line.rsplit(" ", 1) for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")
    ]
    return {name: float(value) for name, value in lines if "_created" not in name}


@given(st.lists(st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0, 10.0, 10.5, 1e6]), max_size=8), max_size=5))
def test_what_was_observed_is_told_once(turns: list[list[float]]) -> None:
    alone, together = CollectorRegistry(), CollectorRegistry()
    reference = Histogram("seconds", "Seconds.", buckets=BOUNDS, registry=alone)
    count = Counter("count", "Count.", registry=together)
    tally = HistogramTally(Histogram("seconds", "Seconds.", buckets=BOUNDS, registry=together), count)
    observed = 0
    for turn in turns:
        for value in turn:
            reference.observe(value)
            tally.observe(value)
        tally.tell()
        observed += len(turn)
        assert samples(together) == pytest.approx({**samples(alone), "count_total": observed})


def test_nothing_is_lost_while_it_is_told() -> None:
    registry = CollectorRegistry()
    tally = HistogramTally(Histogram("seconds", "Seconds.", buckets=BOUNDS, registry=registry))
    threads = [threading.Thread(target=lambda: [tally.observe(0.5) for _ in range(5000)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        tally.tell()
    tally.tell()
    assert samples(registry)["seconds_count"] == 15_000


def test_a_gauge_has_the_last_value() -> None:
    registry = CollectorRegistry()
    tally = GaugeTally(Gauge("length", "Length.", registry=registry))
    for values, told in (([3, 7], 7), ([], 7), ([7], 7), ([1, 0], 0)):
        for value in values:
            tally.set(value)
        tally.tell()
        assert samples(registry)["length"] == told
