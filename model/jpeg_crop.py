"""The part of a JPEG that is needed, as a JPEG of its own: what lies around it need not be decoded.

Most of the time that a photo of a phone takes goes by reading its bits, however small it is
decoded. Those that stand for what lies below the part are not read if the header says that the
picture ends there. Where the encoder has set restart markers, as many phones do, the bits
between two of them are read without any before them: whole intervals around the part are left
out, and the markers of those that stay are numbered anew. What is decoded of a part is what is
decoded of the whole, but for its edges, where a decoder cannot look at the colours beside it.
Source: ITU-T T.81, A.2 (order of the units), B.2 (markers), E.2.4 (restart intervals).
"""

import math
import struct
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from model.structure import END_OF_IMAGE, MAX_PIECES, START_OF_SCAN, jpeg_segments

Box = tuple[int, int, int, int]  # left, top, right, bottom, the last two exclusive

_BLOCK = 8  # pixels
_FRAMES = (0xC0, 0xC1)  # sequential, coded by Huffman's method
_OTHER_FRAMES = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_MARK, _RESTART_INTERVAL, _FIRST_RESTART = 0xFF, 0xDD, 0xD0
_NO_MARKER = 0  # behind a byte of the code that is equal to a mark
_RESTARTS = 8  # markers, in turns
_BYTES_PER_MARK = 32  # at the least; real files have more than a hundred


@dataclass(frozen=True)
class JpegPart:
    """A part of a picture.

    Attributes:
        jpeg: a file.
        left: where the part begins, in pixels of the whole.
        top: likewise.
        width: in pixels.
        height: in pixels.
        has_rest: whether bits follow that belong to no pixel, of which decoders warn: one has to overhear all warnings.
    """

    jpeg: bytes | bytearray
    left: int
    top: int
    width: int
    height: int
    has_rest: bool


@dataclass(frozen=True)
class _Head:
    """What comes before the bits of a picture: its size and that of the units of its code, in pixels."""

    width: int
    height: int
    unit_width: int
    unit_height: int
    restart_interval: int  # units; 0: there are no markers between them
    size_at: int  # where the height stands, and the width behind it
    bits_at: int

    @property
    def columns(self) -> int:
        """Units in a row."""
        return math.ceil(self.width / self.unit_width)

    @property
    def interval(self) -> tuple[int, int] | None:
        """(width, height) in pixels of what two markers enclose; None where it is no rectangle."""
        units, columns = self.restart_interval, self.columns
        if columns % units == 0:
            return units * self.unit_width, self.unit_height
        if units % columns == 0:
            return columns * self.unit_width, units // columns * self.unit_height
        return None


def cut_jpeg(jpeg: bytes, needed: Box) -> JpegPart | None:
    """Leave out what lies around the pixels that are needed, as far as that can be done without decoding.

    Args:
        jpeg: a file. Only sequential ones of a single scan are cut, whose restart intervals, if any, are rectangles.
        needed: in pixels; it may reach beyond the picture.

    Returns:
        A part that has them; None if nothing can be left out, or the file is broken.
    """
    head = _read_head(jpeg)
    if head is None:
        return None
    if not head.restart_interval:
        return _cut_below(jpeg, head, needed[3])
    return _cut_around(jpeg, head, head.interval, needed) if head.interval else None


def _cut_below(jpeg: bytes, head: _Head, bottom: int) -> JpegPart | None:
    """Let the header say that the picture ends below what is needed, if its bits are whole."""
    height = math.ceil(bottom / head.unit_height) * head.unit_height
    end = jpeg.rfind(bytes((_MARK, END_OF_IMAGE)), head.bits_at)
    if not 0 < height < head.height or end < 0:
        return None
    codes = np.frombuffer(jpeg, np.uint8, end - head.bits_at, head.bits_at)
    if ((codes[:-1] == _MARK) & (codes[1:] != _NO_MARKER)).any():
        return None
    cut = b"".join((_resized(jpeg, head, head.width, height), memoryview(jpeg)[head.bits_at :]))
    return JpegPart(cut, 0, 0, head.width, height, has_rest=True)


def _cut_around(jpeg: bytes, head: _Head, interval: tuple[int, int], needed: Box) -> JpegPart | None:
    """Leave out the intervals that are not needed; an interval has a (width, height) in pixels."""
    (width, height), (left, top, right, bottom) = interval, needed
    columns, rows = math.ceil(head.width / width), math.ceil(head.height / height)
    first_column, last_column = max(0, left // width), min(columns, math.ceil(right / width))
    first_row, last_row = max(0, top // height), min(rows, math.ceil(bottom / height))
    kept = np.arange(columns * rows).reshape(rows, columns)[first_row:last_row, first_column:last_column]
    edges = _find_intervals(jpeg, head.bits_at) if 0 < kept.size < columns * rows else None
    if edges is None or len(edges) != columns * rows + 1:
        return None
    part_left, part_top = first_column * width, first_row * height
    part_width = min(head.width, last_column * width) - part_left
    part_height = min(head.height, last_row * height) - part_top
    cut = _join(jpeg, _resized(jpeg, head, part_width, part_height), edges, kept)
    return JpegPart(cut, part_left, part_top, part_width, part_height, has_rest=False)


def _join(jpeg: bytes, start: bytes, edges: NDArray[np.int64], kept: NDArray[np.int64]) -> bytearray:
    """Put the intervals whose numbers are `kept` (rows, columns) behind a start, their markers in order."""
    code, runs = memoryview(jpeg), zip(edges[kept[:, 0]].tolist(), edges[kept[:, -1] + 1].tolist(), strict=True)
    joined = bytearray().join((start, *[code[begin:end] for begin, end in runs]))
    markers = len(start) + np.cumsum(edges[kept + 1] - edges[kept]) - 1
    bytes_of = np.frombuffer(joined, np.uint8)
    bytes_of[markers] = _FIRST_RESTART + np.arange(kept.size) % _RESTARTS
    bytes_of[-1] = END_OF_IMAGE
    return joined


def _resized(jpeg: bytes, head: _Head, width: int, height: int) -> bytes:
    """Return all that comes before the bits, with another size."""
    size = height.to_bytes(2) + width.to_bytes(2)
    return jpeg[: head.size_at] + size + jpeg[head.size_at + len(size) : head.bits_at]


def _read_head(jpeg: bytes) -> _Head | None:
    """Read what comes before the bits; None if the picture is not coded as one scan of whole units, or is broken."""
    frame, restart_interval = 0, 0
    for marker, start, end in islice(jpeg_segments(jpeg), MAX_PIECES):
        if marker in _FRAMES:
            frame = start
        elif marker == _RESTART_INTERVAL:
            restart_interval = int.from_bytes(jpeg[start + 2 : start + 4])
        elif marker == START_OF_SCAN:
            return _head(jpeg, frame, restart_interval, start, max(end, start + 2)) if frame else None
        elif marker == END_OF_IMAGE or marker in _OTHER_FRAMES:
            return None
    return None


def _head(jpeg: bytes, frame: int, restart_interval: int, scan: int, bits_at: int) -> _Head | None:
    if len(jpeg) <= max(bits_at, frame + 8):
        return None
    height, width, count = struct.unpack_from(">HHB", jpeg, frame + 3)
    samplings = jpeg[frame + 9 : frame + 8 + 3 * count : 3]  # of each component across and down, in half bytes
    if not height or not width or not len(samplings) == count == jpeg[scan + 2]:
        return None
    # The units of a single component are its blocks, whatever its sampling is.
    across, down = (max(s >> 4 for s in samplings), max(s & 15 for s in samplings)) if count > 1 else (1, 1)
    if not across or not down:
        return None
    return _Head(width, height, across * _BLOCK, down * _BLOCK, restart_interval, frame + 3, bits_at)


def _find_intervals(jpeg: bytes, bits_at: int) -> NDArray[np.int64] | None:
    """Return where each restart interval begins and where the picture ends; None if the markers are not in order."""
    codes = np.frombuffer(jpeg, np.uint8, offset=bits_at)
    is_marked = codes[:-1] == _MARK
    if np.count_nonzero(is_marked) * _BYTES_PER_MARK > len(codes):
        return None
    marks = np.flatnonzero(is_marked)
    marks = marks[codes[marks + 1] != _NO_MARKER]
    found = codes[marks + 1]
    ends = np.flatnonzero(found == END_OF_IMAGE)
    if not ends.size:
        return None
    count = int(ends[0])
    if not np.array_equal(found[:count], _FIRST_RESTART + np.arange(count) % _RESTARTS):
        return None
    return bits_at + np.concatenate(([0], marks[: count + 1] + 2))
