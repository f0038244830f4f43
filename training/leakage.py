"""Pictures that occur more than once in a collection, and whether they reach over its parts.

A picture of the training part that occurs again in the test part makes every number measured
there too good. Two kinds of pairs are found: exact, where all decoded pixels are equal, and
near, where one picture is the other one scaled, encoded again or slightly cropped.

Small thumbnails decide; each is the whole upright image squeezed to a square. Images are told
apart by their gray values alone. Mirrored, turned and recoloured copies are not looked for, nor
crops that take away much more than `CROP` of a side. Knows nothing of files and decoders.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels
from training.collection import Collection
from training.errors import LeakageFound

# Images whose longer side is shorter than this are small: they have too few pixels for a near pair to prove anything.
SMALL_SIDE: Final = 64
# What an aligned pair must reach, in its gray values and in its details. Among the likeliest pairs of 910 photos
# without duplicates, the highest were 0.86 and 0.45, and 0.93 and 0.46 among 10,000 cut-outs of them, never in one
# pair. The lowest of copies: JPEG at quality 30, 0.99 and 0.94; 10 % cropped all around, 0.98 and 0.95; at 25 % of
# the size, 0.94 and 0.53.
NEAR_CORRELATION: Final = 0.9
NEAR_DETAIL: Final = 0.5
# The same for small images, which are compared without being aligned. MNIST has 3 such pairs, Fashion-MNIST 127.
SMALL_CORRELATION: Final = 0.99
# Bits of 64 in which the hashes of a candidate may differ. Of copies as above, 99 % differ in 10 at the most.
HASH_DISTANCE: Final = 12
SMALL_HASH_DISTANCE: Final = 4
# The share of a side that a crop hypothesis takes away at one end.
CROP: Final = 0.1
# Gray deviation (of 255) under which an image is flat and never part of a near pair.
FLAT_DEVIATION: Final = 4.0
# The work is bounded: so many candidates are compared at most, those of the nearest hashes.
CANDIDATES_LIMIT: Final = 50_000
SMALL_CANDIDATES_LIMIT: Final = 2_000_000
# So many near pairs of thumbnails smaller than `SMALL_SIDE` are returned at most.
SMALL_PAIRS_LIMIT: Final = 10_000

ALLOW_OPTION: Final = "--allow-leakage"

_HASH_SIDE = 8
# What is left of an axis, as shares of it. The first is the whole: without a crop.
_Interval = tuple[float, float]
_WHOLE: Final = (0.0, 1.0)
_CROPS: Final[tuple[_Interval, ...]] = (
    _WHOLE,
    (CROP / 2, 1.0),
    (0.0, 1.0 - CROP / 2),
    (CROP / 2, 1.0 - CROP / 2),
    (CROP, 1.0),
    (0.0, 1.0 - CROP),
    (CROP, 1.0 - CROP),
)
# From so many images on only the first three of `_CROPS` are tried: comparing hashes grows with the square.
_MANY = 20_000
_COARSE_SIDE, _FINE_SIDE = 32, 64
_COARSE_STEPS, _FINE_STEPS = 8, 4
# A pair that correlates less than this after the coarse alignment is dropped.
_COARSE_CORRELATION = 0.7
# The share of the target that both images have to show.
_OVERLAP = 0.6
_DETAIL_RADIUS = 2  # pixels of `_FINE_SIDE`
_CHUNK = 64  # pairs that are aligned at a time, and thumbnails hashed at a time: they fit a cache
_ROWS = 1 << 16  # hashes that are compared at a time
_NAMED = 5  # pairs that an error names

_Values = NDArray[np.float32]
_Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """Two images of one picture; `first` is the lower index.

    `correlation` is that of the gray values over the part that both show; 1 for an exact pair.
    """

    first: int
    second: int
    kind: Literal["exact", "near"]
    correlation: float


@dataclass(frozen=True)
class Leakage:
    """What the pairs mean for a collection's parts.

    Attributes:
        exact_within: exact pairs inside one part, or where the collection has no parts.
        near_within: near pairs there.
        exact_across: exact pairs of images in two parts.
        near_across: near pairs of images in two parts, small ones too.
        offending: the pairs across parts that make an evaluation worthless: every exact one, and
            the near ones of images that are not small.
        contradictory: the exact pairs whose images have different labels.
        warnings: sentences for the person who trains.
        record: one sentence for the model card.
        refusal: the text of the error; empty where nothing offends or it was allowed.
    """

    exact_within: int
    near_within: int
    exact_across: int
    near_across: int
    offending: tuple[Pair, ...]
    contradictory: tuple[Pair, ...]
    warnings: tuple[str, ...]
    record: str
    refusal: str

    def refuse(self, sheet: Path | None = None) -> None:
        """Stop the run if the parts share pictures and this was not allowed.

        Args:
            sheet: where the offending pairs are shown; the error says so.

        Raises:
            LeakageFound: there are offending pairs, and they were not allowed.
        """
        if self.refusal:
            raise LeakageFound(self.refusal + (f" The pairs are shown in {sheet}." if sheet is not None else ""))


@dataclass(frozen=True)
class _Candidates:
    """Pairs with like hashes: the crop `crop` of image `source` is like the whole of `target`; each (M,)."""

    source: _Integers
    target: _Integers
    crop: _Integers


def pixel_digest(pixels: NDArray[Any]) -> bytes:
    """Return the SHA-256 of an image's decoded pixels and of their shape and type."""
    head = f"{pixels.shape} {pixels.dtype.str} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).digest()


def find_duplicates(
    thumbnails: Pixels,
    sizes: NDArray[np.integer],
    digest: Callable[[int], bytes],
    tell: Callable[[str], None] = lambda _: None,
) -> list[Pair]:
    """Find the images that show the same picture.

    Of n exact copies n - 1 pairs are returned, each with the first of them; near pairs are
    looked for among these first ones only. So the pairs' connected components are right, but a
    near copy is not paired with every exact copy of its picture.

    Where the thumbnails are smaller than `SMALL_SIDE`, near pairs are compared as they lie,
    without scale, shift or crop.

    Args:
        thumbnails: uint8 gray (N, S, S), each the whole upright image squeezed to a square. S is
            128 (a multiple of 64), or the images' own side where all of them are small.
        sizes: upright width and height in pixels, (N, 2).
        digest: hashes an image's fully decoded pixels, as `pixel_digest` does; it is asked only
            where sizes and thumbnails are equal.
        tell: is told in a sentence when a limit on the work left near pairs out.

    Returns:
        The pairs, ordered by their images.
    """
    exact = _exact_pairs(thumbnails, sizes, digest)
    eligible = np.setdiff1d(_uneven(thumbnails), [pair.second for pair in exact])
    compare = _near_pairs if thumbnails.shape[-1] >= SMALL_SIDE else _small_near_pairs
    return sorted(exact + compare(thumbnails, eligible, tell), key=lambda pair: (pair.first, pair.second))


def duplicate_groups(pairs: Sequence[Pair], count: int) -> _Integers:
    """Number the connected components that pairs make of `count` images.

    Returns:
        Each image's group, (N,), numbered from 0 in the order of the groups' first images.
    """
    parent = list(range(count))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for pair in pairs:
        low, high = sorted((root(pair.first), root(pair.second)))
        parent[high] = low
    return np.unique([root(image) for image in range(count)], return_inverse=True)[1].astype(np.int64)


def check_leakage(pairs: Sequence[Pair], collection: Collection, sizes: NDArray[np.integer], *, allow: bool) -> Leakage:
    """Judge pairs by the parts that a collection's owner has made. `Leakage.refuse` acts on it.

    Args:
        pairs: what `find_duplicates` found in the collection's images.
        collection: its parts may be "", then pairs are never across.
        sizes: upright width and height in pixels, (N, 2).
        allow: offending pairs are recorded and warned of, not refused.
    """
    small = np.asarray(sizes).max(axis=1, initial=0) < SMALL_SIDE
    across = [pair for pair in pairs if _is_across(pair, collection)]
    offending = tuple(pair for pair in across if pair.kind == "exact" or not (small[pair.first] or small[pair.second]))
    targets = collection.targets
    contradictory = tuple(
        pair for pair in pairs if pair.kind == "exact" and targets[pair.first] != targets[pair.second]
    )
    exact, near = _count(pairs, "exact"), _count(pairs, "near")
    exact_across, near_across = _count(across, "exact"), _count(across, "near")
    within = _plural(exact - exact_across, near - near_across)
    record = f"{len(collection):,} images with {within}"
    if (collection.parts != "").any():
        record += f" within parts and {_plural(exact_across, near_across)} across parts"
    return Leakage(
        exact_within=exact - exact_across,
        near_within=near - near_across,
        exact_across=exact_across,
        near_across=near_across,
        offending=offending,
        contradictory=contradictory,
        warnings=tuple(_warnings(pairs, across, offending, contradictory, collection, allow=allow)),
        record=record + ("; the run was allowed to go on." if offending and allow else "."),
        refusal=_refusal(offending, collection) if offending and not allow else "",
    )


def _is_across(pair: Pair, collection: Collection) -> bool:
    first, second = collection.parts[pair.first], collection.parts[pair.second]
    return bool(first and second and first != second)


def _count(pairs: Sequence[Pair], kind: str) -> int:
    return sum(pair.kind == kind for pair in pairs)


def _plural(exact: int, near: int) -> str:
    return f"{exact:,} exact and {near:,} near duplicate pair{'' if exact + near == 1 else 's'}"


def _warnings(
    pairs: Sequence[Pair],
    across: Sequence[Pair],
    offending: Sequence[Pair],
    contradictory: Sequence[Pair],
    collection: Collection,
    *,
    allow: bool,
) -> Iterator[str]:
    """Yield the sentences of `Leakage.warnings`."""
    within = len(pairs) - len(across)
    if offending and allow:
        yield (
            f"{_plural(_count(offending, 'exact'), _count(offending, 'near'))} across parts, allowed by "
            f"{ALLOW_OPTION}: what is measured is too good"
        )
    if small := len(across) - len(offending):
        bound = "at least " if _count(pairs, "near") >= SMALL_PAIRS_LIMIT else ""
        yield (
            f"{bound}{small:,} near duplicate pair{'s' * (small > 1)} across parts of images smaller than "
            f"{SMALL_SIDE} pixels; images so small can be alike by chance"
        )
    if within:
        kept = _plural(_count(pairs, "exact") - _count(across, "exact"), _count(pairs, "near") - _count(across, "near"))
        where = "within parts" if (collection.parts != "").any() else "in the data"
        yield f"{kept} {where}: pictures that occur twice count twice"
    if contradictory:
        pair = contradictory[0]
        first, second = (collection.labels[collection.targets[i]] for i in (pair.first, pair.second))
        yield (
            f"{len(contradictory):,} exact duplicate pair{'s' * (len(contradictory) > 1)} with different labels, first "
            f"{_named(pair, collection)}: {first!r} and {second!r}"
        )


def _refusal(offending: Sequence[Pair], collection: Collection) -> str:
    named = "; ".join(f"{_named(pair, collection)} ({pair.kind})" for pair in offending[:_NAMED])
    more = f"; and {len(offending) - _NAMED:,} more" if len(offending) > _NAMED else ""
    return (
        f"the parts share pictures: {_plural(_count(offending, 'exact'), _count(offending, 'near'))}: {named}{more}. "
        f"Take one image of each pair away, or go on all the same with {ALLOW_OPTION}."
    )


def _named(pair: Pair, collection: Collection) -> str:
    return " = ".join(
        f"{collection.images.name(i)}{f' [{collection.parts[i]}]' if collection.parts[i] else ''}"
        for i in (pair.first, pair.second)
    )


def _exact_pairs(thumbnails: Pixels, sizes: NDArray[np.integer], digest: Callable[[int], bytes]) -> list[Pair]:
    alike: dict[tuple[int, int, bytes], list[int]] = defaultdict(list)
    for index, (thumbnail, (width, height)) in enumerate(zip(thumbnails, sizes, strict=True)):
        alike[int(width), int(height), hashlib.sha256(thumbnail.tobytes()).digest()].append(index)
    equal: dict[bytes, list[int]] = defaultdict(list)
    for indices in alike.values():
        if len(indices) > 1:
            for index in indices:
                equal[digest(index)].append(index)
    return [Pair(first, other, "exact", 1.0) for first, *others in equal.values() for other in others]


def _uneven(thumbnails: Pixels) -> _Integers:
    """Return the indices of the images that are not flat."""
    deviations = [chunk.reshape(len(chunk), -1).std(axis=1, dtype=np.float32) for chunk in _chunks(thumbnails)]
    return np.flatnonzero(np.concatenate([*deviations, np.zeros(0, np.float32)]) >= FLAT_DEVIATION)


def _chunks(thumbnails: Pixels) -> Iterator[Pixels]:
    return (thumbnails[start : start + _CHUNK] for start in range(0, len(thumbnails), _CHUNK))


def _small_near_pairs(thumbnails: Pixels, eligible: _Integers, tell: Callable[[str], None]) -> list[Pair]:
    hashes = _hashes(thumbnails, eligible, [_WHOLE])
    candidates = _candidates(hashes, SMALL_HASH_DISTANCE, SMALL_CANDIDATES_LIMIT, tell)
    scaled = _scaled(thumbnails.reshape(len(thumbnails), thumbnails.shape[-1] ** 2)[eligible])
    rows = max(1, (1 << 24) // scaled.shape[1])  # 64 MiB of float32 a side
    correlation = [np.zeros(0, np.float32)]
    for start in range(0, len(candidates.source), rows):
        chunk = slice(start, start + rows)
        correlation.append(np.einsum("nd,nd->n", scaled[candidates.source[chunk]], scaled[candidates.target[chunk]]))
    pairs = _confirmed(candidates, eligible, np.concatenate(correlation), SMALL_CORRELATION)
    if len(pairs) > SMALL_PAIRS_LIMIT:
        tell(f"of {len(pairs):,} near pairs of small images, the {SMALL_PAIRS_LIMIT:,} most alike are kept")
        pairs = sorted(pairs, key=lambda pair: -pair.correlation)[:SMALL_PAIRS_LIMIT]
    return pairs


def _scaled(rows: Pixels) -> _Values:
    """Bring each row to mean 0 and length 1, so that a product of two is their correlation."""
    values = rows.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return values


def _near_pairs(thumbnails: Pixels, eligible: _Integers, tell: Callable[[str], None]) -> list[Pair]:
    intervals = _CROPS if len(eligible) <= _MANY else _CROPS[:3]
    boxes = np.array(
        [(top, bottom - top, left, right - left) for top, bottom in intervals for left, right in intervals], np.float32
    )
    candidates = _candidates(_hashes(thumbnails, eligible, intervals), HASH_DISTANCE, CANDIDATES_LIMIT, tell)
    correlation = np.zeros(len(candidates.source), np.float32)
    for start in range(0, len(correlation), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        source = thumbnails[eligible[candidates.source[chunk]]]
        target = thumbnails[eligible[candidates.target[chunk]]]
        correlation[chunk] = _aligned_correlation(source, target, boxes[candidates.crop[chunk]])
    return _confirmed(candidates, eligible, correlation, NEAR_CORRELATION)


def _confirmed(candidates: _Candidates, eligible: _Integers, correlation: _Values, enough: float) -> list[Pair]:
    kept = np.flatnonzero(correlation >= enough)
    images = np.sort(np.stack([eligible[candidates.source[kept]], eligible[candidates.target[kept]]], axis=1), axis=1)
    return [
        Pair(first, second, "near", min(float(value), 1.0))
        for (first, second), value in zip(images.tolist(), correlation[kept], strict=True)
    ]


def _hashes(thumbnails: Pixels, eligible: _Integers, intervals: Sequence[_Interval]) -> NDArray[np.uint64]:
    """Hash the crops of images that intervals of both axes make: (K * K, N); the first row is of the whole images.

    A bit says whether one of the 8 x 8 lowest cosine coefficients is above their median.

    Source: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), the
    DCT hash; as in the imagehash package's `phash`, but the constant coefficient has no part in
    the median, and the coefficients come from the crop directly, without a resampled image.
    """
    side, count = thumbnails.shape[-1], len(intervals)
    basis = np.stack([_cosines(side, interval) for interval in intervals])  # (K, 8, S)
    columns = basis.reshape(-1, side).T  # (S, K * 8)
    hashes = np.empty((count * count, len(eligible)), np.uint64)
    for start in range(0, len(eligible), _CHUNK):
        chunk = thumbnails[eligible[start : start + _CHUNK]].astype(np.float32)
        # Products so small stay on one thread; on many, they would wait for each other on a busy machine.
        waves = basis @ chunk[:, None] @ columns  # (N, K, 8, K * 8)
        waves = waves.reshape(len(chunk), count, _HASH_SIDE, count, _HASH_SIDE).transpose(1, 3, 0, 2, 4)
        waves = waves.reshape(count * count, len(chunk), _HASH_SIDE**2)
        bits = waves > np.median(waves[..., 1:], axis=-1, keepdims=True)
        hashes[:, start : start + len(chunk)] = np.packbits(bits, axis=-1).view(np.uint64)[..., 0]
    return hashes


def _cosines(side: int, interval: _Interval) -> _Values:
    """Return the lowest cosines of an interval of an axis, (8, S); pixels that it cuts count in part."""
    low, high = interval
    edges = np.clip(np.arange(side + 1) / side, low, high)
    middles = ((edges[:-1] + edges[1:]) / 2 - low) / (high - low)
    weights = np.diff(edges) / (high - low)
    waves = np.cos(np.pi * np.arange(_HASH_SIDE)[:, None] * middles) * weights
    return waves.astype(np.float32)


def _candidates(hashes: NDArray[np.uint64], distance: int, limit: int, tell: Callable[[str], None]) -> _Candidates:
    """Compare all crops' hashes with all whole images': those that differ in at most `distance` bits.

    Each pair occurs once, with its nearest crop. Past `limit` pairs, the distance is lowered.
    """
    count = hashes.shape[1]
    found = np.zeros((0, 4), np.int64)  # source, target, crop, distance
    fresh: list[_Integers] = []
    held = 0
    complete = True
    for crop in range(len(hashes)):
        for hits in _hits(hashes, crop, distance):
            fresh.append(hits[hits[:, 3] <= distance])
            held += len(fresh[-1])
            if held > limit:
                found = _nearest(np.concatenate([found, *fresh]), count)
                fresh, held = [], 0
                if len(found) > limit:
                    found, distance, complete = found[:limit], int(found[limit - 1, 3]), False
    found = _nearest(np.concatenate([found, *fresh]), count)
    if len(found) > limit or not complete:
        tell(f"too many images are alike at first sight: only the {limit:,} likeliest pairs were compared")
    return _Candidates(*found[:limit, :3].T)


def _hits(hashes: NDArray[np.uint64], crop: int, distance: int) -> Iterator[_Integers]:
    """Yield (source, target, crop, distance) of like hashes, (M, 4), for some sources at a time."""
    count = hashes.shape[1]
    rows = max(1, _ROWS // max(count, 1))
    for start in range(0, count, rows):
        left = start if crop == 0 else 0  # whole images are compared once, not both ways
        targets = hashes[0, left:]
        apart = np.bitwise_count(hashes[crop, start : start + rows, None] ^ targets).ravel()
        at = np.flatnonzero(apart <= distance)
        source, target = at // len(targets) + start, at % len(targets) + left
        kept = source < target if crop == 0 else source != target
        if kept.any():
            at, source, target = at[kept], source[kept], target[kept]
            yield np.stack([source, target, np.full(len(at), crop), apart[at].astype(np.int64)], axis=1)


def _nearest(found: _Integers, count: int) -> _Integers:
    """Keep each pair's nearest crop, and order the pairs by their distance."""
    found = found[np.argsort(found[:, 3], kind="stable")]
    low, high = np.minimum(found[:, 0], found[:, 1]), np.maximum(found[:, 0], found[:, 1])
    first = np.unique(low * count + high, return_index=True)[1]
    return found[np.sort(first)]


def _aligned_correlation(source: Pixels, target: Pixels, boxes: _Values) -> _Values:
    """Lay each source over its target, and correlate what both show.

    Args:
        source: uint8 (P, S, S).
        target: uint8 (P, S, S).
        boxes: the part of the source from which the search starts, as shares of its sides: top,
            height, left, width, (P, 4).

    Returns:
        The gray correlation, (P,); 0 where the details do not correlate or too little is shared.
    """
    correlation = np.zeros(len(source), np.float32)
    coarse, goal = _shrink(source, _COARSE_SIDE), _shrink(target, _COARSE_SIDE)
    for _ in range(_COARSE_STEPS):
        boxes = _improve(coarse, goal, boxes)
    alike = np.flatnonzero(_correlate(*_overlay(coarse, boxes), goal) >= _COARSE_CORRELATION)
    if not len(alike):
        return correlation
    source, boxes = source[alike], boxes[alike]
    fine, goal = _shrink(source, _FINE_SIDE), _shrink(target[alike], _FINE_SIDE)
    for _ in range(_FINE_STEPS):
        boxes = _improve(fine, goal, boxes)
    laid, shared = _overlay(source.astype(np.float32), boxes)
    laid, shared = _shrink(laid, _FINE_SIDE), np.floor(_shrink(shared, _FINE_SIDE) + 1e-3)
    details = _correlate(laid - _blur(laid), shared, goal - _blur(goal))
    proven = (details >= NEAR_DETAIL) & (shared.mean(axis=(1, 2)) >= _OVERLAP)
    correlation[alike] = np.where(proven, _correlate(laid, shared, goal), 0.0)
    return correlation


def _shrink(images: Pixels | _Values, side: int) -> _Values:
    """Average square images (P, S, S) down to (P, side, side); S is a multiple of `side`."""
    step = images.shape[-1] // side
    rows = np.zeros((len(images), side, images.shape[-1]), np.float32)
    for at in range(step):
        rows += images[:, at::step]
    small = np.zeros((len(images), side, side), np.float32)
    for at in range(step):
        small += rows[:, :, at::step]
    small /= step**2
    return small


def _improve(source: _Values, target: _Values, boxes: _Values) -> _Values:
    """Take one step of Gauss and Newton towards the box of the source that is the target.

    Gain and offset of the gray values are solved for too.

    Source: Lucas and Kanade, An iterative image registration technique (1981), forward additive,
    restricted to scale and shift of each axis.
    """
    pairs, side = len(source), source.shape[-1]
    laid, shared = _overlay(source, boxes)
    middles = _middles(side)
    down = np.gradient(laid, 1 / side, axis=1) / boxes[:, 1, None, None]
    right = np.gradient(laid, 1 / side, axis=2) / boxes[:, 3, None, None]
    slopes = np.stack([down, down * middles[:, None], right, right * middles, laid, np.ones_like(laid)], axis=1)
    slopes = slopes.reshape(pairs, 6, -1)  # (P, 6, S * S)
    weighed = slopes * shared.reshape(pairs, 1, -1)
    normal = (weighed @ slopes.transpose(0, 2, 1)).astype(np.float64)
    damping = 1e-3 * np.einsum("pii->pi", normal) + 1e-3
    normal += damping[:, :, None] * np.eye(6)
    solved = np.linalg.solve(normal, (weighed @ target.reshape(pairs, -1, 1)).astype(np.float64))[..., 0]
    gain = np.maximum(solved[:, 4:5], 0.2)
    moved = boxes + np.clip(solved[:, :4] / gain, -0.04, 0.04)
    moved[:, 0::2] = np.clip(moved[:, 0::2], -0.3, 0.3)
    moved[:, 1::2] = np.clip(moved[:, 1::2], 0.75, 1.33)
    return moved.astype(np.float32)


def _middles(side: int) -> _Values:
    return ((np.arange(side) + 0.5) / side).astype(np.float32)


def _overlay(source: _Values, boxes: _Values) -> tuple[_Values, _Values]:
    """Stretch boxes of images (P, S, S) to whole images; also 1 where the box lies within the image, else 0."""
    middles = _middles(source.shape[-1])
    rows = boxes[:, 0:1] + boxes[:, 1:2] * middles
    columns = boxes[:, 2:3] + boxes[:, 3:4] * middles
    laid = _sample(_sample(source, rows, axis=1), columns, axis=2)
    inside = ((rows >= 0) & (rows <= 1))[:, :, None] & ((columns >= 0) & (columns <= 1))[:, None, :]
    return laid, inside.astype(np.float32)


def _sample(images: _Values, positions: _Values, axis: int) -> _Values:
    """Interpolate images (P, S, S) linearly at positions (P, S) of one axis, shares of it."""
    side = images.shape[axis]
    at = np.clip(positions * side - 0.5, 0, side - 1)
    before = np.minimum(at.astype(np.int64), side - 2)
    share = (at - before).astype(np.float32)
    before, share = (np.expand_dims(array, 3 - axis) for array in (before, share))
    low = np.take_along_axis(images, before, axis)
    sampled: _Values = low + (np.take_along_axis(images, before + 1, axis) - low) * share
    return sampled


def _correlate(images: _Values, shared: _Values, others: _Values) -> _Values:
    """Return the Pearson correlation of each two images (P, S, S) where `shared` is 1."""
    weight = np.maximum(shared.sum(axis=(1, 2)), 1)
    first, second = (
        (values - ((values * shared).sum(axis=(1, 2)) / weight)[:, None, None]) * shared for values in (images, others)
    )
    power = (first**2).sum(axis=(1, 2)) * (second**2).sum(axis=(1, 2))
    correlation: _Values = (first * second).sum(axis=(1, 2)) / np.sqrt(power + 1e-6)
    return correlation


def _blur(images: _Values) -> _Values:
    """Return each pixel's mean over its neighbours to `_DETAIL_RADIUS`, fewer at the edges."""
    side = images.shape[-1]
    near = np.abs(np.subtract.outer(np.arange(side), np.arange(side))) <= _DETAIL_RADIUS
    means = (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
    blurred: _Values = means @ images @ means.T
    return blurred
