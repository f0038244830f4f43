import pytest

from training.schedule import cosine, one_cycle

WAY = [step / 100 for step in range(101)]


def test_one_cycle_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    rates = [one_cycle(progress, peak=1.0, warm_up=0.25) for progress in WAY]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[25] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(1 / 2500)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)


def test_cosine_rises_in_a_line_and_falls_to_nothing() -> None:
    rates = [cosine(progress, peak=2.0, warm_up=0.1) for progress in WAY]
    assert rates[0] > 0
    assert rates[5] == pytest.approx(1.0)
    assert max(rates) == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", [one_cycle, cosine])
@pytest.mark.parametrize("warm_up", [0.0, 1.0])
def test_a_run_without_warm_up_or_with_nothing_else_has_rates(schedule: type(one_cycle), warm_up: float) -> None:  # type: ignore[valid-type]
    assert all(0 <= schedule(progress, 1.0, warm_up) <= 1 for progress in WAY)
