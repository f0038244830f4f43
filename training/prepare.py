"""The data of a run: read, looked through, checked for leakage and divided, but not decoded."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import ImageLimits, decode_whole
from training.collection import Collection, Indices, PartName
from training.contact_sheet import write_contact_sheet
from training.data import PARTS, split
from training.duplicates import SMALL_SIDE, Pair, duplicate_groups, find_duplicates, pixel_digest
from training.errors import InvalidData
from training.job import Job
from training.leakage import Leakage, check_leakage
from training.progress import Display
from training.run_folder import RunFolder
from training.sources.open import open_collection
from training.survey import Survey, survey

_NAMED = 5


@dataclass(frozen=True)
class Prepared:
    """A collection without what cannot be read, and the images of each part by their indices in it."""

    collection: Collection
    sizes: NDArray[np.int64]
    gray: NDArray[np.bool_]
    fingerprint: str
    order: str
    leakage: Leakage
    indices: dict[PartName, Indices]
    warnings: tuple[str, ...]


def prepare(job: Job, seed: int, folder: RunFolder, display: Display) -> Prepared:
    """Find out what can be trained on, and say what a person should know before.

    Raises:
        InvalidData: the data is missing, in no known form, or too little.
        UnreadableImages: more images cannot be decoded than `job.max_unreadable`.
        LeakageFound: the parts share images.
    """
    whole = open_collection(
        job.data, root=job.root, download=job.download, work=folder.scratch, label_column=job.label_column
    )
    with display.stage("reading images", len(whole), "images") as show:
        looked = survey(whole, max_unreadable=job.max_unreadable, on_progress=lambda done: show(done, ""))
    display.say(f"{whole.origin}: {_describe(whole)}")
    for text in (*whole.notes, *looked.warnings):
        display.warn(text)
    collection, sizes = whole.take(looked.readable), looked.sizes[looked.readable]
    pairs, leakage = _check_leakage(job, collection, looked, folder, display)
    indices = split(collection, duplicate_groups(_copies(pairs, sizes), len(collection)), seed)
    _check_parts(collection, indices)
    folder.note(
        "data",
        origin=whole.origin,
        fingerprint=looked.fingerprint,
        images={part: len(indices[part]) for part in PARTS},
        unreadable={whole.images.name(index): reason for index, reason in looked.unreadable.items()},
        leakage=leakage.record,
    )
    return Prepared(
        collection=collection,
        sizes=sizes,
        gray=looked.gray[looked.readable],
        fingerprint=looked.fingerprint,
        order=looked.order,
        leakage=leakage,
        indices=indices,
        warnings=(*whole.notes, *looked.warnings, *leakage.warnings),
    )


def _describe(collection: Collection) -> str:
    counts = [(part, int((collection.parts == part).sum())) for part in PARTS]
    given = ", ".join(f"{count:,} {part}" for part, count in counts if count)
    return f"{len(collection):,} images of {len(collection.labels)} classes" + (f" ({given})" if given else "")


def _check_leakage(
    job: Job, collection: Collection, looked: Survey, folder: RunFolder, display: Display
) -> tuple[list[Pair], Leakage]:
    """Find copies, show them in a picture, and stop where parts share them."""

    def digest(index: int) -> bytes:
        return pixel_digest(decode_whole(collection.images.read(index), ImageLimits()))

    def caption(index: int) -> str:
        return f"{collection.parts[index]}\n{collection.images.name(index)}".strip()

    sizes = looked.sizes[looked.readable]
    left_out: list[str] = []
    with display.stage("looking for duplicates"):
        pairs = find_duplicates(looked.thumbnails[looked.readable], sizes, digest, left_out.append)
    leakage = check_leakage(pairs, collection, sizes, allow=job.allow_leakage)
    leakage = replace(leakage, warnings=(*leakage.warnings, *left_out))
    for text in leakage.warnings:
        display.warn(text)
    if pairs:
        write_contact_sheet(folder.duplicates, leakage.offending or pairs, collection.images.read, caption)
        display.say(f"the pairs are shown in {folder.duplicates}")
    leakage.refuse(folder.duplicates)
    return pairs, leakage


def _copies(pairs: list[Pair], sizes: NDArray[np.int64]) -> list[Pair]:
    """Return the pairs that must stay together: of small images only the exact ones are certain."""
    small = sizes.max(axis=1) < SMALL_SIDE
    return [pair for pair in pairs if pair.kind == "exact" or not (small[pair.first] or small[pair.second])]


def _check_parts(collection: Collection, indices: dict[PartName, Indices]) -> None:
    """Make sure that there is something to train, to validate and to test with."""
    for part in PARTS:
        if not len(indices[part]):
            raise InvalidData(
                f"{len(collection)} images of {len(collection.labels)} classes are too few: none is left for the "
                f"{part} part; at least one class needs 3 images that are no copies of one another"
            )
    missing = sorted(set(range(len(collection.labels))) - set(collection.targets[indices["train"]].tolist()))
    if missing:
        names = ", ".join(collection.labels[target] for target in missing[:_NAMED])
        raise InvalidData(f"the training part has no image of {names}; every class needs one")
