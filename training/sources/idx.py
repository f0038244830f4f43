"""The IDX files of MNIST and its kin: a header of big-endian numbers, then bytes.

Source: LeCun, Cortes and Burges, the description of the MNIST files. Read here: unsigned bytes,
images (N, H, W) or (N, H, W, C) with C of 1 or 3, labels (N,); gzip or not, by content.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels
from training.collection import ArrayImages, Collection
from training.errors import InvalidData
from training.sources.place import Place, checked, listing

# Which classes the numbers stand for, by the data's name; elsewhere a number is its own name.
CLASS_NAMES: Final = {
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
_OTHER_SPELLINGS = {"fashionmnist": "fashion-mnist", "fashion_mnist": "fashion-mnist"}
_PREFIXES = (("train", "train"), ("t10k", "test"))
_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 8
_COLOUR = 4
_DIMENSIONS = {"labels": (1,), "images": (3, 4)}


def holds_idx(folder: Path) -> bool:
    """Say whether a folder has MNIST's training images, or its test images."""
    _, files = listing(folder)
    return any(_spellings(prefix, "images") & set(files) for prefix, _ in _PREFIXES)


def read_idx(place: Place) -> Collection:
    """Read `train-images`, `train-labels` and, where they are, the two `t10k` files as the test part.

    Classes are the numbers that occur, in their order.

    Raises:
        InvalidData: a file is missing, of another kind, cut short or too long, or the counts differ.
    """
    pixels, numbers, parts = [], [], []
    for prefix, part in _PREFIXES:
        images, labels = _find(place, prefix, "images"), _find(place, prefix, "labels")
        if images is None and labels is None and prefix != "train":
            continue
        if images is None or labels is None:
            lacking = "images" if images is None else "labels"
            raise InvalidData(f"{place.shown} lacks {prefix}-{lacking}: put the file beside the others")
        read, of = _read_images(images), _read_file(labels, "labels")
        if len(read) != len(of):
            raise InvalidData(f"{images.name} has {len(read)} images, but {labels.name} has {len(of)} labels")
        pixels.append(read)
        numbers.append(of)
        parts.append(np.full(len(read), part))
    if len({each.shape[1:] for each in pixels}) > 1:
        raise InvalidData(f"{place.shown}: the training and the test images differ in size or in channels")
    return checked(
        _collection(place, np.concatenate(pixels), np.concatenate(numbers), np.concatenate(parts)), place.shown
    )


def _collection(place: Place, pixels: Pixels, numbers: NDArray[np.uint8], parts: NDArray[np.str_]) -> Collection:
    present, targets = np.unique(numbers, return_inverse=True)
    names = CLASS_NAMES.get(_OTHER_SPELLINGS.get(place.name, place.name), ())
    known = int(present.max(initial=0)) < len(names)
    return Collection(
        name=place.name,
        origin=place.origin,
        licence=place.licence,
        labels=tuple(names[number] if known else str(number) for number in present.tolist()),
        images=ArrayImages(pixels),
        targets=targets.astype(np.int64),
        parts=parts,
        notes=place.notes,
    )


def _spellings(prefix: str, kind: str) -> set[str]:
    dimensions = {"images": "34", "labels": "1"}[kind]
    return {
        f"{prefix}-{kind}{mark}idx{count}-ubyte{ending}"
        for mark in "-."
        for count in dimensions
        for ending in ("", ".gz")
    }


def _find(place: Place, prefix: str, kind: str) -> Path | None:
    """Return the file, the unpacked one where both are there."""
    _, files = listing(place.folder)
    found = sorted(_spellings(prefix, kind) & set(files), key=len)
    return place.folder / found[0] if found else None


def _read_images(path: Path) -> Pixels:
    """Return uint8 (N, H, W, C)."""
    values = _read_file(path, "images")
    if values.ndim < _COLOUR:
        values = values[..., None]
    if 0 in values.shape or values.shape[-1] not in (1, 3):
        raise InvalidData(f"{path.name} holds images of {values.shape}: (N, H, W) or (N, H, W, 1 or 3) can be read")
    return values


def _read_file(path: Path, kind: str) -> NDArray[np.uint8]:
    """Return an IDX file's values in the shape that its header gives.

    Raises:
        InvalidData: its magic number is not that of `kind`, or its length is not what its header says.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(len(_GZIP)) == _GZIP
        with cast(BinaryIO, gzip.open(path)) if packed else path.open("rb") as file:
            shape = _read_header(file, path, kind)
            wanted = math.prod(shape)
            content = file.read(wanted + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidData(f"{path.name} is cut short or broken: {error}; copy or download it again") from error
    if len(content) != wanted:
        what = "cut short" if len(content) < wanted else "longer than its header says"
        raise InvalidData(f"{path.name} is {what}: its header gives {wanted} bytes; copy or download it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_header(file: BinaryIO, path: Path, kind: str) -> tuple[int, ...]:
    magic = file.read(4)
    dimensions = magic[3] if len(magic) == 4 else 0  # noqa: PLR2004
    if magic[:3] != bytes((0, 0, _UNSIGNED_BYTES)) or dimensions not in _DIMENSIONS[kind]:
        expected = " or ".join(f"00 00 08 {count:02x}" for count in _DIMENSIONS[kind])
        raise InvalidData(
            f"{path.name} is no IDX file of {kind}: it begins with {magic.hex(' ') or 'nothing'}, not with {expected}"
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise InvalidData(f"{path.name} is cut short within its header; copy or download it again")
    return tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
