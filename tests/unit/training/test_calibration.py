import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature
from training.metrics import Integers, Scores, log_softmax, negative_log_likelihood


def calibrated(images: int, seed: int = 0, classes: int = 5) -> tuple[Scores, Integers]:
    """Logits whose softmax is exactly the probability with which their targets were drawn."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(images, classes))
    ends = np.exp(log_softmax(logits)).cumsum(axis=1)
    return logits, (generator.random((images, 1)) * ends[:, -1:] > ends).sum(axis=1)


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 60),
    classes=st.integers(1, 6),
    scale=st.floats(1e-3, 1e3),
    skill=st.floats(-3, 6),
)
def test_likelihood_is_never_worse_than_without_a_temperature(
    seed: int, images: int, classes: int, scale: float, skill: float
) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, images)
    logits = scale * (generator.normal(size=(images, classes)) + skill * np.eye(classes)[targets])
    temperature = fit_temperature(logits, targets)
    assert MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE
    assert negative_log_likelihood(logits, targets, temperature) <= negative_log_likelihood(logits, targets)


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_logits_that_were_scaled_get_their_factor_back(factor: float) -> None:
    logits, targets = calibrated(4000)
    assert fit_temperature(factor * logits, targets) == pytest.approx(factor, rel=0.05)


def test_the_prior_is_negligible_from_a_few_hundred_images_on() -> None:
    logits, targets = calibrated(400)
    temperatures = np.geomspace(0.5, 8, 4000)
    costs = [negative_log_likelihood(2 * logits, targets, t) for t in temperatures]
    assert fit_temperature(2 * logits, targets) == pytest.approx(temperatures[np.argmin(costs)], rel=0.03)


@pytest.mark.parametrize("images", [1, 12, 500])
@pytest.mark.parametrize("margin", [0.01, 1.0, 30.0])
def test_images_that_are_all_right_give_a_temperature_within_bounds(images: int, margin: float) -> None:
    targets = np.arange(images) % 3
    temperature = fit_temperature(margin * np.eye(3)[targets], targets)
    assert MIN_TEMPERATURE <= temperature <= 1


def test_a_dozen_images_that_are_all_right_do_not_make_the_network_boundlessly_sure() -> None:
    targets = np.arange(12) % 3
    assert 0.3 < fit_temperature(2.0 * np.eye(3)[targets], targets) < 1


def test_a_dozen_images_that_are_all_wrong_do_not_make_it_boundlessly_unsure() -> None:
    targets = np.arange(12) % 3
    assert 1 < fit_temperature(2.0 * np.eye(3)[(targets + 1) % 3], targets) < 5


def test_logits_that_say_nothing_keep_the_temperature_of_one() -> None:
    assert fit_temperature(np.zeros((50, 4)), np.arange(50) % 4) == 1
    assert fit_temperature(np.ones((5, 1)), np.zeros(5, dtype=np.int64)) == 1


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(np.array([[np.inf, 0.0]]), np.array([0]))
