"""A version ready to answer: its engine, checked against the golden outputs, and its softmax.

The one place where logits become probabilities. Synchronous; knows no queue and no HTTP.
"""

import logging
from collections.abc import Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import Golden, digest_files, read_golden, verify_files
from model.engines.base import Engine, Logits
from model.engines.ranking import fastest_first
from model.engines.selection import EngineChoice, is_installed, open_engine
from model.errors import CorruptCheckpoint, EngineUnavailable, GoldenMismatch, ModelError
from model.manifest import Manifest
from model.preprocessing import ImageLimits, Pixels, PreparedImage, load_decoders, prepare_image, prepare_in_steps
from model.registry import StoredVersion
from model.types import Prediction

Probabilities = NDArray[np.float32]

_CLEAR_MARGIN = 0.2
_MANY_CLASSES = 200

_log = logging.getLogger(__name__)


class Classifier:
    """From an image file's bytes to class probabilities, for one version."""

    def __init__(self, manifest: Manifest, engine: Engine) -> None:
        self.manifest = manifest
        self.engine = engine

    def prepare(self, data: bytes, limits: ImageLimits) -> PreparedImage:
        """Decode one image as this version wants it; safe to call from any thread.

        Raises:
            InvalidImage: as `prepare_image` says.
        """
        return prepare_image(data, self.manifest.preprocessing, limits)

    def prepare_in_steps(self, data: bytes, limits: ImageLimits) -> Generator[int, None, PreparedImage]:
        """Do what `prepare` does with a stop before each step that takes memory; yields how many bytes."""
        return prepare_in_steps(data, self.manifest.preprocessing, limits)

    def classify(self, pixels: Pixels, *, spread: bool = False) -> Probabilities:
        """Map uint8 pixels (N, H, W, C) to probabilities (N, K), as the engine's `infer` does."""
        return softmax(self.engine.infer(pixels, spread=spread), self.manifest.calibration.temperature)

    def blank(self, count: int) -> Pixels:
        """Return uint8 pixels (N, H, W, C) of images of which there is nothing to see."""
        return np.zeros((count, *self.manifest.preprocessing.shape), np.uint8)

    def settle(self) -> None:
        """Give back the memory that batches have needed, but for what the next image takes if it is alone."""
        self.engine.release()
        self.classify(self.blank(1), spread=True)

    def probability(self, probabilities: Probabilities, label: str) -> float:
        """Return the probability of a label in one image's answer (K,); 0 where the version does not know it."""
        labels = self.manifest.labels
        return float(probabilities[labels.index(label)]) if label in labels else 0.0

    def top(self, probabilities: Probabilities, count: int) -> list[Prediction]:
        """Return the `count` most probable classes of one image (K,), all for 0, most probable first."""
        first = _places_of_least(-probabilities, count or len(probabilities))
        labels = self.manifest.labels
        return [Prediction(labels[i], i, p) for i, p in zip(first.tolist(), probabilities[first].tolist(), strict=True)]


def _places_of_least(values: Probabilities, count: int) -> NDArray[np.intp]:
    """Return the places of the `count` least values, the least first, equal ones as they come."""
    if count < len(values) > _MANY_CLASSES:  # then to sort all takes longer than to find those that count
        few = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
        if len(few) >= count:  # else there are values that are no numbers
            return few[np.argsort(values[few], kind="stable")][:count]
    return np.argsort(values, kind="stable")[:count]


def load_classifier(version: StoredVersion, choice: EngineChoice) -> Classifier:
    """Verify a version's files and load it onto the first engine that repeats its golden outputs.

    Raises:
        CorruptCheckpoint: a file is missing or altered, or no engine repeats the golden outputs.
        EngineUnavailable: nothing on this machine may run the version.
    """
    load_decoders()
    verify_files(version.folder, version.manifest)
    golden = read_golden(version.folder)
    failures: list[ModelError] = []
    for candidate in fastest_first(version, choice):
        try:
            engine = open_engine(version, candidate, choice.threads_of(candidate.engine), choice.shared)
            check_golden(engine, golden, version.manifest)
        except ModelError as error:
            failures.append(error)
        except RuntimeError as error:  # CUDA's own: out of memory, a driver without a device, ...
            failures.append(EngineUnavailable(f"{candidate.engine} on {candidate.device} fails: {error}"))
        else:
            return Classifier(version.manifest, engine)
        _log.warning("%s: %s", version, failures[-1])
    raise type(failures[0])(f"{version} is not served: " + "; ".join(map(str, failures))) from failures[0]


def check_staged(folder: Path, manifest: Manifest) -> float:
    """Load what is about to be published with every engine that is here.

    An engine that this machine lacks a part of (a package, for instance) is left out while another
    one loads.

    Returns:
        The largest difference of a probability from the golden outputs.

    Raises:
        CorruptCheckpoint: a file is missing, or an engine does not repeat the golden outputs.
        EngineUnavailable: no engine that the manifest offers runs here.
    """
    whole = manifest.model_copy(update={"files": digest_files(folder)})
    staged = StoredVersion(manifest.name, 0, folder, whole)
    golden = read_golden(folder)
    differences: list[float] = []
    unavailable: list[EngineUnavailable] = []
    for engine in filter(is_installed, manifest.engines):
        try:
            classifier = load_classifier(staged, EngineChoice(engine, "cpu"))
        except EngineUnavailable as error:
            unavailable.append(error)
        else:
            differences.append(check_golden(classifier.engine, golden, whole))
    if not differences:
        raise EngineUnavailable(
            f"{manifest.name} runs on {', '.join(manifest.engines)}, and nothing of that runs on this machine"
            + "".join(f"; {error}" for error in unavailable)
        )
    return max(differences)


def check_golden(engine: Engine, golden: Golden, manifest: Manifest) -> float:
    """Run the golden inputs and return the largest difference of a probability.

    A version of reduced precision must also name the same class first wherever the golden outputs leave no doubt:
    where their two largest probabilities differ by more than 0.2. (A tolerance of up to 0.1 implies that.)

    Raises:
        GoldenMismatch: it is over the manifest's tolerance, another class comes first, or the shapes differ.
        CorruptCheckpoint: the labels are not as many as the logits.
    """
    temperature = manifest.calibration.temperature
    images = (golden.pixels[i : i + 1] for i in range(len(golden.pixels)))  # together they would take more memory
    logits = np.concatenate([engine.infer(image) for image in images])
    if logits.shape != golden.logits.shape:
        raise GoldenMismatch(
            f"engine {engine.name} on {engine.device} answers with shape {logits.shape}, the golden outputs have "
            f"{golden.logits.shape}"
        )
    if logits.shape[1] != len(manifest.labels):
        raise CorruptCheckpoint(
            f"the network answers with {logits.shape[1]} values, and the manifest has {len(manifest.labels)} labels"
        )
    found, expected = softmax(logits, temperature), softmax(golden.logits, temperature)
    difference = float(np.abs(found - expected).max())
    if not difference <= manifest.tolerance:  # so that NaN is refused too
        raise GoldenMismatch(
            f"engine {engine.name} on {engine.device} differs from the golden outputs by {difference:.2g} in a "
            f"probability; the tolerance is {manifest.tolerance:g}"
        )
    if manifest.precision != "fp32" and (other := _count_other_classes(found, expected)):
        raise GoldenMismatch(
            f"engine {engine.name} on {engine.device} names another class than the golden outputs for {other} of "
            f"{len(found)} images on which these leave no doubt"
        )
    return difference


def _count_other_classes(found: Probabilities, expected: Probabilities) -> int:
    """Count the images whose first class differs although the expected answer leaves no doubt."""
    second, first = np.sort(expected, axis=1)[:, -2:].T
    return int(((found.argmax(axis=1) != expected.argmax(axis=1)) & (first - second > _CLEAR_MARGIN)).sum())


def softmax(logits: Logits, temperature: float) -> Probabilities:
    """Turn logits (N, K), divided by the temperature, into probabilities (N, K)."""
    scaled = logits / np.float32(temperature)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
