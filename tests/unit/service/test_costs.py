import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.costs import CostCurve


def curve(any_batch: float, each: float, sizes: list[int]) -> CostCurve:
    """What is learned from exact measurements."""
    costs = CostCurve()
    for size in sizes:
        costs.begin_with(size, any_batch + each * size)
    return costs


@given(any_batch=st.floats(0, 0.01), each=st.floats(1e-5, 0.1))
def test_the_line_through_exact_measurements_is_found(any_batch: float, each: float) -> None:
    assert curve(any_batch, each, [1, 2, 4, 8]).line == pytest.approx((any_batch, each), rel=1e-6, abs=1e-9)


def test_a_batch_is_as_large_as_is_of_use() -> None:
    assert curve(0.0, 0.005, [1, 2]).batch_size(32) == 1
    assert curve(0.00019, 0.0005, [1, 4, 16]).batch_size(32) == 8
    assert curve(0.00019, 0.0005, [1, 4, 16]).batch_size(4) == 4
    assert curve(0.00019, 0.0005, [1, 2, 4]).batch_size(32) == 4
    assert curve(0.01, 0.0, [1, 2]).batch_size(32) == 2


def test_what_is_learned_takes_the_place_of_what_was_measured_first() -> None:
    costs = curve(0.0, 0.001, [1, 2])
    for size in [1, 2, 3, 4] * 200:
        costs.learn(size, 0.004 + 0.001 * size)
    any_batch, each = costs.line
    assert any_batch == pytest.approx(0.004, rel=0.1)
    assert each == pytest.approx(0.001, rel=0.1)


def test_one_size_alone_tells_what_an_image_costs() -> None:
    costs = CostCurve()
    assert costs.batch_size(8) == 8
    costs.begin_with(2, 0.01)
    assert costs.line == (0.0, 0.005)
    assert costs.batch_size(8) == 1
    for _ in range(9):
        costs.learn(2, 0.1)
    assert costs.batch_size(8) == 1
