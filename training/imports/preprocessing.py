"""What an imported network takes: as the user says, or as its source says, or as is usual."""

from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from model.preprocessing import Preprocessing
from training.errors import InvalidSource

# What most networks trained on ImageNet take, torchvision's for example.
USUAL = Preprocessing(
    mode="RGB",
    height=224,
    width=224,
    resize="crop",
    short_side=256,
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
USUAL_ORIGIN = "what is usual for ImageNet"


@dataclass(frozen=True)
class PixelWish:
    """What the user says of the preprocessing; None for what he leaves open. `size` is (height, width)."""

    size: tuple[int, int] | None = None
    short_side: int | None = None
    resize: Literal["crop", "stretch"] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def settle(wish: PixelWish, base: Preprocessing, origin: str) -> tuple[Preprocessing, str]:
    """Fill what a user left open from `base`.

    Returns:
        The preprocessing, and a sentence that says what was taken from `origin`; "" for nothing.

    Raises:
        InvalidSource: the values contradict each other or are out of bounds.
    """
    height, width = wish.size or (base.height, base.width)
    resize = wish.resize or base.resize
    short_side = wish.short_side
    if resize == "crop" and short_side is None:
        # the crop takes the same share of the image as in the base
        share = (base.short_side or base.height) / max(base.height, base.width)
        short_side = round(max(height, width) * share)
    if resize == "stretch" and short_side is not None:
        raise InvalidSource("--short-side says what --resize crop cuts from; --resize stretch has no use for it")
    try:
        found = Preprocessing(
            mode=base.mode,
            height=height,
            width=width,
            resize=resize,
            short_side=short_side,
            interpolation=wish.interpolation or base.interpolation,
            mean=wish.mean or base.mean,
            std=wish.std or base.std,
        )
    except ValidationError as error:
        raise InvalidSource(_explain(error)) from error
    return found, _tell(wish, found, origin)


def check_normalisation(wish: PixelWish, channels: int) -> None:
    """Make sure that a network of one channel comes with its mean and deviation.

    Raises:
        InvalidSource: they are not given.
    """
    if channels == 1 and (wish.mean is None or wish.std is None):
        raise InvalidSource(
            "there is no usual normalisation for gray images: give --mean and --std, on the scale 0 to 1"
        )


def _tell(wish: PixelWish, found: Preprocessing, origin: str) -> str:
    taken = []
    if wish.size is None:
        taken.append(f"size {found.height}x{found.width}")
    if wish.resize is None:
        taken.append(f"resize {found.resize}")
    if wish.short_side is None and found.short_side is not None:
        taken.append(f"short side {found.short_side}")
    if wish.interpolation is None:
        taken.append(found.interpolation)
    if wish.mean is None:
        taken.append(f"mean {','.join(f'{value:g}' for value in found.mean)}")
    if wish.std is None:
        taken.append(f"std {','.join(f'{value:g}' for value in found.std)}")
    return f"taken from {origin}: {'; '.join(taken)}" if taken else ""


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    scale = "; mean and std are on the scale 0 to 1" if field == "std" else ""
    return f"the preprocessing is not possible: {field + ': ' if field else ''}{first['msg']}{scale}"
