"""The maps of a layer as one picture: a tile for each channel, all on one scale of grey."""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.explain.onnx_graph import Array

MOST_PIXELS = 4_194_304  # of a picture
_GAP, _WHITE = 1, 255
_FAST = 1  # zlib's level: a larger file sooner


@dataclass(frozen=True)
class Tiles:
    """A PNG of `columns` x `rows` tiles of `width` x `height` pixels, `gap` between two; of the first `channels`."""

    png: bytes
    columns: int
    rows: int
    width: int
    height: int
    gap: int
    channels: int


def draw_tiles(maps: Array) -> Tiles:
    """Draw maps (C, H, W): grey 0 is their least value, 255 their greatest, white is between two tiles."""
    channels, height, width = maps.shape
    count = max(1, min(channels, MOST_PIXELS // ((height + _GAP) * (width + _GAP))))
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    rows = -(-count // columns)
    low, high = float(maps.min()), float(maps.max())
    scale = 255 / (high - low) if high > low else 0.0
    picture = np.full((rows * (height + _GAP), columns * (width + _GAP)), _WHITE, np.uint8)
    for channel in range(count):
        top, left = channel // columns * (height + _GAP), channel % columns * (width + _GAP)
        picture[top : top + height, left : left + width] = np.rint((maps[channel] - low) * scale)
    return Tiles(encode_png(picture[:-_GAP, :-_GAP]), columns, rows, width, height, _GAP, count)


def draw_input(pixels: NDArray[np.uint8]) -> Tiles:
    """Draw what the network sees, uint8 (H, W, C), in its own colours."""
    height, width, channels = pixels.shape
    picture = pixels[..., 0] if channels == 1 else pixels
    return Tiles(encode_png(picture), 1, 1, width, height, _GAP, channels)


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Write a picture, uint8 (H, W) or (H, W, 3), as a PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=_FAST)
    return file.getvalue()
