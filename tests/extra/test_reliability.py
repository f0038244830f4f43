"""The programs that measure reliability, for some seconds each, held to what does not depend on the machine's speed."""

import json
from pathlib import Path

from benchmarks.abandon import abandon
from benchmarks.bars import Bar, show
from benchmarks.chaos import Kind, chaos
from benchmarks.load import Sample
from benchmarks.overload import with_engine, with_stand_in
from benchmarks.soak import soak

NOISY = {  # times and memory within seconds, on cores that are shared with this test
    "answered, p99",
    "refused, p99",
    "alone, within 2 s after",
    "p99 of the others",
    "goodput, of the best",
    "memory, slope",
    "good images answered",  # a worker that is killed every four seconds is replaced later and later
}


def assert_kept(title: str, bars: list[Bar]) -> None:
    """Print a measurement; what it has to keep on any machine must be kept."""
    show(title, bars)
    assert not [bar for bar in bars if not bar.kept and bar.what not in NOISY]


def test_ten_times_too_much_is_refused_and_nothing_is_lost() -> None:
    bars = with_stand_in(10, closed_loop_seconds=3)
    assert_kept("overload", bars)
    assert share(bars, "goodput, of the best") > 0.6


def test_three_times_too_much_for_a_real_engine_stops_no_answers(default_registry: Path, photo: bytes) -> None:
    bars = with_engine(default_registry, "imagenet", photo, 10, closed_loop_seconds=3)
    assert_kept("overload of imagenet", bars)
    assert share(bars, "goodput, of the best") > 0.4


def test_clients_that_vanish_leave_nothing_behind() -> None:
    assert_kept("clients that vanish", abandon(2000))


def test_whatever_goes_wrong_every_request_ends_as_it_may() -> None:
    bars = chaos(30, seed=2)
    assert_kept("chaos", bars)
    assert share(bars, "good images answered") > 0.7


def test_four_fifths_of_what_it_can_do_are_done_without_a_failure(default_registry: Path, photo: bytes) -> None:
    assert_kept("soak", soak(default_registry, "imagenet", photo, 20, closed_loop_seconds=4))


def test_a_wrong_answer_would_be_found() -> None:
    own = [{"predictions": [{"label": "ant", "probability": 0.5}, {"label": "bee", "probability": 0.5}]}]
    other = [{"predictions": [{"label": "bee", "probability": 0.5}, {"label": "ant", "probability": 0.5}]}]
    kind = Kind("an image", "/v1/predict", b"", 1.0, frozenset({200}), {1: own, 2: other})

    def end(answered: int, **body: object) -> Sample:
        return Sample(0.0, 0.1, answered, json.dumps(body).encode())

    assert kind.is_right(end(200, version=1, results=own))
    assert kind.is_right(end(503, status=503))
    assert not kind.is_right(end(200, version=2, results=own))
    assert not kind.is_right(end(200, version=3, results=own))
    assert not kind.is_right(end(500, status=500))
    assert not kind.is_right(Sample(0.0, 0.1, 200, b"{"))


def share(bars: list[Bar], what: str) -> float:
    """A percentage that was measured."""
    (measured,) = (bar.measured for bar in bars if bar.what == what)
    return float(measured.removesuffix(" %")) / 100
