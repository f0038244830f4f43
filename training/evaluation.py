"""The evaluation: what a network's logits on one part of the data come to, in one JSON record.

Takes logits and targets; knows neither images nor networks, and draws nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from training.metrics import (
    Integers,
    Reliability,
    Scores,
    brier_score,
    calibration_gap,
    check_scores,
    class_figures,
    confusion_matrix,
    interval,
    log_softmax,
    macro_f1,
    negative_log_likelihood,
    reliability,
    standard_error,
    top_k_accuracy,
)

_TOP = 5


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReliabilityBin(_Record):
    """Predictions whose confidence lies above `low` and up to `high`; null where there are none."""

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    count: int = Field(ge=0)


class ProbabilityScores(_Record):
    """How good probabilities are: NLL in nats, ECE 0 to 1, Brier score 0 to 2; all are best at 0."""

    nll: float = Field(ge=0)
    ece: float = Field(ge=0)
    brier: float
    reliability: tuple[ReliabilityBin, ...]


class ClassScores(_Record):
    """The figures of one class; null where it has no image or is never predicted, as `ClassFigures` says."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int = Field(ge=0)


class Evaluation(_Record):
    """What a network achieves on one part of the data.

    Attributes:
        images: N.
        classes: K.
        top1: fraction of images whose most probable class is right.
        top1_standard_error: the binomial standard error of `top1`.
        top1_interval: its 95% interval by Wilson.
        k: 5, or K if that is less.
        top_k: fraction of images whose class is among the k most probable.
        macro_f1: mean F1 of the classes that occur in the truth or in the predictions.
        temperature: what the logits are divided by for `calibrated`.
        uncalibrated: of softmax(logits).
        calibrated: of softmax(logits / temperature).
        per_class: in the order of the class indices, (K,).
        confusion: (truth, predicted, images) for every pair of class indices that occurs.
    """

    images: int = Field(ge=1)
    classes: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)
    top1_standard_error: float = Field(ge=0)
    top1_interval: tuple[float, float]
    k: int = Field(ge=1)
    top_k: float = Field(ge=0, le=1)
    macro_f1: float
    temperature: float = Field(gt=0)
    uncalibrated: ProbabilityScores
    calibrated: ProbabilityScores
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, int, int], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The K classes' names."""
        return tuple(scores.label for scores in self.per_class)

    def confusion_matrix(self) -> Integers:
        """Return the whole matrix (K, K): rows are the truth."""
        matrix = np.zeros((self.classes, self.classes), dtype=np.int64)
        for truth, predicted, count in self.confusion:
            matrix[truth, predicted] = count
        return matrix


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class: its row, that class, and the probability it was given."""

    index: int
    predicted: int
    probability: float


def evaluate(logits: Scores, targets: Integers, labels: tuple[str, ...], temperature: float) -> Evaluation:
    """Measure logits (N, K) against class indices (N,).

    Raises:
        ValueError: as `check_scores` says, or the labels are not K.
    """
    check_scores(logits, targets)
    if len(labels) != logits.shape[1]:
        raise ValueError(f"{logits.shape[1]} classes have {len(labels)} labels")
    k = min(_TOP, len(labels))
    confusion = confusion_matrix(logits.argmax(axis=1), targets, len(labels))
    figures = class_figures(confusion)
    top1 = top_k_accuracy(logits, targets, 1)
    return Evaluation(
        images=len(targets),
        classes=len(labels),
        top1=top1,
        top1_standard_error=standard_error(top1, len(targets)),
        top1_interval=interval(top1, len(targets)),
        k=k,
        top_k=top_k_accuracy(logits, targets, k),
        macro_f1=macro_f1(figures),
        temperature=temperature,
        uncalibrated=_score_probabilities(logits, targets, 1.0),
        calibrated=_score_probabilities(logits, targets, temperature),
        per_class=tuple(
            ClassScores(label=label, precision=_known(p), recall=_known(r), f1=_known(f), support=int(support))
            for label, p, r, f, support in zip(
                labels, figures.precision, figures.recall, figures.f1, figures.support, strict=True
            )
        ),
        confusion=tuple(
            (int(truth), int(predicted), int(confusion[truth, predicted]))
            for truth, predicted in np.argwhere(confusion)
        ),
    )


def worst_mistakes(logits: Scores, targets: Integers, temperature: float, count: int) -> list[Mistake]:
    """Return up to `count` wrong predictions, the most confident first."""
    check_scores(logits, targets)
    probabilities = np.exp(log_softmax(logits, temperature))
    predicted, confidence = logits.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [Mistake(int(i), int(predicted[i]), float(confidence[i])) for i in order]


def limits(evaluation: Evaluation, photos: str = "") -> tuple[str, ...]:
    """Say in sentences what the figures do not say.

    Args:
        evaluation: of a held-out part, or of other images.
        photos: what the other images are; empty for a held-out part.
    """
    low, high = evaluation.top1_interval
    images = f"{evaluation.images:,}"
    sentences = (
        _limit_photos(images, photos) if photos else _limit_part(images),
        f"With {images} images, chance alone leaves the accuracy uncertain: its 95% interval is {low:.1%} to "
        f"{high:.1%}." + ("" if photos else " Another seed of the training would move it too."),
        f"An image of none of the {evaluation.classes:,} classes is given one of them all the same, sometimes with a "
        "high probability.",
    )
    if evaluation.temperature == 1:
        return sentences
    return (
        *sentences,
        "The calibration holds for photos like those that the temperature was fitted on, in the same mixture of "
        "classes.",
    )


def _limit_part(images: str) -> str:
    return (
        f"The figures are of {images} images from the same source as the training images. Photos from elsewhere, with "
        "another camera, light or background, are as a rule recognised less well; by how much, these figures do not "
        "say."
    )


def _limit_photos(images: str, photos: str) -> str:
    return (
        f"The figures are of {images} images of {photos}, and hold for photos like them, in the same mixture of "
        "classes. Whether the network was trained on some of them is not known here; if it was, the figures are too "
        "good."
    )


def _score_probabilities(logits: Scores, targets: Integers, temperature: float) -> ProbabilityScores:
    probabilities = np.exp(log_softmax(logits, temperature))
    bins = reliability(probabilities, targets)
    return ProbabilityScores(
        nll=negative_log_likelihood(logits, targets, temperature),
        ece=calibration_gap(bins),
        brier=brier_score(probabilities, targets),
        reliability=_list_bins(bins),
    )


def _list_bins(bins: Reliability) -> tuple[ReliabilityBin, ...]:
    edges = np.linspace(0, 1, len(bins.count) + 1)
    return tuple(
        ReliabilityBin(low=low, high=high, confidence=_known(confidence), accuracy=_known(accuracy), count=int(count))
        for low, high, confidence, accuracy, count in zip(
            edges[:-1].tolist(), edges[1:].tolist(), bins.confidence, bins.accuracy, bins.count, strict=True
        )
    )


def _known(value: float) -> float | None:
    """Write NaN as None, which JSON can say."""
    return None if math.isnan(value) else float(value)
