import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.costs import CostCurve, fastest


def measured(*milliseconds: float) -> CostCurve:
    """What is known at the start, where an image in batches of 1, 2, 4 .. takes so long."""
    costs = CostCurve()
    for step, each in enumerate(milliseconds):
        costs.begin_with(2**step, 2**step * each / 1000)
    return costs


def usual_size(costs: CostCurve, most: int = 64) -> int:
    return Counter(costs.batch_size(most) for _ in range(32)).most_common(1)[0][0]


def load(costs: CostCurve, seconds: dict[int, float], batches: int = 4000, noise: float = 0.2) -> None:
    """Compute batches, an image in which takes so long, more or less."""
    generator = random.Random(1)
    for _ in range(batches):
        size = costs.batch_size(64)
        costs.learn(size, size * seconds[size] * generator.uniform(1 - noise, 1 + noise))


@pytest.mark.parametrize(
    ("milliseconds", "size"),
    [((5, 5), 1), ((5, 4.9), 1), ((5, 4.7), 2), ((4, 3.6, 3.2, 4.1), 4), ((0.37, 0.3, 0.32, 0.3, 0.29, 0.28), 32)],
)
def test_the_first_choice_is_the_smallest_batch_of_the_cheapest_images(
    milliseconds: tuple[float, ...], size: int
) -> None:
    assert usual_size(measured(*milliseconds)) == size


@pytest.mark.parametrize(
    ("milliseconds", "goes_on"),
    [((5,), True), ((5, 5.2), True), ((5, 5.3), False), ((5, 3, 3.2), False), ((100,), False)],
)
def test_larger_batches_are_worth_a_try_while_an_image_is_not_much_dearer_and_the_batch_is_short(
    milliseconds: tuple[float, ...], goes_on: bool
) -> None:
    costs = measured(*milliseconds[:-1])
    size = 2 ** (len(milliseconds) - 1)
    assert costs.begin_with(size, size * milliseconds[-1] / 1000) is goes_on


def test_under_load_the_size_becomes_that_of_the_cheapest_images() -> None:
    costs = measured(5, 5, 5, 5)
    load(costs, {1: 0.010, 2: 0.008, 4: 0.007, 8: 0.0085})
    assert usual_size(costs) == 4
    load(costs, {1: 0.005, 2: 0.006, 4: 0.007, 8: 0.0085})  # the load has changed
    assert usual_size(costs) == 1


def test_of_sizes_that_are_alike_the_larger_one_is_taken() -> None:
    costs = measured(5, 5, 5, 5)
    load(costs, {1: 0.010, 2: 0.008, 4: 0.0079, 8: 0.0079})
    assert usual_size(costs) == 8


def test_a_batch_that_takes_long_is_not_made_however_cheap() -> None:
    costs = measured(10, 9, 9, 7)  # milliseconds an image: 56 for eight
    load(costs, {1: 0.010, 2: 0.009, 4: 0.008})
    assert usual_size(costs) == 4


def test_what_was_measured_at_the_start_is_not_compared_with_what_is_learned() -> None:
    costs = measured(5, 1)
    load(costs, {1: 0.009, 2: 0.008})
    assert usual_size(costs) == 2


def test_a_few_batches_decide_nothing() -> None:
    costs = measured(5, 5)
    for _ in range(100):
        costs.learn(1, 0.005)
    for _ in range(7):
        costs.learn(2, 0.002)
    assert usual_size(costs) == 1
    costs.learn(2, 0.002)
    assert usual_size(costs) == 2


def test_other_sizes_are_tried_often_until_enough_is_known_of_them_and_now_and_then_after() -> None:
    costs = measured(5, 4, 5)
    assert Counter(costs.batch_size(64) for _ in range(160)) == {2: 120, 1: 20, 4: 20}
    for size in [2] * 8 + [1, 4] * 8:
        costs.learn(size, size * 0.004)
    assert Counter(costs.batch_size(64) for _ in range(160)) == {2: 150, 1: 5, 4: 5}


def test_cores_that_become_slower_or_faster_make_no_size_cheaper() -> None:
    costs = measured(5, 5, 5, 5)
    load(costs, {1: 0.010, 2: 0.009, 4: 0.008, 8: 0.0085})
    for speed in (1.0, 1.3, 0.8, 1.5, 1.0):
        for _ in range(200):
            size = costs.batch_size(64)
            costs.learn(size, size * speed * {1: 0.010, 2: 0.009, 4: 0.008, 8: 0.0085}[size])
            assert usual_size(costs) == 4


def test_a_batch_in_eight_that_takes_many_times_as_long_changes_little() -> None:
    costs, generator = measured(5, 5, 5), random.Random(2)
    for _ in range(2000):
        size = costs.batch_size(64)
        costs.learn(size, size * {1: 0.010, 2: 0.009, 4: 0.0085}[size] * (10 if generator.random() < 1 / 8 else 1))
    assert usual_size(costs) == 4


def test_a_size_that_is_not_allowed_is_not_tried() -> None:
    costs = measured(5, 4, 5)
    assert Counter(costs.batch_size(2) for _ in range(160)) == {2: 120, 1: 40}


def test_a_cheaper_size_is_found_within_a_few_hundred_images() -> None:
    costs = measured(5, 4.9, 4.9, 4.9)
    load(costs, {1: 0.0066, 2: 0.006, 4: 0.0055, 8: 0.0052}, batches=200, noise=0.1)
    assert usual_size(costs) == 8


@given(most=st.integers(1, 64), seconds=st.lists(st.floats(1e-4, 0.1), max_size=7), seed=st.integers(0, 9))
def test_no_batch_is_larger_than_allowed_or_than_measured_at_the_start(
    most: int, seconds: list[float], seed: int
) -> None:
    costs = measured(*seconds)
    generator = random.Random(seed)
    largest = 2 ** (len(seconds) - 1) if seconds else most
    for _ in range(50):
        size = costs.batch_size(most)
        assert 1 <= size <= min(most, largest)
        costs.learn(size, generator.random())


def test_a_clock_that_stands_still_tells_nothing() -> None:
    costs = measured(5, 5)
    for _ in range(20):
        costs.learn(1, 0.0)
        costs.learn(2, 0.0)
    load(costs, {1: 0.010, 2: 0.008})
    assert usual_size(costs) == 2


def test_the_first_guess_of_what_an_item_takes_is_a_batch_of_one() -> None:
    assert CostCurve().seconds_per_item == 0
    assert measured(5, 4).seconds_per_item == 0.005


@pytest.mark.parametrize(
    ("milliseconds", "found", "runs"),
    [
        ([5, 5, 5], 5, 2),
        ([9, 6, 3.2, 3, 1], 3, 4),  # the first ones are slow
        ([6.6, 6.7, 27, 1], 6.6, 2),
        ([1] * 10, 1, 10),  # a hundredth of a second in all
        ([512, 256, 128, 64], 256, 2),  # longer than one waits for two that agree
        ([100, 80, 60, 40, 300, 20], 40, 5),
    ],
)
def test_a_size_costs_what_its_fastest_run_took_when_another_was_about_as_fast(
    milliseconds: list[float], found: float, runs: int
) -> None:
    now = 0.0
    left = iter(milliseconds)
    done = 0

    def run() -> None:
        nonlocal now, done
        now += next(left) / 1000
        done += 1

    assert fastest(run, lambda: now) == pytest.approx(found / 1000)
    assert done == runs
