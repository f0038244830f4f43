import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from training.metrics import (
    Integers,
    Scores,
    brier_score,
    check_scores,
    class_figures,
    confusion_matrix,
    expected_calibration_error,
    interval,
    log_softmax,
    macro_f1,
    most_confused,
    negative_log_likelihood,
    reliability,
    standard_error,
    top_k_accuracy,
)

# Four images, three classes; right, right, wrong, wrong.
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1]])
TARGETS = np.array([0, 1, 0, 2])


def sample(seed: int, images: int = 300, classes: int = 7) -> tuple[Scores, Integers]:
    """Logits that point to the truth, more or less."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)) + 1.5 * np.eye(classes)[targets]
    return logits, targets


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_is_that_of_scikit_learn(seed: int, k: int) -> None:
    logits, targets = sample(seed)
    expected = reference.top_k_accuracy_score(targets, logits, k=k, labels=np.arange(7))
    assert top_k_accuracy(logits, targets, k) == pytest.approx(expected)


def test_of_equal_scores_the_lower_index_is_higher() -> None:
    equal = np.zeros((3, 3))
    assert top_k_accuracy(equal, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(equal, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_likelihood_is_that_of_scikit_learn(temperature: float) -> None:
    logits, targets = sample(0)
    expected = reference.log_loss(targets, np.exp(log_softmax(logits, temperature)), labels=np.arange(7))
    assert negative_log_likelihood(logits, targets, temperature) == pytest.approx(expected)


def test_likelihood_stays_finite_where_a_probability_rounds_to_nothing() -> None:
    logits = np.array([[2000.0, 0.0]], dtype=np.float32)
    assert negative_log_likelihood(logits, np.array([1])) == pytest.approx(2000)


def test_brier_score_is_that_of_scikit_learn() -> None:
    logits, targets = sample(0)
    probabilities = np.exp(log_softmax(logits))
    expected = ((probabilities - np.eye(7)[targets]) ** 2).sum(axis=1).mean()
    assert brier_score(probabilities, targets) == pytest.approx(expected)
    binary = np.exp(log_softmax(logits[:, :2]))
    assert brier_score(binary, targets % 2) == pytest.approx(
        2 * reference.brier_score_loss(targets % 2, binary[:, 1], scale_by_half=True)
    )


def test_brier_score_by_hand() -> None:
    squares = [0.09 + 0.04 + 0.01, 0.01 + 0.01, 0.49 + 0.36 + 0.01, 0.04 + 0.49 + 0.81]
    assert brier_score(PROBABILITIES, TARGETS) == pytest.approx(np.mean(squares))


def test_calibration_error_by_hand() -> None:
    # With two bins all four lie in the upper one: half are right, the mean confidence is 0.725.
    assert expected_calibration_error(PROBABILITIES, TARGETS, bins=2) == pytest.approx(0.225)
    # With ten: 0.6 alone and wrong; 0.7 twice, one right; 0.9 alone and right.
    assert expected_calibration_error(PROBABILITIES, TARGETS, bins=10) == pytest.approx((0.6 + 2 * 0.2 + 0.1) / 4)


def test_a_bin_has_its_upper_edge_and_not_its_lower() -> None:
    bins = reliability(np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]), np.array([0, 1, 0]), bins=4)
    assert bins.count.tolist() == [0, 1, 1, 1]
    assert np.isnan(bins.accuracy[0])
    assert np.isnan(bins.confidence[0])
    assert bins.confidence[1:].tolist() == [0.5, 0.75, 1.0]


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_calibration_error_is_a_fraction_and_every_image_is_in_a_bin(seed: int, temperature: float) -> None:
    logits, targets = sample(seed, images=40, classes=3)
    probabilities = np.exp(log_softmax(logits, temperature))
    assert 0 <= expected_calibration_error(probabilities, targets) <= 1
    assert reliability(probabilities, targets).count.sum() == 40


def test_probabilities_that_are_as_often_right_as_they_say_have_a_small_error() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), size=20_000)
    targets = (generator.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    assert expected_calibration_error(probabilities, targets) < 0.015
    sharpened = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)
    assert expected_calibration_error(sharpened, targets) > 0.1


def test_confusion_and_class_figures_are_those_of_scikit_learn() -> None:
    logits, targets = sample(3)
    predicted = logits.argmax(axis=1)
    confusion = confusion_matrix(predicted, targets, 7)
    assert np.array_equal(confusion, reference.confusion_matrix(targets, predicted, labels=np.arange(7)))
    figures = class_figures(confusion)
    expected = reference.precision_recall_fscore_support(targets, predicted, labels=np.arange(7))
    for ours, theirs in zip((figures.precision, figures.recall, figures.f1, figures.support), expected, strict=True):
        assert ours == pytest.approx(theirs)
    assert macro_f1(figures) == pytest.approx(reference.f1_score(targets, predicted, average="macro"))


def test_a_class_that_does_not_occur_has_no_figures_and_leaves_the_mean_alone() -> None:
    predicted, targets = np.array([0, 0, 1, 3]), np.array([0, 1, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = class_figures(confusion_matrix(predicted, targets, 4))
    assert figures.support.tolist() == [1, 3, 0, 0]
    assert np.isnan(figures.precision).tolist() == [False, False, True, False]  # 2 is never predicted
    assert np.isnan(figures.recall).tolist() == [False, False, True, True]  # 2 and 3 have no image
    assert np.isnan(figures.f1).tolist() == [False, False, True, False]
    assert macro_f1(figures) == pytest.approx(reference.f1_score(targets, predicted, average="macro"))


def test_the_most_confused_pairs_come_first_and_right_answers_not_at_all() -> None:
    confusion = np.array([[90, 3, 0], [5, 80, 1], [0, 0, 7]])
    assert most_confused(confusion, 2) == [(1, 0, 5), (0, 1, 3)]
    assert most_confused(np.eye(3, dtype=np.int64), 5) == []


def test_the_interval_holds_the_fraction_and_narrows_with_more_images() -> None:
    assert interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson's, as tables give it
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    for fraction in (0.0, 0.3, 1.0):
        few, many = interval(fraction, 20), interval(fraction, 2000)
        assert 0 <= few[0] <= many[0] <= fraction <= many[1] <= few[1] <= 1
        assert few[1] > few[0]
    assert math.isclose(standard_error(1.0, 10), 0)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=np.int64)),
        (np.zeros((2, 3)), np.array([0])),
        (np.zeros(3), np.array([0, 1, 2])),
        (np.zeros((1, 3)), np.array([3])),
        (np.zeros((1, 3)), np.array([-1])),
        (np.full((1, 3), np.nan), np.array([0])),
        (np.full((1, 3), -np.inf), np.array([0])),
    ],
)
def test_scores_that_do_not_fit_their_targets_are_refused(scores: Scores, targets: Integers) -> None:
    with pytest.raises(ValueError, match=r"scores are|targets are"):
        check_scores(scores, targets)
