"""Perceptual hashes of pictures and of their crops, and which of them differ in few bits.

Pairs that come out are candidates only: different pictures have like hashes too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels

_HASH_SIDE = 8
Interval = tuple[float, float]  # what is left of an axis, as shares of it
CHUNK: Final = 64  # thumbnails that are hashed at a time: they fit a cache
_ROWS = 1 << 16  # hashes that are compared at a time

_Values = NDArray[np.float32]
_Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Pairs with like hashes: the crop `crop` of image `source` is like the whole of `target`; each (M,)."""

    source: _Integers
    target: _Integers
    crop: _Integers


def hash_crops(thumbnails: Pixels, eligible: _Integers, intervals: Sequence[Interval]) -> NDArray[np.uint64]:
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
    for start in range(0, len(eligible), CHUNK):
        chunk = thumbnails[eligible[start : start + CHUNK]].astype(np.float32)
        # Products so small stay on one thread; on many, they would wait for each other on a busy machine.
        waves = basis @ chunk[:, None] @ columns  # (N, K, 8, K * 8)
        waves = waves.reshape(len(chunk), count, _HASH_SIDE, count, _HASH_SIDE).transpose(1, 3, 0, 2, 4)
        waves = waves.reshape(count * count, len(chunk), _HASH_SIDE**2)
        bits = waves > np.median(waves[..., 1:], axis=-1, keepdims=True)
        hashes[:, start : start + len(chunk)] = np.packbits(bits, axis=-1).view(np.uint64)[..., 0]
    return hashes


def _cosines(side: int, interval: Interval) -> _Values:
    """Return the lowest cosines of an interval of an axis, (8, S); pixels that it cuts count in part."""
    low, high = interval
    edges = np.clip(np.arange(side + 1) / side, low, high)
    middles = ((edges[:-1] + edges[1:]) / 2 - low) / (high - low)
    weights = np.diff(edges) / (high - low)
    waves = np.cos(np.pi * np.arange(_HASH_SIDE)[:, None] * middles) * weights
    return waves.astype(np.float32)


def find_candidates(hashes: NDArray[np.uint64], distance: int, limit: int, tell: Callable[[str], None]) -> Candidates:
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
    return Candidates(*found[:limit, :3].T)


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
