"""A version of reduced precision tried beside its fp32 version: both answer the same photos, and run in turns.

Measures, and changes nothing; whether the result will do, its record says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.classifier import Classifier, softmax
from model.engines.base import Logits
from model.manifest import Calibration
from model.registry import StoredVersion
from training.assess import Assessment, assess_logits, calibrate, compute_all_logits, prepare_all
from training.cost import race
from training.diff import file_that_runs, judge_pairs, share
from training.errors import NotReducible
from training.evaluation import Evaluation, evaluate
from training.photos import Photos
from training.precision import Accuracy, Goal, Reduction, Speed, Worth
from training.progress import Display

SECONDS: Final = 4.0

_BATCHES: Final = (1, 8)
_TIMED_IMAGES = 8
_WORTH_IT = 1.05  # times as fast


@dataclass(frozen=True)
class Trial:
    """What was found: the figures, the calibration that they are of, and the evaluation, None without labels."""

    found: Reduction
    calibration: Calibration
    assessment: Assessment | None


@dataclass(frozen=True)
class Contender:
    """A version and the classifier that it was loaded as."""

    version: StoredVersion
    classifier: Classifier


def try_out(
    base: Contender,
    reduced: Contender,
    photos: Photos,
    goal: Goal,
    display: Display,
    *,
    range_images: int,
    seconds: float = SECONDS,
) -> Trial:
    """Measure both, the reduced one at a temperature of its own where it can be fitted.

    Args:
        base: the fp32 version.
        reduced: what was made of it; it takes the same pixels.
        photos: what is calibrated on, and what is measured.
        goal: what is wanted.
        display: shows what goes on.
        range_images: calibration images that the ranges of int8 were taken from.
        seconds: how long both are timed, for each size of batch.

    Raises:
        NotReducible: the reduced version answers with what is no number.
        InvalidData: an image is gone.
    """
    collection, measured = photos.collection, photos.measured
    classifiers = base.classifier, reduced.classifier
    with display.stage("comparing", len(collection), "images") as show:
        logits = compute_all_logits(classifiers, collection.images, lambda done: show(done, ""))
    if not np.isfinite(logits[1]).all():
        raise NotReducible(f"{base.version} answers with what is no number in {goal.precision}")
    calibration, fitted = _recalibrate(base.version, logits[1], photos)
    temperature = base.version.manifest.calibration.temperature
    before, after = (each[measured] for each in logits)
    assessment = baseline = verdict = None
    if photos.labelled:
        targets = collection.targets[measured]
        assessment = assess_logits(
            base.version, reduced.classifier, photos, logits[1], calibration, change=f"in {goal.precision}"
        )
        baseline = evaluate(before, targets, collection.labels, temperature)
        verdict = judge_pairs(before.argmax(axis=1) == targets, after.argmax(axis=1) == targets)
    speeds = _race(classifiers, photos, display, seconds)
    change = _probability_change(before, after, temperature)
    found = Reduction(
        base=str(base.version),
        precision=goal.precision,
        data=collection.origin,
        fingerprint=photos.fingerprint,
        range_images=range_images,
        fitted_images=fitted,
        images=len(measured),
        agreement=share(before.argmax(axis=1) == after.argmax(axis=1)),
        mean_probability_change=float(change.mean()),
        largest_probability_change=float(change.max()),
        verdict=verdict,
        max_drop=goal.max_drop,
        fp32=_weigh(base, base.version.manifest.calibration, baseline),
        reduced=_weigh(reduced, calibration, assessment.evaluation if assessment else None),
        speeds=speeds,
        notes=tuple(_notes(base.version, photos, goal, speeds, fitted)),
    )
    return Trial(found, calibration, assessment)


def _recalibrate(version: StoredVersion, logits: Logits, photos: Photos) -> tuple[Calibration, int]:
    """Fit the temperature on labels that the version was not made with, else keep it; return also on how many images.

    On images that the network was trained on, it would be fitted too sure.
    """
    if photos.labelled and not photos.known:
        return calibrate(logits, photos), len(photos.fitted)
    kept = version.manifest.calibration
    if not kept.calibrated:
        return kept, 0
    return kept.model_copy(update={"note": f"{kept.note} The temperature is that of {version}, in fp32.".strip()}), 0


def _race(
    classifiers: tuple[Classifier, Classifier], photos: Photos, display: Display, seconds: float
) -> tuple[Speed, ...]:
    first, second = (classifier.engine for classifier in classifiers)
    with display.stage("timing both"):
        pixels = prepare_all(classifiers[0], photos.collection.images, photos.measured[:_TIMED_IMAGES])
        races = [race((first, second), pixels, batch=batch, seconds=seconds) for batch in _BATCHES]
    return tuple(
        Speed(batch=each.batch, fp32=each.first, reduced=each.second, ratio=each.ratio, rounds=each.rounds)
        for each in races
    )


def _probability_change(before: Logits, after: Logits, temperature: float) -> Logits:
    """Return how far the probability of the first version's most probable class moves for each image, (N,)."""
    was, now = softmax(before, temperature), softmax(after, temperature)
    rows, first = np.arange(len(was)), was.argmax(axis=1)
    return np.asarray(np.abs(now[rows, first] - was[rows, first]))


def _weigh(contender: Contender, calibration: Calibration, evaluation: Evaluation | None) -> Worth:
    engine = contender.classifier.engine
    return Worth(
        engine=f"{engine.name} on {engine.device}",
        network_bytes=contender.version.manifest.files[file_that_runs(engine.name)].bytes,
        temperature=calibration.temperature,
        calibrated=calibration.calibrated,
        accuracy=None
        if evaluation is None
        else Accuracy(
            top1=evaluation.top1,
            top1_interval=evaluation.top1_interval,
            k=evaluation.k,
            top_k=evaluation.top_k,
            nll=evaluation.calibrated.nll,
            ece=evaluation.calibrated.ece,
            ece_uncalibrated=evaluation.uncalibrated.ece,
        ),
    )


def _notes(version: StoredVersion, photos: Photos, goal: Goal, speeds: Sequence[Speed], fitted: int) -> Iterator[str]:
    images = len(photos.measured)
    if 100 / images > goal.max_drop > 0:
        yield f"Of {images:,} images, one is {100 / images:.2f} points: a smaller loss cannot be seen on them."
    if photos.labelled and not fitted:
        yield (
            f"The temperature is that of {version}: fitted on images that the version was made with, it would be "
            "too sure."
        )
    fastest = max(speed.ratio for speed in speeds)
    if fastest < _WORTH_IT:
        yield f"On this machine {goal.precision} is not faster than fp32 (x {fastest:.2f})."
