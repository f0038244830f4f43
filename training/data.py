"""The parts of a run: which image is in which, and their pixels, decoded once."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import ImageLimits, Pixels, Preprocessing, prepare_image
from training.collection import ArrayImages, Collection, Indices, PartName, Targets
from training.errors import RunNotWritable

# What is taken for a part that the owner has not made; the rest is the training part.
SHARES: dict[PartName, float] = {"validation": 0.1, "test": 0.2}
PARTS: tuple[PartName, ...] = ("train", "validation", "test")
_BLOCK = 256  # images that are counted at a time
MEMORY_BYTES = 4 * 2**30  # what is larger lies in a file


@dataclass(frozen=True)
class Part:
    """Decoded images of one part.

    Attributes:
        frames: uint8 (N, S, S', C), with the margin that evaluation cuts off.
        targets: class indices, (N,).
        size: (H, W), what the network sees: the middle of a frame.
        indices: where the images stand in the collection, (N,).
    """

    frames: Pixels
    targets: Targets
    size: tuple[int, int]
    indices: Indices

    def __len__(self) -> int:
        """Return N."""
        return len(self.targets)

    @property
    def pixels(self) -> Pixels:
        """uint8 (N, H, W, C), as serving prepares them."""
        top, left = ((frame - side) // 2 for frame, side in zip(self.frames.shape[1:3], self.size, strict=True))
        return self.frames[:, top : top + self.size[0], left : left + self.size[1]]


def split(collection: Collection, groups: NDArray[np.int64], seed: int) -> dict[PartName, Indices]:
    """Divide a collection into three parts; every image is in exactly one.

    Where the owner has divided it, their parts stand; a part that they have not made is taken
    from the training part by its share in `SHARES`, within each class. Images of one group,
    which are copies of one another, stay together.

    Args:
        collection: N images.
        groups: a number for each image, (N,); copies have the same.
        seed: of the division.

    Returns:
        Rising indices of each part.
    """
    parts = np.asarray(collection.parts, dtype="<U10")
    free = (parts == "") | (parts == "train")
    shares = {name: share for name, share in SHARES.items() if not (parts == name).any()}
    dealt = _deal(collection.targets[free], groups[free], shares, np.random.default_rng(seed))
    parts[free] = dealt
    return {name: np.flatnonzero(parts == name) for name in PARTS}


def load_part(
    collection: Collection,
    indices: Indices,
    preprocessing: Preprocessing,
    scratch: Path,
    *,
    margin: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Part:
    """Decode images to the very pixels that serving prepares, or to frames with a margin around them.

    Args:
        collection: where the images are.
        indices: which of them.
        preprocessing: what the network takes.
        scratch: a folder for the pixels that do not fit into memory.
        margin: keep what augmentation may move into, between the short side and the crop.
        on_progress: is told how many images are done.

    Raises:
        RunNotWritable: `scratch` cannot hold them either.
    """
    framing = frame_of(preprocessing) if margin else preprocessing
    shape = (len(indices), *framing.shape)
    images = collection.images
    part_of = (collection.targets[indices], (preprocessing.height, preprocessing.width), indices)
    unchanged = framing.source_size() == framing.shape[:2]  # nothing of the image lies outside, nor is it resized
    if isinstance(images, ArrayImages) and images.pixels.shape[1:] == framing.shape and unchanged:
        return Part(images.pixels[indices], *part_of)
    frames = _allocate(shape, scratch)

    def decode(place: int) -> None:
        frames[place] = prepare_image(images.read(int(indices[place])), framing, ImageLimits()).pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for done, _ in enumerate(pool.map(decode, range(len(indices))), start=1):
                on_progress(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return Part(frames, *part_of)


def frame_of(preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing that keeps the margin between the short side and the crop.

    The middle of such a frame has nearly the pixels that `preprocessing` gives: the resampling
    rounds otherwise.
    """
    if preprocessing.short_side is None:
        return preprocessing
    side = preprocessing.short_side
    return preprocessing.model_copy(update={"height": side, "width": side})


def channel_statistics(part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel on the scale 0 to 1, rounded to four digits."""
    counts = np.zeros((part.frames.shape[-1], 256), np.int64)
    for start in range(0, len(part), _BLOCK):
        block = part.pixels[start : start + _BLOCK]
        for channel in range(len(counts)):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    shares, levels = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ levels
    deviation = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.round(4).tolist()), tuple(deviation.round(4).clip(min=1e-3).tolist())


def _allocate(shape: tuple[int, ...], scratch: Path) -> Pixels:
    size = int(np.prod(shape, dtype=np.int64))
    if size <= MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:  # has no name: no two parts share it, and no kill leaves it
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would end the process
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise RunNotWritable(
            f"{size:,} bytes of pixels do not fit into {scratch} ({error.strerror}); choose another folder with --runs"
        ) from error


def _deal(
    targets: Targets, groups: NDArray[np.int64], shares: dict[PartName, float], generator: np.random.Generator
) -> NDArray[np.str_]:
    """Put each image into one of the parts of `shares` or into "train", each class alike, (N,).

    Groups are dealt as wholes, each counted with the class of its first image. Of a class of at
    least as many groups as parts, every part gets one.
    """
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    chosen = np.full(len(first), "train", dtype="<U10")
    for target in np.unique(targets[first]):
        members = generator.permutation(np.flatnonzero(targets[first] == target))
        ends = np.rint(np.cumsum(list(shares.values())) * len(members)).astype(int)
        if len(members) > len(shares):
            ends = np.maximum(ends, np.arange(1, len(shares) + 1))
        for name, start, end in zip(shares, [0, *ends], ends, strict=False):
            chosen[members[start:end]] = name
    return np.asarray(chosen[number])
