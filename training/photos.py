"""The photos that a version is measured on: read, looked through, and divided for a calibration.

Knows what the version's classes are called, and nothing of what it answers.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import read_card
from model.preprocessing import ImageLimits, decode_whole
from model.registry import StoredVersion
from training.collection import Collection, Indices, Targets
from training.duplicates import duplicate_groups, find_duplicates, pixel_digest
from training.errors import InvalidData, UnreadableImages
from training.job import MAX_UNREADABLE
from training.labels import match_labels
from training.leakage import check_leakage
from training.progress import Display
from training.sources.loose import find_loose
from training.sources.open import open_collection
from training.sources.place import printable
from training.survey import Survey, survey

# Fewer images than this say next to nothing of a temperature: the prior weighs as much as a dozen of them.
FEWEST_FITTED: Final = 20

_NAMED = 5
_FINGERPRINT = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Wish:
    """What is to be measured.

    Attributes:
        data: a name or a path, as `training.sources.open` takes it.
        root: where a named data set lies.
        download: whether a named data set may be fetched.
        label_column: of a table.
        max_unreadable: the share of the images that may be unreadable, 0 to 1.
        calibrate: set a part of the images aside to calibrate on, and measure the others.
        seed: of the halves, where the data has no validation and test parts.
        unlabelled: whether a folder of images without labels will do.
    """

    data: str
    root: Path | None = None
    download: bool = False
    label_column: str | None = None
    max_unreadable: float = MAX_UNREADABLE
    calibrate: bool = False
    seed: int = 0
    unlabelled: bool = False


@dataclass(frozen=True)
class Photos:
    """The images that take part, none of them unreadable.

    Attributes:
        collection: their labels are the version's K, in its order; none, where the images have none.
        fitted: what is calibrated on, rising; empty without calibration.
        measured: what is measured, rising; no picture is in both.
        division: how the two were chosen, or which images are measured.
        note: what the temperature was fitted on, in a sentence; empty without calibration.
        fingerprint: SHA-256 of the images; the one that a training on them has, if all the data takes part.
        known: whether the version's card says that it was made with these very images.
        duplicates: what the images have of copies, in a sentence.
        warnings: what a reader of the figures should know, in sentences.
    """

    collection: Collection
    fitted: Indices
    measured: Indices
    division: str
    note: str
    fingerprint: str
    known: bool
    duplicates: str
    warnings: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.collection.labels)


def gather(wish: Wish, version: StoredVersion, work: Path, display: Display) -> Photos:
    """Find the images that take part, and say what a person should know of them.

    Args:
        wish: what is to be measured.
        version: whose classes the labels must be.
        work: an existing folder for what is unpacked; the photos are read from it.
        display: shows what goes on.

    Raises:
        InvalidData: the data is missing or in no known form, its labels are not the version's, or there are
            too few images to calibrate on.
        UnreadableImages: more images cannot be decoded than `wish.max_unreadable`.
    """
    whole = _open(wish, work)
    chosen, what = _choose_part(whole, wish.calibrate)
    picked = whole.take(chosen)
    collection = _place_labels(picked, version) if picked.labels else picked
    display.say(f"{whole.origin}: {len(whole):,} images; taken: {what}, {len(picked):,}")
    complete = len(picked) == len(whole) and bool(picked.labels)
    looked = _look(picked, complete, wish.max_unreadable, display)
    collection = collection.take(looked.readable)
    known = looked.fingerprint in fingerprints(version)
    groups, duplicates, copies = _find_copies(collection, looked, display)
    warnings = (
        *whole.notes,
        *_unreadable(picked, looked),
        *copies,
        *_missing_classes(collection),
        *_known_already(version, known),
    )
    for text in warnings:
        display.warn(text)
    photos = Photos(
        collection=collection,
        fitted=np.zeros(0, np.int64),
        measured=np.arange(len(collection)),
        division=f"{what}, {len(collection):,}",
        note="",
        fingerprint=looked.fingerprint,
        known=known,
        duplicates=duplicates,
        warnings=warnings,
    )
    return _divide(photos, groups, wish.seed) if wish.calibrate else photos


def halve(targets: Targets, groups: NDArray[np.int64], seed: int) -> tuple[Indices, Indices]:
    """Divide N images into two halves, each class as evenly as it goes; copies stay together.

    Args:
        targets: class indices, (N,); any one number where there are no classes.
        groups: a number for each image, (N,); copies have the same. A group counts as one image of the class of
            its first.
        seed: of the division.

    Returns:
        Rising indices of each half; every image is in exactly one.
    """
    generator = np.random.default_rng(seed)
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    order = generator.permutation(len(first))
    # Classes follow one another in a random order and are dealt in turn: those of one image are halved too.
    rank = generator.permutation(targets.max(initial=0) + 1)
    order = order[np.argsort(rank[targets[first[order]]], kind="stable")]
    side = np.empty(len(first), np.bool_)
    side[order] = np.arange(len(first)) % 2 == 0
    return np.flatnonzero(side[number]), np.flatnonzero(~side[number])


def fingerprints(version: StoredVersion) -> list[str]:
    """Return the fingerprints of all data that a version was trained or calibrated on, as its card has them."""
    return list(dict.fromkeys(_FINGERPRINT.findall(read_card(version.folder))))


def _open(wish: Wish, work: Path) -> Collection:
    loose = find_loose(wish.data) if wish.unlabelled and wish.label_column is None else None
    if loose is not None:
        return loose
    return open_collection(wish.data, root=wish.root, download=wish.download, work=work, label_column=wish.label_column)


def _choose_part(collection: Collection, calibrate: bool) -> tuple[Indices, str]:
    """Return the images that take part, and what to call them."""
    parts = collection.parts
    test = parts == "test"
    validation = parts == "validation"
    if calibrate and validation.any() and test.any():
        return np.flatnonzero(validation | test), "the validation and test parts"
    if test.any():
        return np.flatnonzero(test), "the test part"
    if (parts != "").any():
        return np.arange(len(parts)), "all images, as there is no test part"
    return np.arange(len(parts)), "all images"


def _place_labels(picked: Collection, version: StoredVersion) -> Collection:
    """Return the images under the version's classes; of labels that do not occur, nothing is known or asked."""
    occurring = np.unique(picked.targets)
    places = np.zeros(len(picked.labels), np.int64)
    found = [picked.labels[target] for target in occurring]
    places[occurring] = match_labels(found, version.manifest.labels, str(version))
    return replace(picked, labels=version.manifest.labels, targets=places[picked.targets])


def _look(picked: Collection, complete: bool, max_unreadable: float, display: Display) -> Survey:
    """Decode every image once.

    The survey refuses classes that are left without a readable image, which could not be trained. Here that
    is no harm: then, and where only a part of the data is looked at, it is told of one class.
    """
    alike = replace(
        picked, labels=("the data",), targets=np.zeros_like(picked.targets), parts=np.full(len(picked), "", "<U10")
    )

    def read(collection: Collection) -> Survey:
        with display.stage("reading images", len(collection), "images") as show:
            return survey(collection, max_unreadable=max_unreadable, on_progress=lambda done: show(done, ""))

    if complete:
        try:
            return read(picked)
        except UnreadableImages:
            raise
        except InvalidData:
            pass
    return read(alike)


def _unreadable(picked: Collection, looked: Survey) -> tuple[str, ...]:
    if not looked.unreadable:
        return ()
    count = len(looked.unreadable)
    first = "; ".join(
        printable(f"{picked.images.name(index)} ({reason})")
        for index, reason in list(looked.unreadable.items())[:_NAMED]
    )
    counted = "1 image cannot be read and is" if count == 1 else f"{count:,} images cannot be read and are"
    return (f"{counted} left out{', the first' if count > _NAMED else ''}: {first}.",)


def _find_copies(
    collection: Collection, looked: Survey, display: Display
) -> tuple[NDArray[np.int64], str, tuple[str, ...]]:
    """Return each image's group of copies, what there is of copies, and the warnings about them."""

    def digest(index: int) -> bytes:
        return pixel_digest(decode_whole(collection.images.read(index), ImageLimits()))

    sizes = looked.sizes[looked.readable]
    left_out: list[str] = []
    with display.stage("looking for duplicates"):
        pairs = find_duplicates(looked.thumbnails[looked.readable], sizes, digest, left_out.append)
    # Parts that share pictures are no reason to stop: copies are kept from being fitted and measured.
    undivided = replace(collection, parts=np.full(len(collection), "", "<U10"))
    leakage = check_leakage(pairs, undivided, sizes, allow=True)
    return duplicate_groups(pairs, len(collection)), leakage.record, (*leakage.warnings, *left_out)


def _known_already(version: StoredVersion, known: bool) -> tuple[str, ...]:
    """Warn where the card has the fingerprint of these images: a training's, or an earlier calibration's."""
    if not known:
        return ()
    return (
        f"{version} was made with these very images, as the fingerprint in its card says: on images that it was "
        "trained or calibrated on, the figures are too good.",
    )


def _missing_classes(collection: Collection) -> tuple[str, ...]:
    known, seen = len(collection.labels), len(np.unique(collection.targets))
    if seen == known or not known:
        return ()
    return (f"{seen:,} of the {known:,} classes have images here; how well the others are recognised is not measured.",)


def _divide(photos: Photos, groups: NDArray[np.int64], seed: int) -> Photos:
    """Choose what is calibrated on and what is measured."""
    collection = photos.collection
    validation, test = (np.flatnonzero(collection.parts == part) for part in ("validation", "test"))
    if len(validation) and len(test):
        fitted, measured = validation[~np.isin(groups[validation], groups[test])], test
        division = f"fitted on {len(fitted):,} images of the validation part, measured on {len(measured):,} of the test"
        note = (
            f"The temperature was fitted on {len(fitted):,} images of the validation part of {collection.origin}; the "
            f"figures are of the {len(measured):,} images of its test part."
        )
    else:
        fitted, measured = halve(collection.targets, groups, seed)
        division = (
            f"fitted on {len(fitted):,} images, measured on the {len(measured):,} others; drawn at random within each "
            f"class, copies kept together, seed {seed}"
        )
        note = (
            f"The temperature was fitted on {len(fitted):,} images of {collection.origin}; the figures are of "
            f"{len(measured):,} others of them."
        )
    if len(fitted) < FEWEST_FITTED or not len(measured):
        raise InvalidData(
            f"{len(fitted):,} images to calibrate on and {len(measured):,} to measure are too few: it takes "
            f"{FEWEST_FITTED} to calibrate, and others to measure; copies stay on one side, and where the data has no "
            "validation and test parts, each side has half of the images"
        )
    return replace(photos, fitted=fitted, measured=measured, division=division, note=note)
