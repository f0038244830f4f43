"""What a version of the registry is worth on labelled photos, and a temperature fitted on them.

The network is not touched: the version answers through the engine that serves it, on pixels that are
prepared as they are for serving.
"""

import os
from collections.abc import Callable
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
from training.collection import Collection, Images
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
        engine: the engine that answered, and its device.
        photos: on what.
        calibration: the version's own, or the one that was fitted.
        evaluation: of the measured photos, at the temperature of `calibration`.
        mistakes: the wrong answers that it was most certain of.
    """

    version: StoredVersion
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
    collection, calibration = photos.collection, version.manifest.calibration
    with display.stage("recognising", len(collection), "images") as show:
        logits = compute_logits(classifier, collection.images, lambda done: show(done, ""))
    if len(photos.fitted):
        temperature = fit_temperature(logits[photos.fitted], collection.targets[photos.fitted])
        calibration = Calibration(temperature=temperature, calibrated=True, note=photos.note)
    measured = photos.measured
    evaluation = evaluate(
        logits[measured], collection.targets[measured], version.manifest.labels, calibration.temperature
    )
    return Assessment(
        version=version,
        engine=f"{classifier.engine.name} on {classifier.engine.device}",
        photos=photos,
        calibration=calibration,
        evaluation=evaluation,
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
    batches = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), BATCH):
            indices = range(start, min(start + BATCH, len(images)))
            pixels = np.stack(list(pool.map(lambda index: _prepare(classifier, images, index), indices)))
            batches.append(classifier.engine.infer(pixels, spread=True))
            on_progress(indices.stop)
    return np.concatenate(batches)


def write_assessment(folder: Path, assessment: Assessment) -> None:
    """Write the report into a folder, which is made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """
    photos, manifest = assessment.photos, assessment.version.manifest
    report = Report(
        title=f"{assessment.version}{', calibrated' if len(photos.fitted) else ''} on {photos.collection.origin}",
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
    photos = assessment.photos
    earlier = [found for found in fingerprints(assessment.version) if found != photos.fingerprint]
    return (
        ("measured version", str(assessment.version)),
        ("photos", f"{photos.collection.origin}: {photos.division}"),
        ("fingerprint of the photos", photos.fingerprint),
        *((("fingerprints of earlier data", ", ".join(earlier)),) if earlier else ()),
        ("duplicates", photos.duplicates),
        ("engine", assessment.engine),
        ("measured with", ", ".join(f"{package} {version}" for package, version in versions().items())),
    )


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
