import pytest

from training.schedule import one_cycle


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    rates = [one_cycle(step, 101, peak=1.0, warm_up=0.25) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[25] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(1 / 2500)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)


def test_a_run_of_one_step_has_a_rate() -> None:
    assert 0 < one_cycle(0, 1, peak=1.0, warm_up=0.25) <= 1
