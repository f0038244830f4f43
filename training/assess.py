"""What a version of the registry is worth on labelled photos, and a temperature fitted on them.

The network is not touched: the version answers through the engine that serves it, on pixels that are
prepared as they are for serving.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from model.classifier import Classifier, load_classifier
from model.engines.base import Logits
from model.engines.selection import EngineChoice
from model.errors import InvalidImage
from model.manifest import Calibration
from model.preprocessing import ImageLimits, Pixels
from model.registry import StoredVersion
from training.calibration import fit_temperature
from training.collection import Collection, Images, Indices
from training.errors import InvalidData
from training.evaluation import Evaluation, evaluate, worst_mistakes
from training.photos import Photos, fingerprints
from training.progress import Display
from training.report import Fact, MistakenImage, Report, write_report
from training.sources.place import printable
from training.versions import versions

BATCH: Final = 32

_MISTAKES = 24


@dataclass(frozen=True)
class Assessment:
    """What a version achieves on the measured photos.

    Attributes:
        version: which one.
        change: what was done to it before, as "calibrated" or "in int8"; empty for nothing.
        engine: the engine that answered, and its device.
        photos: on what.
        calibration: the version's own, or the one that was fitted.
        evaluation: of the measured photos, at the temperature of `calibration`.
        mistakes: the wrong answers that it was most certain of.
    """

    version: StoredVersion
    change: str
    engine: str
    photos: Photos
    calibration: Calibration
    evaluation: Evaluation
    mistakes: tuple[MistakenImage, ...]


def assess(version: StoredVersion, photos: Photos, display: Display) -> Assessment:
    """Let the version answer on the best engine that is here, fit the temperature if that is wanted, and measure.

    Raises:
        ModelError: the version cannot be served, as `load_classifier` says.
        InvalidData: an image is gone.
    """
    classifier = load_classifier(version, EngineChoice(threads=os.cpu_count() or 1))
    calibration = version.manifest.calibration
    with display.stage("recognising", len(photos.collection), "images") as show:
        logits = compute_logits(classifier, photos.collection.images, lambda done: show(done, ""))
    if len(photos.fitted):
        calibration = calibrate(logits, photos)
    return assess_logits(
        version, classifier, photos, logits, calibration, change="calibrated" if len(photos.fitted) else ""
    )


def calibrate(logits: Logits, photos: Photos) -> Calibration:
    """Fit the temperature on the labelled photos that are set aside for it; the logits (N, K) are of all photos."""
    temperature = fit_temperature(logits[photos.fitted], photos.collection.targets[photos.fitted])
    return Calibration(temperature=temperature, calibrated=True, note=photos.note)


def assess_logits(
    version: StoredVersion,
    classifier: Classifier,
    photos: Photos,
    logits: Logits,
    calibration: Calibration,
    *,
    change: str = "",
) -> Assessment:
    """Measure what a version has answered on labelled photos: logits (N, K) of all N, measured or not."""
    collection, measured = photos.collection, photos.measured
    return Assessment(
        version=version,
        change=change,
        engine=f"{classifier.engine.name} on {classifier.engine.device}",
        photos=photos,
        calibration=calibration,
        evaluation=evaluate(
            logits[measured], collection.targets[measured], version.manifest.labels, calibration.temperature
        ),
        mistakes=_show_mistakes(classifier, logits[measured], collection.take(measured), calibration.temperature),
    )


def compute_logits(
    classifier: Classifier, images: Images, on_progress: Callable[[int], None] = lambda _: None
) -> Logits:
    """Return the logits (N, K) of N images, as serving computes them.

    Args:
        classifier: the version.
        images: N of at least 1.
        on_progress: is told how many images are done.

    Raises:
        InvalidData: an image is gone, or is not the one that it was.
    """
    (logits,) = compute_all_logits((classifier,), images, on_progress)
    return logits


def compute_all_logits(
    classifiers: Sequence[Classifier], images: Images, on_progress: Callable[[int], None] = lambda _: None
) -> list[Logits]:
    """Return the logits (N, K) of each of several versions that take the same pixels, as `compute_logits` does."""
    batches: list[list[Logits]] = [[] for _ in classifiers]
    for start in range(0, len(images), BATCH):
        indices = np.arange(start, min(start + BATCH, len(images)))
        pixels = prepare_all(classifiers[0], images, indices)
        for answers, classifier in zip(batches, classifiers, strict=True):
            answers.append(classifier.engine.infer(pixels, spread=True))
        on_progress(start + len(indices))
    return [np.concatenate(answers) for answers in batches]


def prepare_all(classifier: Classifier, images: Images, indices: Indices) -> Pixels:
    """Return the pixels (n, H, W, C) of some images, as serving prepares them.

    Raises:
        InvalidData: an image is gone, or is not the one that it was.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(lambda index: _prepare(classifier, images, int(index)), indices)))


def write_assessment(folder: Path, assessment: Assessment) -> None:
    """Write the report into a folder, which is made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """
    photos, manifest = assessment.photos, assessment.version.manifest
    report = Report(
        title=f"{_name(assessment)} on {photos.collection.origin}",
        test=assessment.evaluation,
        parameters=manifest.parameters,
        mistakes=assessment.mistakes,
        facts=facts(assessment),
        warnings=photos.warnings,
        photos=photos.collection.origin,
    )
    write_report(folder, report)


def facts(assessment: Assessment) -> tuple[Fact, ...]:
    """Say what was measured, on what and with what."""
    return describe_measurement(assessment.version, _name(assessment), assessment.photos, assessment.engine)


def describe_measurement(version: StoredVersion, name: str, photos: Photos, engine: str) -> tuple[Fact, ...]:
    """Say on what and with what something was measured.

    Args:
        version: that it is, or was made of.
        name: what to call it.
        photos: on which it answered.
        engine: that answered, and its device.
    """
    earlier = [found for found in fingerprints(version) if found != photos.fingerprint]
    return (
        ("measured version", name),
        ("photos", f"{photos.collection.origin}: {photos.division}"),
        ("fingerprint of the photos", photos.fingerprint),
        *((("fingerprints of earlier data", ", ".join(earlier)),) if earlier else ()),
        ("duplicates", photos.duplicates),
        ("engine", engine),
        ("measured with", ", ".join(f"{package} {version}" for package, version in versions().items())),
    )


def _name(assessment: Assessment) -> str:
    return ", ".join(filter(None, (str(assessment.version), assessment.change)))


def _prepare(classifier: Classifier, images: Images, index: int) -> Pixels:
    try:
        return classifier.prepare(images.read(index), ImageLimits()).pixels
    except (OSError, InvalidImage) as error:
        raise InvalidData(f"{printable(images.name(index))} could be read before and cannot be now: {error}") from error


def _show_mistakes(
    classifier: Classifier, logits: Logits, measured: Collection, temperature: float
) -> tuple[MistakenImage, ...]:
    labels = measured.labels
    return tuple(
        MistakenImage(
            pixels=_prepare(classifier, measured.images, mistake.index),
            truth=labels[measured.targets[mistake.index]],
            predicted=labels[mistake.predicted],
            probability=mistake.probability,
            name=measured.images.name(mistake.index),
        )
        for mistake in worst_mistakes(logits, measured.targets, temperature, _MISTAKES)
    )
