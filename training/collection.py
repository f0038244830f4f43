"""Labelled images as their owner keeps them: nothing is decoded yet, nothing is split.

Every module that speaks of single images means them by their index in a collection.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.preprocessing import Pixels

PartName = Literal["train", "validation", "test"]
Targets = NDArray[np.int64]
Indices = NDArray[np.int64]

UNKNOWN: Final = -1  # the class of an image without a label, and of a label that a version does not know


class Images(Protocol):
    """N images that can be read one by one, from any thread."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def name(self, index: int) -> str:
        """Return what a person finds the image by: its path in the data, or its row."""
        ...

    def read(self, index: int) -> bytes:
        """Return the image's file.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def take(self, indices: Indices) -> "Images":
        """Return the images at these indices, in this order, under the names they have here."""
        ...


@dataclass(frozen=True)
class FileImages:
    """Image files under one folder; `paths` are relative to it."""

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        """Return N."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the path in the data."""
        return self.paths[index]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return (self.root / self.paths[index]).read_bytes()

    def take(self, indices: Indices) -> "FileImages":
        """Return the images at these indices, in this order."""
        return FileImages(self.root, tuple(self.paths[index] for index in indices))


@dataclass(frozen=True)
class ArrayImages:
    """Images of one size that are in memory: uint8 (N, H, W, C) with C of 1 or 3.

    `rows` are the rows that the images had in the data, where those are not 0 to N-1.
    """

    pixels: Pixels
    prefix: str = "image"
    rows: Indices | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.pixels)

    def name(self, index: int) -> str:
        """Return the prefix and the row."""
        return f"{self.prefix} {index if self.rows is None else self.rows[index]}"

    def read(self, index: int) -> bytes:
        """Return the image as a PNG."""
        pixels = self.pixels[index]
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def take(self, indices: Indices) -> "ArrayImages":
        """Return the images at these indices, in this order."""
        return ArrayImages(self.pixels[indices], self.prefix, indices if self.rows is None else self.rows[indices])


@dataclass(frozen=True)
class Collection:
    """Labelled images, with the parts that their owner has divided them into, if any.

    Attributes:
        name: what the data is called, a proposal for the model's name.
        origin: where it comes from, for the card.
        licence: its licence as far as it is known.
        labels: the K classes' names; none where the images have no labels.
        images: the N images.
        targets: each image's class index, (N,); `UNKNOWN` where it has no label.
        parts: the part that the owner has put each image into, (N,); "" where they have not.
        notes: what the reader of the data left out or chose, in sentences.
    """

    name: str
    origin: str
    licence: str
    labels: tuple[str, ...]
    images: Images
    targets: Targets
    parts: NDArray[np.str_]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return N."""
        return len(self.targets)

    def take(self, indices: Indices) -> "Collection":
        """Return the images at these indices, in this order; all K classes stay, also where one has none left."""
        return replace(self, images=self.images.take(indices), targets=self.targets[indices], parts=self.parts[indices])
