"""JPEGs of three components or one, decoded by libjpeg-turbo at a reduced scale, and no more of them than is needed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from model.jpeg_crop import cut_jpeg

Box = tuple[int, int, int, int]

_BYTES_PER_PIXEL = 4
_LONG = 2**17  # bytes, from which on it is worth while to leave out what is not needed
_EDGE_PIXELS = 2  # as decoded; at a new edge a colour that is stored for two pixels lacks its neighbour


@dataclass(frozen=True)
class ReducedJpeg:
    """A picture at a reduced scale, or a part of it.

    Attributes:
        pixels: uint8 (H, W, C), C 3 (RGB) or 1.
        corner: where they begin in the whole: left, top.
        size: of the whole: width, height.
    """

    pixels: NDArray[np.uint8]
    corner: tuple[int, int]
    size: tuple[int, int]


def decode_reduced(
    jpeg: bytes, *, gray: bool, size: tuple[int, int], least: tuple[int, int], needed: Callable[[tuple[int, int]], Box]
) -> ReducedJpeg | None:
    """Decode a picture at the smallest scale, in eighths, that leaves it a least size.

    Args:
        jpeg: a file.
        gray: whether it has one component, and not three.
        size: width and height.
        least: width and height that are to be left, where the picture has them.
        needed: tells what is needed of a picture that has become so wide and high: left, top, right, bottom.

    Returns:
        What is needed, or more; None if the file is broken, or a variant that this decoder does not know.
    """
    eighths = _eighths(size, least)
    reduced = _scaled(size, eighths)
    try:
        if len(jpeg) >= _LONG:
            part = _decode_part(jpeg, gray, eighths, reduced, needed(reduced))
            if part is not None:
                return part
        pixels = _decode(jpeg, gray, reduced)
        return ReducedJpeg(pixels, (0, 0), (pixels.shape[1], pixels.shape[0]))
    except ValueError:
        return None


def reduced_bytes(jpeg: bytes, size: tuple[int, int], least: tuple[int, int]) -> int:
    """Return how many bytes `decode_reduced` holds at the worst, and the images that are made from its pixels."""
    width, height = _scaled(size, _eighths(size, least))
    # The pixels and an image, or two images; before, where a part is cut out, its bytes and the list of its markers.
    return max(2 * _BYTES_PER_PIXEL * width * height, 2 * len(jpeg) if len(jpeg) >= _LONG else 0)


def _eighths(size: tuple[int, int], least: tuple[int, int]) -> int:
    """Return the smallest scale that leaves a least size, where the picture has it."""
    needed = min(size[0], least[0]), min(size[1], least[1])
    return next(
        eighths
        for eighths in range(1, 9)
        if all(have >= need for have, need in zip(_scaled(size, eighths), needed, strict=True))
    )


def _scaled(size: tuple[int, int], eighths: int) -> tuple[int, int]:
    """Return the width and height that libjpeg makes of a size."""
    return math.ceil(size[0] * eighths / 8), math.ceil(size[1] * eighths / 8)


def _decode_part(jpeg: bytes, gray: bool, eighths: int, reduced: tuple[int, int], needed: Box) -> ReducedJpeg | None:
    """Decode no more of a picture than is needed of the `reduced` one, if anything can be left out."""
    left, top = ((edge - _EDGE_PIXELS) * 8 // eighths for edge in needed[:2])
    right, bottom = (math.ceil((edge + _EDGE_PIXELS) * 8 / eighths) for edge in needed[2:])
    part = cut_jpeg(jpeg, (left, top, right, bottom))
    if part is None:
        return None
    width, height = _scaled((part.width, part.height), eighths)
    try:
        pixels = _decode(part.jpeg, gray, (width, height), strict=not part.has_rest)
    except ValueError:  # the whole file shows what is wrong with it
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return ReducedJpeg(pixels, (part.left * eighths // 8, part.top * eighths // 8), reduced)


def _decode(jpeg: bytes | bytearray, gray: bool, least: tuple[int, int], *, strict: bool = True) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        jpeg, colorspace="GRAY" if gray else "RGB", min_width=least[0], min_height=least[1], strict=strict
    )
    return pixels
