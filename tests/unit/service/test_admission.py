from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import Limit
from service.admission import Admission
from service.deadline import Deadline
from service.errors import ModelNotReady, QueueFull, TooManyImages
from tests.fakes import held_places

LIMIT = Limit("request_timeout_ms", 1000)
ITEMS = Limit("max_queue_size", 10)
BYTES = Limit("max_queue_bytes", 1000)


class Clock:
    """Says what it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(self.now + seconds, LIMIT)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def places(clock: Clock, seconds_per_item: float = 0.0, item_bytes: int = 1, items: Limit = ITEMS) -> Admission:
    return Admission(items, BYTES, item_bytes, seconds_per_item=seconds_per_item, clock=clock)


def test_items_are_bounded_and_room_comes_back(clock: Clock) -> None:
    admission, deadline = places(clock), clock.deadline(30)
    with held_places(admission, 7, deadline):
        with pytest.raises(QueueFull, match=r"7 images are being answered, and 4 more .* limit of 10") as caught:
            admission.check(4, deadline)
        assert caught.value.limit == ITEMS
        with held_places(admission, 3, deadline):
            assert admission.admitted == 10
    assert admission.admitted == 0


def test_bytes_are_bounded(clock: Clock) -> None:
    admission, deadline = places(clock, item_bytes=300), clock.deadline(30)
    full = pytest.raises(QueueFull, match=r"2 more of 300 bytes .* limit of 1000")
    with held_places(admission, 2, deadline), full as caught:
        admission.check(2, deadline)
    assert caught.value.limit == BYTES
    with pytest.raises(TooManyImages, match="4 images of 300 bytes") as never:
        admission.check(4, deadline)
    assert never.value.limit == BYTES


def test_who_would_wait_too_long_is_told_when_to_come_back(clock: Clock) -> None:
    admission = places(clock, seconds_per_item=1.0)
    with held_places(admission, 4, clock.deadline(30)):
        admission.check(1, clock.deadline(8))
        with pytest.raises(QueueFull, match="expected in 7500 ms; the request has 2000 ms left") as caught:
            admission.check(1, clock.deadline(2))
        assert caught.value.limit == LIMIT
        assert caught.value.retry_after_seconds == 4
        with pytest.raises(QueueFull, match="has 0 ms left"):
            admission.check(1, clock.deadline(-1))


def test_where_nobody_waits_a_prediction_refuses_nobody(clock: Clock) -> None:
    admission = places(clock, seconds_per_item=60.0)
    with held_places(admission, 1, clock.deadline(1)):
        pass


def test_the_rate_is_that_of_the_busy_time(clock: Clock) -> None:
    admission = places(clock)
    clock.now += 1000  # nobody comes
    with held_places(admission, 4, clock.deadline(30)) as since:
        clock.now += 2.0
        admission.finished(4, since)
    assert admission.seconds_per_item == pytest.approx(0.5)
    clock.now += 1000
    with held_places(admission, 8, clock.deadline(30)) as since:
        clock.now += 0.4
        admission.finished(4, since)
        clock.now += 100
        admission.failed()
        for _ in range(30):
            clock.now += 0.4
            admission.finished(4, since)
    assert admission.seconds_per_item == pytest.approx(0.1, rel=0.01)


def test_batches_whose_callers_have_left_teach_what_they_took(clock: Clock) -> None:
    admission = places(clock, seconds_per_item=1.0)
    for _ in range(5):
        with held_places(admission, 4, clock.deadline(30)) as since:
            clock.now += 2.0
        with held_places(admission, 1, clock.deadline(30)):  # while the batch goes on, for nobody
            clock.now += 2.0
            admission.finished(4, since)
    assert admission.seconds_per_item == pytest.approx(1.0)


def test_time_in_which_nothing_was_to_be_computed_teaches_nothing(clock: Clock) -> None:
    admission = places(clock, seconds_per_item=0.1)
    with held_places(admission, 1, clock.deadline(1000)):  # something that never comes to the engine
        for _ in range(10):
            clock.now += 10.0
            with held_places(admission, 1, clock.deadline(30)) as since:
                clock.now += 0.1
                admission.finished(1, since)
    assert admission.seconds_per_item == pytest.approx(0.1)


def test_a_prediction_that_is_not_confirmed_in_its_own_time_refuses_nobody(clock: Clock) -> None:
    admission = places(clock, seconds_per_item=1.0)
    with held_places(admission, 1, clock.deadline(30)):
        with pytest.raises(QueueFull):
            admission.check(1, clock.deadline(2))
        clock.now += 3.1
        admission.check(1, clock.deadline(2))


def test_whoever_comes_after_the_end_is_told_why(clock: Clock) -> None:
    admission, error = places(clock), ModelNotReady("it is unloaded")
    admission.close(error)
    with pytest.raises(ModelNotReady) as caught:
        admission.check(1, clock.deadline(30))
    assert caught.value is error


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 12), st.floats(0, 5), st.floats(0, 0.1)), min_size=1, max_size=30),
    seconds_per_item=st.floats(0.001, 1),
)
def test_however_it_goes_the_bounds_hold_and_all_places_come_back(
    steps: list[tuple[int, float, float]], seconds_per_item: float
) -> None:
    clock = Clock()
    admission = places(clock, seconds_per_item)
    with ExitStack() as held:
        for count, seconds, passing in steps:
            before = admission.admitted
            refused: QueueFull | None = None
            try:
                held.enter_context(held_places(admission, count, clock.deadline(seconds)))
            except QueueFull as error:
                refused = error
            assert admission.admitted == before + (0 if refused else count) <= ITEMS.value
            assert refused is None or (refused.retry_after_seconds >= 1 and (before or count > ITEMS.value))
            since = clock.now
            clock.now += passing
            admission.finished(count, since)
            assert admission.seconds_per_item >= 0
    assert admission.admitted == 0
