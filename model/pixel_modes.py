"""From any of Pillow's modes to the two that networks take, RGB and L, as the decode policy says. Knows no file."""

from collections.abc import Callable, Iterator
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Conversion = Callable[[Image.Image], Image.Image]

_PIXELS_AT_A_TIME = 2**19  # are converted


def convert_mode(image: Image.Image, mode: str, applied: list[str]) -> Image.Image:
    """Bring an image of any Pillow mode to RGB or L, and note what was done.

    Gray stays L where RGB is wanted: three equal channels are made when the pixels have become few.
    """
    found, conversions = image.mode, list[Conversion]()
    if found.startswith("I;16"):
        applied.append("scaled_16_bit")
        bits = _bit_depth(image)
        conversions.append(lambda band: _scale_depth(band, bits))
        found = "L"
    elif found in ("I", "F"):
        applied.append("stretched_range")
        low, high = _range(image)
        conversions.append(lambda band: _stretch_range(band, low, high))
        found = "L"
    elif image.has_transparency_data:
        applied.append("alpha_over_white")
        conversions.append(_over_white)
        found = "RGB"
    elif found in ("P", "CMYK"):
        applied.append("palette" if found == "P" else "cmyk_to_rgb")
        conversions.append(lambda band: band.convert("RGB"))
        found = "RGB"
    if found != mode:
        gray = found in ("L", "1")
        applied.append("gray_to_rgb" if gray else f"to_{mode.lower()}")
        found = "L" if gray else mode
        if conversions or image.mode != found:
            conversions.append(lambda band: band.convert(found))
    if not conversions:
        return image
    converted = Image.new(found, image.size)
    for top, band in _bands(image):
        converted.paste(reduce(lambda part, conversion: conversion(part), conversions, band), (0, top))
    return converted


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut an image into bands of whole rows, each with its first row; a small one stays whole.

    What is made of a band on its way is gone before the next is taken: a large image is held twice and not five times.
    """
    rows = max(1, _PIXELS_AT_A_TIME // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _bit_depth(image: Image.Image) -> int:
    """Return how many bits of its 16 a gray image says it uses: a TIFF may say 12."""
    tags = getattr(image, "tag_v2", None)
    return 16 if tags is None else int(tags.get(ExifTags.Base.BitsPerSample, (16,))[0])


def _scale_depth(image: Image.Image, bits: int) -> Image.Image:
    """Scale gray of up to 16 bits to 8 by its bit depth."""
    top = 2**bits - 1
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((np.minimum(values, top) * 255 + top // 2) // top).astype(np.uint8))


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the least and the greatest value of an image."""
    ranges = [(float(values.min()), float(values.max())) for values in (_values(band) for _, band in _bands(image))]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _stretch_range(image: Image.Image, low: float, high: float) -> Image.Image:
    """Stretch gray of any range to that of 8 bits."""
    values = _values(image)
    with np.errstate(all="ignore"):  # the range of floats is greater than what a float can say
        scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _values(image: Image.Image) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(image, dtype=np.float64))
