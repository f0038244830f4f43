"""What there is to know of images before a network sees them: each is decoded once, here.

The thumbnails, the sizes and the fingerprint are what later modules reason with. Knows nothing of how
the data is divided or augmented, nor of networks.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import InvalidImage
from model.preprocessing import ImageLimits, Pixels, Preprocessing, prepare_image
from training.collection import ArrayImages, Collection
from training.errors import InvalidData, UnreadableImages
from training.job import MAX_UNREADABLE
from training.sources.place import mention, printable

THUMBNAIL_SIDE: Final = 128
# Images below this are kept at their own size.
SMALL_SIDE: Final = 64

# What is worth a word.
_FEW_IMAGES = 10
_IMBALANCE = 5
_TINY_SIDE = 32
_HUGE_PIXELS = 20_000_000
_SIZE_SPREAD = 4
_FLAT_RANGE = 8  # gray levels between the darkest and the brightest pixel
_NAMED = 5

_PROBES = 32
_AHEAD = 64  # images that wait for a thread; bounds the memory that their bytes take
_ARRAY_BLOCK = 8_192
_LIMITS: Final = ImageLimits()


@dataclass(frozen=True)
class Survey:
    """What was found in a collection's N images, by their index in it.

    Attributes:
        sizes: upright width and height in pixels, int64 (N, 2); (0, 0) for unreadable images.
        thumbnails: each whole upright image in gray, stretched to a square, uint8 (N, S, S); black for
            unreadable images. S is 128, or the longest side of all images where that is below 64.
        unreadable: why an image cannot be read.
        gray: whether the image has no colour channels, (N,); False for unreadable images.
        formats: how many images there are of each format, `array` for pixels that came in memory.
        fingerprint: SHA-256 of all images' parts, labels and contents, whatever their names and order.
        order: SHA-256 of all contents as they follow one another.
        warnings: what a person should know before training, in sentences.
    """

    sizes: NDArray[np.int64]
    thumbnails: Pixels
    unreadable: dict[int, str]
    gray: NDArray[np.bool_]
    formats: dict[str, int]
    fingerprint: str
    order: str
    warnings: tuple[str, ...]

    @property
    def readable(self) -> NDArray[np.int64]:
        """The indices of the images that can be read."""
        return np.flatnonzero(self.sizes[:, 0])

    @property
    def gray_share(self) -> float:
        """The share of gray images among the readable ones."""
        return float(self.gray.sum() / max(len(self.readable), 1))


@dataclass(frozen=True)
class _Facts:
    """A survey without what follows from it; `digests` are SHA-256 of each image's file or pixels."""

    sizes: NDArray[np.int64]
    thumbnails: Pixels
    unreadable: dict[int, str]
    gray: NDArray[np.bool_]
    formats: dict[str, int]
    digests: list[str]


@dataclass(frozen=True)
class _Seen:
    """One image; `thumbnail` is (S, S), `reason` why there is none."""

    digest: str
    thumbnail: Pixels | None = None
    width: int = 0
    height: int = 0
    format: str = ""
    gray: bool = False
    reason: str = ""


def survey(
    collection: Collection,
    *,
    max_unreadable: float = MAX_UNREADABLE,
    limits: ImageLimits = _LIMITS,
    on_progress: Callable[[int], None] | None = None,
) -> Survey:
    """Read every image, on as many threads as there are processors.

    Args:
        collection: the images.
        max_unreadable: the share of images, 0 to 1, that may be unreadable.
        limits: what an image's header may announce.
        on_progress: is told, on the calling thread, how many images are done. It starts again where
            images turn out to be of other sizes than the first ones.

    Raises:
        UnreadableImages: more images than that cannot be read.
        InvalidData: none of the images that a class has for training can be read.
    """
    report = on_progress or (lambda _: None)
    if isinstance(collection.images, ArrayImages):
        facts = _survey_arrays(collection.images, report)
    else:
        facts = _survey_files(collection, limits, report)
    _check(collection, facts, max_unreadable)
    return Survey(
        sizes=facts.sizes,
        thumbnails=facts.thumbnails,
        unreadable=facts.unreadable,
        gray=facts.gray,
        formats=facts.formats,
        fingerprint=_fingerprint(collection, facts.digests),
        order=hashlib.sha256("\n".join(facts.digests).encode()).hexdigest(),
        warnings=tuple(_warnings(collection, facts)),
    )


def _survey_files(collection: Collection, limits: ImageLimits, report: Callable[[int], None]) -> _Facts:
    """Decode at the side that a few images suggest, again where all of them show that to be wrong."""
    probes = np.unique(np.linspace(0, len(collection) - 1, _PROBES).astype(int)).tolist()
    side = _side(_read_all(collection, probes, THUMBNAIL_SIDE, limits, lambda _: None).sizes)
    indices = range(len(collection))
    facts = _read_all(collection, indices, side, limits, report)
    if (right := _side(facts.sizes)) != side:
        facts = _read_all(collection, indices, right, limits, report)
    return facts


def _side(sizes: NDArray[np.int64]) -> int:
    longest = int(sizes.max(initial=0))
    return longest if 0 < longest < SMALL_SIDE else THUMBNAIL_SIDE


def _read_all(
    collection: Collection, indices: Sequence[int], side: int, limits: ImageLimits, report: Callable[[int], None]
) -> _Facts:
    preprocessing = Preprocessing(
        mode="L", height=side, width=side, resize="stretch", interpolation="bilinear", mean=(0.5,), std=(0.5,)
    )
    facts = _Facts(
        sizes=np.zeros((len(indices), 2), dtype=np.int64),
        thumbnails=np.zeros((len(indices), side, side), dtype=np.uint8),
        unreadable={},
        gray=np.zeros(len(indices), dtype=np.bool_),
        formats={},
        digests=[],
    )
    formats: Counter[str] = Counter()
    with closing(_in_threads(lambda index: _read(collection, index, preprocessing, limits), indices)) as all_seen:
        for at, seen in enumerate(all_seen):
            facts.digests.append(seen.digest)
            if seen.thumbnail is None:
                facts.unreadable[at] = seen.reason
            else:
                facts.sizes[at] = seen.width, seen.height
                facts.thumbnails[at] = seen.thumbnail
                facts.gray[at] = seen.gray
                formats[seen.format] += 1
            report(at + 1)
    facts.formats.update(sorted(formats.items()))
    return facts


def _in_threads(read: Callable[[int], _Seen], indices: Sequence[int]) -> Generator[_Seen, None, None]:
    """Yield what `read` makes of each index, in order; once this is closed, no thread is left."""
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="survey")
    try:
        rest = iter(indices)
        waiting: list[Future[_Seen]] = [pool.submit(read, index) for index in islice(rest, _AHEAD)]
        while waiting:
            seen = waiting.pop(0).result()
            waiting.extend(pool.submit(read, index) for index in islice(rest, 1))
            yield seen
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(collection: Collection, index: int, preprocessing: Preprocessing, limits: ImageLimits) -> _Seen:
    try:
        data = collection.images.read(index)
    except OSError as error:
        return _Seen(digest="", reason=f"the file cannot be read: {error.strerror or error}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        prepared = prepare_image(data, preprocessing, limits)
    except InvalidImage as error:
        return _Seen(digest, reason=str(error))
    facts = prepared.facts
    return _Seen(
        digest=digest,
        thumbnail=prepared.pixels[..., 0],
        width=facts.width,
        height=facts.height,
        format=facts.format,
        gray="to_l" not in facts.applied,  # nothing had to be done to make it gray
    )


def _survey_arrays(images: ArrayImages, report: Callable[[int], None]) -> _Facts:
    """Do for pixels in memory what `_read_all` does for files, with the same thumbnails."""
    count, height, width, channels = images.pixels.shape
    side = _side(np.asarray([[width, height]]))
    thumbnails = np.zeros((count, side, side), dtype=np.uint8)
    digests: list[str] = []
    for start in range(0, count, _ARRAY_BLOCK):
        block = np.ascontiguousarray(images.pixels[start : start + _ARRAY_BLOCK])
        thumbnails[start : start + len(block)] = _squares(_to_gray(block), side)
        digests.extend(hashlib.sha256(pixels).hexdigest() for pixels in block)
        report(start + len(block))
    return _Facts(
        sizes=np.tile(np.asarray([width, height], dtype=np.int64), (count, 1)),
        thumbnails=thumbnails,
        unreadable={},
        gray=np.full(count, channels == 1),
        formats={"array": count},
        digests=digests,
    )


def _to_gray(pixels: Pixels) -> Pixels:
    """Return (N, H, W) of (N, H, W, C), as Pillow turns RGB into L.

    Source: ITU-R BT.601 in Pillow's fixed point.
    """
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    weights = np.asarray([19595, 38470, 7471], dtype=np.uint32)
    return ((pixels.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)


def _squares(gray: Pixels, side: int) -> Pixels:
    """Stretch (N, H, W) to (N, S, S)."""
    if gray.shape[1:] == (side, side):
        return gray
    resized = [Image.fromarray(each).resize((side, side), Image.Resampling.BILINEAR) for each in gray]
    return np.stack([np.asarray(each) for each in resized])


def _check(collection: Collection, facts: _Facts, max_unreadable: float) -> None:
    count, share = len(facts.unreadable), len(facts.unreadable) / max(len(collection), 1)
    if share > max_unreadable:
        raise UnreadableImages(
            f"{count} of {len(collection)} images ({share:.1%}) cannot be read; the limit is {max_unreadable:.1%} "
            f"(--max-unreadable {max_unreadable:g}). {_with_reasons(collection, facts.unreadable)}"
        )
    trainable = np.isin(collection.parts, ("train", "")) & (facts.sizes[:, 0] > 0)
    left = _class_counts(collection, trainable)
    if 0 in left.values():
        empty = [label for label, images in left.items() if not images]
        raise InvalidData(
            f"no image of {mention(empty)} can be read for training. {_with_reasons(collection, facts.unreadable)}"
        )


def _with_reasons(collection: Collection, unreadable: dict[int, str]) -> str:
    first = "; ".join(
        printable(f"{collection.images.name(index)} ({reason})") for index, reason in islice(unreadable.items(), _NAMED)
    )
    return f"The first: {first}." if len(unreadable) > _NAMED else f"{first}."


def _class_counts(collection: Collection, chosen: NDArray[np.bool_]) -> dict[str, int]:
    counts = np.bincount(collection.targets[chosen], minlength=len(collection.labels))
    return dict(zip(collection.labels, counts.tolist(), strict=True))


def _fingerprint(collection: Collection, digests: Sequence[str]) -> str:
    lines = sorted(
        json.dumps([part, collection.labels[target], digest])
        for part, target, digest in zip(collection.parts.tolist(), collection.targets.tolist(), digests, strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _warnings(collection: Collection, facts: _Facts) -> Iterator[str]:
    if facts.unreadable:
        counted = _counted(len(facts.unreadable), "cannot be read and is", "cannot be read and are")
        yield f"{counted} left out. {_with_reasons(collection, facts.unreadable)}"
    readable = facts.sizes[:, 0] > 0
    yield from _class_warnings(_class_counts(collection, readable))
    yield from _size_warnings(collection, facts, readable)
    gray, colour = int(facts.gray.sum()), int((readable & ~facts.gray).sum())
    if gray and colour:
        yield f"{_counted(gray, 'is', 'are')} gray among {colour} in colour."
    flat = np.flatnonzero(readable & (np.ptp(facts.thumbnails, axis=(1, 2)) <= _FLAT_RANGE))
    if len(flat):
        yield f"{_counted(len(flat), 'shows', 'show')} next to nothing, one even shade: {_names(collection, flat)}."


def _class_warnings(counts: dict[str, int]) -> Iterator[str]:
    single = [label for label, count in counts.items() if count < 2]  # noqa: PLR2004
    few = [label for label, count in counts.items() if 2 <= count < _FEW_IMAGES]  # noqa: PLR2004
    if single:
        yield f"{_classes(single)} only one image, which cannot be in two parts: {mention(single)}."
    if few:
        yield f"{_classes(few)} fewer than {_FEW_IMAGES} images, from which little can be learnt: {mention(few)}."
    largest, smallest = max(counts, key=lambda label: counts[label]), min(counts, key=lambda label: counts[label])
    if counts[largest] > _IMBALANCE * counts[smallest]:
        yield (
            f"The classes are uneven: {largest} has {counts[largest]} images, {smallest} has {counts[smallest]}; "
            "accuracy will mostly speak of the large ones."
        )


def _size_warnings(collection: Collection, facts: _Facts, readable: NDArray[np.bool_]) -> Iterator[str]:
    """Speak of sizes; images that all have one size are as their owner wants them."""
    huge = np.flatnonzero(facts.sizes.prod(axis=1) > _HUGE_PIXELS)
    if len(huge):
        yield (
            f"{_counted(len(huge), 'has', 'have')} more than {_HUGE_PIXELS // 10**6} megapixels, which is slow "
            f"to read: {_names(collection, huge)}."
        )
    sizes = facts.sizes[readable]
    if not (sizes != sizes[:1]).any():
        return
    tiny = np.flatnonzero(readable & (facts.sizes.min(axis=1) < _TINY_SIDE))
    if len(tiny):
        yield (
            f"{_counted(len(tiny), 'has', 'have')} a side of less than {_TINY_SIDE} pixels: {_names(collection, tiny)}."
        )
    longest = sizes.max(axis=1)
    small, large = np.percentile(longest, 5, method="lower"), np.percentile(longest, 95, method="higher")
    if large > _SIZE_SPREAD * small:
        yield (
            f"The images' sizes differ much: the longer side is {small:.0f} pixels or less in a twentieth of them, "
            f"{large:.0f} or more in another; the small ones will be blurred."
        )


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} image {one}" if count == 1 else f"{count} images {many}"


def _classes(labels: Sequence[str]) -> str:
    return "One class has" if len(labels) == 1 else f"{len(labels)} classes have"


def _names(collection: Collection, indices: NDArray[np.int64]) -> str:
    """Name the first images; the others are only counted, so their names are not asked for."""
    first = [printable(collection.images.name(index)) for index in indices[:_NAMED].tolist()]
    more = len(indices) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
