"""How alike two pictures are, after one has been laid over the other by scale and shift.

Knows nothing of files, and does not choose which pictures to compare.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels

# What the details of an aligned pair must reach; `training.duplicates` has the evidence.
NEAR_DETAIL: Final = 0.5
_COARSE_SIDE, _FINE_SIDE = 32, 64
_COARSE_STEPS, _FINE_STEPS = 8, 4
# A pair that correlates less than this after the coarse alignment is dropped.
_COARSE_CORRELATION = 0.7
# The share of the target that both images have to show.
_OVERLAP = 0.6
_DETAIL_RADIUS = 2  # pixels of `_FINE_SIDE`

_Values = NDArray[np.float32]


def aligned_correlation(source: Pixels, target: Pixels, boxes: _Values) -> _Values:
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
