"""Figures that say how good logits and probabilities are, in numpy alone.

`scores` are logits or probabilities (N, K), where either gives the same figure; `targets` are class
indices (N,). What does not exist, such as the recall of a class without an image, is NaN. Knows
neither labels nor networks, and fits nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BINS = 15  # of Guo et al.


@dataclass(frozen=True)
class Reliability:
    """Predictions sorted by their confidence into M bins of equal width, from 0 to 1.

    Attributes:
        confidence: mean probability of the predicted class in each bin, (M,); NaN in an empty bin.
        accuracy: fraction of right predictions in each bin, (M,); NaN in an empty bin.
        count: predictions in each bin, (M,).
    """

    confidence: Floats
    accuracy: Floats
    count: Integers


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall, F1 and number of images of each of the K classes, (K,) each.

    Precision is NaN for a class that is never predicted, recall for one without an image, and F1
    for one that has neither.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    support: Integers


def check_scores(scores: Scores, targets: Integers) -> None:
    """Make sure that scores and targets belong together.

    Raises:
        ValueError: there is no image, a shape or a target does not fit, or a score is not finite.
    """
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or 0 in scores.shape:  # noqa: PLR2004 - N and K
        raise ValueError(f"scores are (N, K) and targets (N,), N at least 1; got {scores.shape} and {targets.shape}")
    if targets.min() < 0 or targets.max() >= scores.shape[1]:
        raise ValueError(f"targets are class indices from 0 to {scores.shape[1] - 1}")
    if not np.isfinite(scores).all():
        raise ValueError("scores are finite numbers; at least one is not")


def log_softmax(logits: Scores, temperature: float = 1.0) -> Floats:
    """Turn logits (N, K), divided by the temperature, into logarithms of probabilities (N, K).

    In float64: the likelihood needs the logarithm of probabilities that float32 rounds to 0.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def top_k_accuracy(scores: Scores, targets: Integers, k: int) -> float:
    """Return the fraction of images whose class is among the k highest; of equal scores the lower index is higher."""
    own = scores[np.arange(len(targets)), targets][:, None]  # (N, 1)
    before = np.arange(scores.shape[1]) < targets[:, None]  # (N, K)
    rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return float((rank < k).mean())


def negative_log_likelihood(logits: Scores, targets: Integers, temperature: float = 1.0) -> float:
    """Return the mean of -log p(target) in nats, with p = softmax(logits / temperature)."""
    return float(-log_softmax(logits, temperature)[np.arange(len(targets)), targets].mean())


def brier_score(probabilities: Scores, targets: Integers) -> float:
    """Return the mean over images of the squared error summed over classes, 0 (best) to 2.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950, in its
    original form for K classes; the form for two classes that counts one of them is half of it.
    """
    own = probabilities[np.arange(len(targets)), targets]
    return float(((probabilities**2).sum(axis=1) - 2 * own + 1).mean())


def reliability(probabilities: Scores, targets: Integers, bins: int = BINS) -> Reliability:
    """Sort the predictions by the probability of the predicted class into bins ((m-1)/M, m/M]."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == targets).astype(np.float64)
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    return Reliability(
        confidence=_divide(np.bincount(number, confidence, bins), count),
        accuracy=_divide(np.bincount(number, right, bins), count),
        count=count,
    )


def expected_calibration_error(probabilities: Scores, targets: Integers, bins: int = BINS) -> float:
    """Return the mean over images of |accuracy - confidence| of the image's bin, 0 (best) to 1.

    Of the predicted class alone, in 15 bins of equal width. Source: Guo et al., "On calibration of
    modern neural networks", 2017, arXiv 1706.04599, equation 3.
    """
    return calibration_gap(reliability(probabilities, targets, bins))


def calibration_gap(sorted_predictions: Reliability) -> float:
    """Return the expected calibration error of predictions that are sorted into bins already."""
    filled = sorted_predictions.count > 0
    gap = np.abs(sorted_predictions.accuracy - sorted_predictions.confidence)[filled]
    return float(np.average(gap, weights=sorted_predictions.count[filled]))


def confusion_matrix(predictions: Integers, targets: Integers, classes: int) -> Integers:
    """Count the images of each class (row) that were given each class (column): (K, K)."""
    cells = np.bincount(targets * classes + predictions, minlength=classes * classes)
    return cells.reshape(classes, classes)  # (K, K)


def most_confused(confusion: Integers, count: int) -> list[tuple[int, int, int]]:
    """Return up to `count` pairs of classes as (truth, predicted, images), the most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    rows, columns = np.nonzero(wrong)
    order = np.argsort(-wrong[rows, columns], kind="stable")[:count]
    return [(int(rows[i]), int(columns[i]), int(wrong[rows[i], columns[i]])) for i in order]


def class_figures(confusion: Integers) -> ClassFigures:
    """Derive the figures of each class from a confusion matrix (K, K)."""
    right = np.diagonal(confusion)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassFigures(
        precision=_divide(right, predicted),
        recall=_divide(right, support),
        f1=_divide(2 * right, support + predicted),
        support=support,
    )


def macro_f1(figures: ClassFigures) -> float:
    """Return the mean F1 of the classes that occur in the truth or in the predictions."""
    return float(np.nanmean(figures.f1))


def standard_error(fraction: float, count: int) -> float:
    """Return the standard error of a fraction of `count` independent images; 0 at the ends, see `interval`."""
    return math.sqrt(fraction * (1 - fraction) / count)


def interval(fraction: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction of `count` independent images, which has a width at 0 and 1 too.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z = 1.959964  # of the normal distribution, 95% lies within
    centre = (fraction + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def _divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide, with NaN where the denominator is 0."""
    result = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result
