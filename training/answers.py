"""What two versions answer on the same images: each image is read once, and of each answer a line is kept.

Pixels are prepared as they are for serving, once for versions that want the same pixels, and are let go with their
batch. Knows whose classes are meant by the images' labels, and nothing of what the answers come to.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.classifier import Classifier, softmax
from model.errors import InferenceFailed, InvalidImage
from model.manifest import Manifest
from model.preprocessing import ImageLimits, Pixels, Preprocessing, prepare_image
from training.collection import UNKNOWN, ArrayImages, Collection, Images, Indices
from training.errors import InvalidData, UnreadableImages
from training.labels import match_labels
from training.metrics import log_softmax
from training.sources.loose import find_loose
from training.sources.open import open_collection
from training.sources.place import printable

BATCH: Final = 32

_NAMED = 5
_KEPT = 8  # prepared images that are kept of a run, for measuring the time that they take


@dataclass(frozen=True)
class SharedClasses:
    """The classes of two versions as one list of V, those of the first version before those that only the second has.

    A label that a version has twice is two classes, and both versions' first ones are the same.

    Attributes:
        labels: (V,).
        places: of each version, where its classes stand in the list, (K,).
    """

    labels: tuple[str, ...]
    places: tuple[NDArray[np.int64], NDArray[np.int64]]

    def own(self, side: int) -> NDArray[np.int64]:
        """Return a version's class index for each class of the list, and `UNKNOWN` for `UNKNOWN`: (V + 1,)."""
        indices = np.full(len(self.labels) + 1, UNKNOWN, np.int64)
        indices[self.places[side]] = np.arange(len(self.places[side]))
        return indices


@dataclass(frozen=True)
class Answers:
    """A version's answers on N images.

    Attributes:
        classes: the most probable class of each image, in the shared list, (N,).
        probabilities: which probability it was given, (N,).
        log_likelihoods: of the true class, in nats, (N,); NaN where the truth or the version's class is unknown.
    """

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    log_likelihoods: NDArray[np.float64]


@dataclass(frozen=True)
class Session:
    """What was read, and the two versions' answers on the N images that can be read.

    Attributes:
        readable: which images those are, rising, (N,).
        unreadable: why an image cannot be read, by its index.
        fingerprint: SHA-256 of all images' parts, labels and contents, as `training.survey` has it.
        answers: of both versions.
        examples: for both versions, the first prepared images, uint8 (up to 8, H, W, C).
    """

    readable: Indices
    unreadable: Mapping[int, str]
    fingerprint: str
    answers: tuple[Answers, Answers]
    examples: tuple[Pixels, Pixels]


@dataclass(frozen=True)
class _Read:
    """One image: the SHA-256 of its content, and its pixels for each preprocessing, or why there are none."""

    digest: str
    pixels: tuple[Pixels, ...] = ()
    reason: str = ""


def open_photos(data: str, *, root: Path | None = None, work: Path, label_column: str | None = None) -> Collection:
    """Open labelled images as `open_collection` does, or a folder of nothing but images, which have no labels.

    Of data in parts, the test part is taken. Images without labels have no `labels`, and `UNKNOWN` for a target.

    Raises:
        InvalidData: as `open_collection` says.
    """
    loose = find_loose(data) if label_column is None else None
    if loose is not None:
        return loose
    collection = open_collection(data, root=root, work=work, label_column=label_column)
    test = np.flatnonzero(collection.parts == "test")
    return collection.take(test) if len(test) else collection


def share_classes(first: Manifest, second: Manifest) -> SharedClasses:
    """Find the classes that two versions have in common, by their labels.

    Raises:
        InvalidData: there are none.
    """
    shared: dict[tuple[str, int], int] = {}

    def place(labels: tuple[str, ...]) -> NDArray[np.int64]:
        seen: Counter[str] = Counter()
        places = []
        for label in labels:
            places.append(shared.setdefault((label, seen[label]), len(shared)))
            seen[label] += 1
        return np.asarray(places, np.int64)

    places = place(first.labels), place(second.labels)
    if len(shared) == len(first.labels) + len(second.labels):
        raise InvalidData(
            f"{first.name} and {second.name} have no label in common ({printable(first.labels[0])!r} and "
            f"{printable(second.labels[0])!r} are their first): their answers cannot be compared"
        )
    return SharedClasses(tuple(label for label, _ in shared), places)


def find_truths(photos: Collection, shared: SharedClasses, who: tuple[str, str]) -> NDArray[np.int64]:
    """Return the true class of each image in the shared list, (N,); `UNKNOWN` where the images have no labels.

    Args:
        photos: the images.
        shared: the classes.
        who: the two versions, for messages.

    Raises:
        InvalidData: a label is no class of either version, or could be one of several, or only numbers a class.
    """
    truths = np.full(len(photos), UNKNOWN, np.int64)
    if not photos.labels:
        return truths
    occurring = np.unique(photos.targets)
    found = [photos.labels[target] for target in occurring]
    _check_not_numbered(found, shared, who)
    names = who[0] if who[0] == who[1] else " or ".join(who)
    try:
        places = match_labels(found, shared.labels, names)
    except InvalidData as error:
        raise InvalidData(
            f"{error}. To compare the answers without labels, put the images into one folder that has no class folders"
        ) from error
    by_target = np.full(len(photos.labels), UNKNOWN, np.int64)
    by_target[occurring] = places
    return by_target[photos.targets]


def ask_both(
    photos: Collection,
    truths: NDArray[np.int64],
    classifiers: tuple[Classifier, Classifier],
    shared: SharedClasses,
    *,
    max_unreadable: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Session:
    """Let both versions answer on every image that can be read, batch by batch and in turns.

    Args:
        photos: N of at least 1.
        truths: as `find_truths` returns them.
        classifiers: the versions.
        shared: their classes.
        max_unreadable: the share of the images that may be unreadable, 0 to 1.
        on_progress: is told how many images are done.

    Raises:
        UnreadableImages: more images than that cannot be read.
        InvalidData: no image can be read.
        InferenceFailed: a version answers with what is no number.
    """
    wishes = [_wish(classifier.manifest.preprocessing) for classifier in classifiers]
    distinct = tuple(dict.fromkeys(wishes))
    readable: list[int] = []
    unreadable: dict[int, str] = {}
    digests: list[str] = []
    parts: tuple[list[Answers], list[Answers]] = ([], [])
    kept: tuple[list[Pixels], list[Pixels]] = ([], [])
    owns = shared.own(0), shared.own(1)
    for start, batch in _read_batches(photos.images, distinct):
        good = [at for at, read in enumerate(batch) if read.pixels]
        digests.extend(read.digest for read in batch)
        unreadable.update({start + at: read.reason for at, read in enumerate(batch) if not read.pixels})
        readable.extend(start + at for at in good)
        for side, classifier in enumerate(classifiers):
            if not good:
                break
            pixels = np.stack([batch[at].pixels[distinct.index(wishes[side])] for at in good])
            kept[side].extend(pixels[: _KEPT - len(kept[side])].copy())
            own = owns[side][truths[start + np.asarray(good)]]
            parts[side].append(_ask(classifier, pixels, own, shared.places[side]))
        on_progress(start + len(batch))
    _check_readable(photos, unreadable, max_unreadable)
    return Session(
        readable=np.asarray(readable, np.int64),
        unreadable=unreadable,
        fingerprint=_fingerprint(photos, digests),
        answers=(_join(parts[0]), _join(parts[1])),
        examples=(np.stack(kept[0]), np.stack(kept[1])),
    )


def _check_not_numbered(found: list[str], shared: SharedClasses, who: tuple[str, str]) -> None:
    """Refuse class indices where the two versions number their classes differently."""
    first, second = shared.places
    if np.array_equal(first, second):
        return
    numbers = [label for label in found if label.isdecimal() and label not in shared.labels]
    if numbers:
        raise InvalidData(
            f"the data names classes by index, as {numbers[0]}, and {who[0]} and {who[1]} number theirs differently: "
            "name the classes by their labels"
        )


def _wish(preprocessing: Preprocessing) -> Preprocessing:
    """Return what decides on the pixels: the network itself applies mean and deviation."""
    channels = preprocessing.channels
    return preprocessing.model_copy(update={"mean": (0.0,) * channels, "std": (1.0,) * channels})


def _read_batches(images: Images, wishes: tuple[Preprocessing, ...]) -> Iterator[tuple[int, list[_Read]]]:
    """Yield the index of each batch's first image, and the batch; the next one is read meanwhile."""
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="answers") as pool:
        starts = range(0, len(images), BATCH)

        def submit(start: int) -> Iterator[_Read]:
            return pool.map(lambda index: _read(images, index, wishes), range(start, min(start + BATCH, len(images))))

        waiting = submit(0)
        for start in starts:
            batch = list(waiting)
            waiting = submit(start + BATCH)
            yield start, batch


def _read(images: Images, index: int, wishes: tuple[Preprocessing, ...]) -> _Read:
    try:
        data = images.read(index)
    except OSError as error:
        return _Read(digest="", reason=f"the file cannot be read: {error.strerror or error}")
    content = images.pixels[index] if isinstance(images, ArrayImages) else data  # as the survey takes its digests
    digest = hashlib.sha256(content).hexdigest()
    try:
        return _Read(digest, tuple(prepare_image(data, wish, ImageLimits()).pixels for wish in wishes))
    except InvalidImage as error:
        return _Read(digest, reason=str(error))


def _ask(classifier: Classifier, pixels: Pixels, truths: NDArray[np.int64], places: NDArray[np.int64]) -> Answers:
    """Ask a version for the classes of one batch; `truths` are its own class indices, or `UNKNOWN`."""
    logits = classifier.engine.infer(pixels, spread=True)
    if not np.isfinite(logits).all():
        raise InferenceFailed(
            f"{classifier.manifest.name} answers with a logit that is not a finite number on "
            f"{classifier.engine.name}, {classifier.engine.device}"
        )
    temperature = classifier.manifest.calibration.temperature
    probabilities = softmax(logits, temperature)
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(pixels))
    likelihoods = log_softmax(logits, temperature)[rows, truths]
    return Answers(
        classes=places[best],
        probabilities=probabilities[rows, best].astype(np.float64),
        log_likelihoods=np.where(truths == UNKNOWN, np.nan, likelihoods),
    )


def _join(parts: list[Answers]) -> Answers:
    return Answers(
        classes=np.concatenate([part.classes for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        log_likelihoods=np.concatenate([part.log_likelihoods for part in parts]),
    )


def _check_readable(photos: Collection, unreadable: Mapping[int, str], max_unreadable: float) -> None:
    count, share = len(unreadable), len(unreadable) / len(photos)
    if share > max_unreadable:
        raise UnreadableImages(
            f"{count} of {len(photos)} images ({share:.1%}) cannot be read; the limit is {max_unreadable:.1%} "
            f"(--max-unreadable {max_unreadable:g}). {name_unreadable(photos, unreadable)}."
        )
    if count == len(photos):
        raise InvalidData(f"no image can be read: {name_unreadable(photos, unreadable)}")


def name_unreadable(photos: Collection, unreadable: Mapping[int, str]) -> str:
    """Write out the first images that cannot be read, and why."""
    first = "; ".join(
        printable(f"{photos.images.name(index)} ({reason})") for index, reason in list(unreadable.items())[:_NAMED]
    )
    return f"The first: {first}" if len(unreadable) > _NAMED else first


def _fingerprint(photos: Collection, digests: list[str]) -> str:
    labels = [photos.labels[target] if target != UNKNOWN else "" for target in photos.targets]
    rows = zip(photos.parts.tolist(), labels, digests, strict=True)
    return hashlib.sha256("\n".join(sorted(json.dumps(row) for row in rows)).encode()).hexdigest()
