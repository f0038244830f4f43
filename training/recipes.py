"""Which network and which recipe fit some data, where the user has not said.

The figures behind each choice stand in `benchmarks/training.md`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from model.architectures.torchvision_networks import torchvision_names
from model.preprocessing import Preprocessing
from training.config import AugmentName, TrainConfig
from training.errors import InvalidRecipe
from training.transfer import preprocessing_of

CLASSIC = "classic"
TRANSFER = "efficientnet_lite0"
_SMALL_SIDE = 64  # photos whose longer side is below are too small for a backbone of large photos
_MANY_IMAGES = 20_000
_WIDE: dict[str, JsonValue] = {"stages": [[32, 32], [64, 64], [128, 128]], "hidden": [256], "dropout": 0.3}
# Data sets whose images may be mirrored although they are small and gray.
_MIRRORED = ("fashion-mnist",)
_NEUTRAL = (0.5, 0.5)


def choose_arch(sizes: NDArray[np.int64]) -> str:
    """Return the classic CNN for small images, a trained backbone for photos; `sizes` is (N, 2)."""
    return CLASSIC if int(np.median(sizes.max(axis=1))) < _SMALL_SIDE else TRANSFER


def check_told(arch: str | None, told: Mapping[str, Any]) -> None:
    """Refuse what is wrong whatever the data are, before the work of reading them.

    Raises:
        InvalidRecipe: a setting is not known, or out of its bounds; no network has that name.
    """
    unknown = set(told) - {field.name for field in fields(TrainConfig)}
    if unknown:
        raise InvalidRecipe(f"no recipe has {', '.join(sorted(unknown))}")
    TrainConfig(**told)
    if arch is not None and arch not in (CLASSIC, TRANSFER) and arch not in (names := torchvision_names()):
        nearest = ", ".join(difflib.get_close_matches(arch, [CLASSIC, TRANSFER, *names], 3, cutoff=0.0))
        raise InvalidRecipe(
            f"there is no architecture {arch!r}: classic, efficientnet_lite0 and torchvision's classification networks "
            f"are known; the nearest are {nearest}"
        )


def classic_config(config: Mapping[str, JsonValue], preprocessing: Preprocessing, images: int) -> dict[str, JsonValue]:
    """Return the arguments of the classic CNN: the input's shape, and more filters for many images.

    Raises:
        InvalidRecipe: `config` sets the shape.
    """
    shape: dict[str, JsonValue] = {
        "height": preprocessing.height,
        "width": preprocessing.width,
        "channels": preprocessing.channels,
    }
    if given := sorted(set(shape) & set(config)):
        raise InvalidRecipe(f"--arch-config sets {', '.join(given)}, which the images decide; see --size")
    return {**shape, **(_WIDE if images >= _MANY_IMAGES else {}), **config}


def choose_preprocessing(arch: str, sizes: NDArray[np.int64], gray: bool, side: int | None) -> Preprocessing:
    """Return what the network takes; of the classic CNN mean and deviation are yet to be measured.

    Args:
        arch: the architecture.
        sizes: upright width and height of the images, pixels, (N, 2).
        gray: whether all images are gray.
        side: the side that the user wants, pixels.

    Raises:
        InvalidRecipe: the side is too small or too large.
    """
    if side is not None and not 8 <= side <= 1024:  # noqa: PLR2004
        raise InvalidRecipe(f"--size is {side}; it lies from 8 to 1024 pixels")
    if arch != CLASSIC:
        whole = preprocessing_of(arch)
        if side is None:
            return whole
        assert whole.short_side is not None
        margin = round(side * whole.short_side / whole.height)
        return whole.model_copy(update={"height": side, "width": side, "short_side": margin})
    channels: Literal["L", "RGB"] = "L" if gray else "RGB"
    mean, std = ((value,) * len(channels) for value in _NEUTRAL)
    if side is None and (sizes == sizes[0]).all() and sizes.max() < 2 * _SMALL_SIDE:
        width, height = (int(length) for length in sizes[0])
        return Preprocessing(
            mode=channels, height=height, width=width, resize="stretch", interpolation="bilinear", mean=mean, std=std
        )
    side = side or _SMALL_SIDE
    return Preprocessing(
        mode=channels, height=side, width=side, resize="crop", short_side=side * 8 // 7, mean=mean, std=std
    )


def choose_recipe(
    arch: str, preprocessing: Preprocessing, *, data: str, images: int, fine_tune: int, told: Mapping[str, Any]
) -> TrainConfig:
    """Return the recipe for `images` training images; what the user told goes before every choice.

    Small gray images are taken for characters, which must not be mirrored.

    Raises:
        InvalidRecipe: a setting is out of its bounds.
    """
    if fine_tune:
        chosen = TrainConfig(
            epochs=fine_tune, batch_size=32, learning_rate=5e-4, warm_up=0.1, augment="photo", average=0.99
        )
    else:
        augment: AugmentName = "light" if preprocessing.mode == "RGB" or data in _MIRRORED else "digits"
        if arch != CLASSIC:
            augment = "photo"
        chosen = TrainConfig(augment=augment, batch_size=128 if images >= _MANY_IMAGES else 64)
    return replace(chosen, **told)
