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
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg, min_width=least[0], min_height=least[1])
        if len(jpeg) >= _LONG:
            part = _decode_part(jpeg, gray, size, (width, height), needed((width, height)))
            if part is not None:
                return part
        return ReducedJpeg(_decode(jpeg, gray, least), (0, 0), (width, height))
    except ValueError:
        return None


def reduced_bytes(jpeg: bytes, size: tuple[int, int], least: tuple[int, int]) -> int:
    """Return how many bytes `decode_reduced` holds at the worst, and the images that are made from its pixels."""
    share = max(need / max(have, 1) for need, have in zip(least, size, strict=True))
    eighths = min(8, math.ceil(share * 8))
    decoded = _BYTES_PER_PIXEL * size[0] * size[1] * eighths**2 // 64
    # The pixels, and an image; where a part is cut out of the file, its bytes, the list of its markers, two images.
    return 2 * decoded if len(jpeg) < _LONG else 3 * decoded + 2 * len(jpeg)


def _decode_part(
    jpeg: bytes, gray: bool, size: tuple[int, int], reduced: tuple[int, int], needed: Box
) -> ReducedJpeg | None:
    """Decode no more of a picture than is needed of the `reduced` one, if anything can be left out."""
    eighths = 8 * max(reduced) // max(size)
    left, top = ((edge - _EDGE_PIXELS) * 8 // eighths for edge in needed[:2])
    right, bottom = (math.ceil((edge + _EDGE_PIXELS) * 8 / eighths) for edge in needed[2:])
    part = cut_jpeg(jpeg, (left, top, right, bottom))
    if part is None:
        return None
    width, height = math.ceil(part.width * eighths / 8), math.ceil(part.height * eighths / 8)
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
