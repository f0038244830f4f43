"""Pictures that occur more than once among images: exact copies, and near ones.

Exact copies have equal decoded pixels. Of a near pair, one picture is the other one scaled,
encoded again or slightly cropped. Small thumbnails decide; each is the whole upright image
squeezed to a square. Images are told apart by their gray values alone. Mirrored, turned and
recoloured copies are not looked for, nor crops that take away much more than `CROP` of a side.
Knows nothing of files, decoders and the parts of a collection.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels
from training.alignment import aligned_correlation
from training.perceptual_hash import CHUNK, Candidates, Interval, find_candidates, hash_crops

# Images whose longer side is shorter than this are small: they have too few pixels for a near pair to prove anything.
SMALL_SIDE: Final = 64
# What an aligned pair must reach, in its gray values and in its details. Among the likeliest pairs of 910 photos
# without duplicates, the highest were 0.86 and 0.45, and 0.93 and 0.46 among 10,000 cut-outs of them, never in one
# pair. The lowest of copies: JPEG at quality 30, 0.99 and 0.94; 10 % cropped all around, 0.98 and 0.95; at 25 % of
# the size, 0.94 and 0.53.
NEAR_CORRELATION: Final = 0.9
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

_WHOLE: Final = (0.0, 1.0)
_CROPS: Final[tuple[Interval, ...]] = (
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
    return (thumbnails[start : start + CHUNK] for start in range(0, len(thumbnails), CHUNK))


def _small_near_pairs(thumbnails: Pixels, eligible: _Integers, tell: Callable[[str], None]) -> list[Pair]:
    hashes = hash_crops(thumbnails, eligible, [_WHOLE])
    candidates = find_candidates(hashes, SMALL_HASH_DISTANCE, SMALL_CANDIDATES_LIMIT, tell)
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
    candidates = find_candidates(hash_crops(thumbnails, eligible, intervals), HASH_DISTANCE, CANDIDATES_LIMIT, tell)
    correlation = np.zeros(len(candidates.source), np.float32)
    for start in range(0, len(correlation), CHUNK):
        chunk = slice(start, start + CHUNK)
        source = thumbnails[eligible[candidates.source[chunk]]]
        target = thumbnails[eligible[candidates.target[chunk]]]
        correlation[chunk] = aligned_correlation(source, target, boxes[candidates.crop[chunk]])
    return _confirmed(candidates, eligible, correlation, NEAR_CORRELATION)


def _confirmed(candidates: Candidates, eligible: _Integers, correlation: _Values, enough: float) -> list[Pair]:
    kept = np.flatnonzero(correlation >= enough)
    images = np.sort(np.stack([eligible[candidates.source[kept]], eligible[candidates.target[kept]]], axis=1), axis=1)
    return [
        Pair(first, second, "near", min(float(value), 1.0))
        for (first, second), value in zip(images.tolist(), correlation[kept], strict=True)
    ]
