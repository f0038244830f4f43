"""A heat map as colours: over what the network sees, and over the whole photo.

The colours go from black over violet and orange to pale yellow: brighter is more, in grey as well, and for
the colour-blind.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.explain.network import Floats
from model.preprocessing import ImageFacts, ImageLimits, Pixels, Preprocessing, prepare_image

_STOPS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # at equal distances
_LONGEST_SIDE = 1024  # of a photo that is drawn over
_GREATEST_COVER = 0.75


@dataclasses.dataclass(frozen=True)
class Crop:
    """The part of the upright image that the network sees, in its pixels."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def of(cls, preprocessing: Preprocessing, facts: ImageFacts) -> "Crop":
        """Say where it lies on an image."""
        left, top, right, bottom = preprocessing.source_box(facts.width, facts.height)
        return cls(left, top, right - left, bottom - top)


def paint_heat(values: Floats, size: tuple[int, int]) -> Pixels:
    """Paint a map (H, W) at (height, width): its greatest value is the brightest, 0 and below are black."""
    return _colour(_share(values, size))


def paint_over(photo: Pixels, values: Floats, crop: Crop, facts: ImageFacts) -> Pixels:
    """Paint a map over a photo, uint8 (H, W, 3), where the network has looked; elsewhere the photo is darker.

    Args:
        photo: upright, at any size.
        values: the map (H, W).
        crop: the part that the network sees.
        facts: the size that `crop` is told in.
    """
    height, width, _ = photo.shape
    across, down = width / facts.width, height / facts.height
    left, top = round(crop.x * across), round(crop.y * down)
    right, bottom = round((crop.x + crop.width) * across), round((crop.y + crop.height) * down)
    painted = photo.astype(np.float32) / 2
    share = _share(values, (bottom - top, right - left))
    cover = (_GREATEST_COVER * share)[..., None]
    seen = photo[top:bottom, left:right].astype(np.float32)
    painted[top:bottom, left:right] = (1 - cover) * seen + cover * _colour(share)
    return np.rint(painted).astype(np.uint8)


def colour_bar(width: int) -> Pixels:
    """Return the colours from nothing to the most, uint8 (width, 3)."""
    return _colour(np.linspace(0, 1, width, dtype=np.float32))


def decode_photo(data: bytes, facts: ImageFacts, limits: ImageLimits) -> Pixels:
    """Decode a photo to be painted over, uint8 (H, W, 3), upright, no side longer than 1,024 pixels.

    Raises:
        InvalidImage: as `prepare_image` says.
    """
    scale = min(1.0, _LONGEST_SIDE / max(facts.width, facts.height))
    plain = Preprocessing(
        mode="RGB",
        height=max(1, round(facts.height * scale)),
        width=max(1, round(facts.width * scale)),
        resize="stretch",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    return prepare_image(data, plain, limits).pixels


def _share(values: Floats, size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a map to a size, and its values to 0 to 1."""
    height, width = size
    image = Image.fromarray(np.maximum(values, 0).astype(np.float32))
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    greatest = float(values.max(initial=0))
    return np.clip(resized / greatest, 0, 1) if greatest > 0 else np.zeros(size, np.float32)


def _colour(share: NDArray[np.float32]) -> Pixels:
    """Turn 0 to 1 into colours, uint8 (..., 3)."""
    places = np.linspace(0, 1, len(_STOPS))
    channels = [np.interp(share, places, [stop[channel] for stop in _STOPS]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
