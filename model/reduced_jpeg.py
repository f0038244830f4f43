"""JPEGs of three components or one, decoded by libjpeg-turbo at a reduced scale, and no more of them than is needed."""

import math
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from model.jpeg_crop import Box, cut_jpeg

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


def smallest_scale(size: tuple[int, int], least: tuple[int, int]) -> int:
    """Return the smallest scale, in eighths, at which a picture has a least (width, height), as far as it has it."""
    needed = min(size[0], least[0]), min(size[1], least[1])
    return next(
        eighths
        for eighths in range(1, 9)
        if all(have >= need for have, need in zip(scaled(size, eighths), needed, strict=True))
    )


def scaled(size: tuple[int, int], eighths: int) -> tuple[int, int]:
    """Return the (width, height) that libjpeg makes of a size."""
    return math.ceil(size[0] * eighths / 8), math.ceil(size[1] * eighths / 8)


def reduced_bytes(jpeg: bytes, reduced: tuple[int, int]) -> int:
    """Return how many bytes `decode_reduced` holds at the worst, and the images that are made from its pixels."""
    # The pixels and an image, or two images; before, where a part is cut out, its bytes and the list of its markers.
    return max(2 * _BYTES_PER_PIXEL * reduced[0] * reduced[1], 2 * len(jpeg) if len(jpeg) >= _LONG else 0)


def decode_reduced(jpeg: bytes, *, gray: bool, size: tuple[int, int], eighths: int, needed: Box) -> ReducedJpeg | None:
    """Decode a picture at a scale.

    Args:
        jpeg: a file.
        gray: whether it has one component, and not three.
        size: its width and height.
        eighths: the scale, 1 to 8.
        needed: in pixels of the picture at this scale.

    Returns:
        What is needed, or more; None if the file is broken, or a variant that this decoder does not know.
    """
    reduced = scaled(size, eighths)
    try:
        part = _decode_part(jpeg, gray, eighths, needed) if len(jpeg) >= _LONG else None
        pixels, corner = part or (_decode(jpeg, gray, reduced), (0, 0))
    except ValueError:
        return None
    return ReducedJpeg(pixels, corner, reduced)


def _decode_part(
    jpeg: bytes, gray: bool, eighths: int, needed: Box
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """Decode no more of a picture than is needed, if anything can be left out; return where that begins, too."""
    left, top = ((edge - _EDGE_PIXELS) * 8 // eighths for edge in needed[:2])
    right, bottom = (math.ceil((edge + _EDGE_PIXELS) * 8 / eighths) for edge in needed[2:])
    part = cut_jpeg(jpeg, (left, top, right, bottom))
    if part is None:
        return None
    try:
        pixels = _decode(part.jpeg, gray, scaled((part.width, part.height), eighths), strict=not part.has_rest)
    except ValueError:  # the whole file shows what is wrong with it
        return None
    return pixels, (part.left * eighths // 8, part.top * eighths // 8)


def _decode(jpeg: bytes | bytearray, gray: bool, size: tuple[int, int], *, strict: bool = True) -> NDArray[np.uint8]:
    """Decode at the scale that gives a size.

    Raises:
        ValueError: the file is broken, or has no such size.
    """
    width, height = size
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        jpeg, colorspace="GRAY" if gray else "RGB", min_width=width, min_height=height, strict=strict
    )
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"the decoder made {pixels.shape[1]} x {pixels.shape[0]} of what is to be {width} x {height}")
    return pixels
