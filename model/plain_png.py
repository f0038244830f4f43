"""Small PNG files of the plain kind, decoded without looking for all that a PNG might hold.

A handwritten digit is one: 28 x 28 gray pixels of 8 bits, and nothing about them. To open it as any image costs four
times as much as to decode it, and as much as a third of a small network. What is not plain, or is damaged in any way,
is left to whoever decodes everything and says what is wrong. Knows no limits but its own.
"""

import struct
import zlib

from PIL import Image

MAX_PIXELS = 2**18  # beyond it, opening costs nothing beside decoding

_START = struct.Struct(
    ">8sI4sIIBBBBBI"
)  # the signature and the first chunk. Source: PNG, third edition, 5.2 and 11.2.1
_HEAD = struct.Struct(">I4s")
_CHECKSUM = struct.Struct(">I")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIRST = 13, b"IHDR"
_AS_THEY_COME = (0, 0, 0)  # compression, filter, no interlacing
_MODES = {(8, 0): "L", (8, 2): "RGB"}  # by bits of a sample, and colour type
_SAYS_NOTHING = {b"gAMA": 4, b"pHYs": 9, b"sRGB": 1}  # of the pixels' values; and the length it has
_MAX_CHUNKS = 100


def decode_plain_png(data: bytes) -> Image.Image | None:
    """Decode a small PNG of 8-bit gray or RGB; None for everything else, be it whole or not."""
    if not data.startswith(_SIGNATURE):
        return None
    try:
        _, length, kind, width, height, bits, colour, *layout, checksum = _START.unpack_from(data)
        mode = _MODES[bits, colour]
        if (length, kind) != _FIRST or tuple(layout) != _AS_THEY_COME or not 0 < width * height <= MAX_PIXELS:
            return None
        if zlib.crc32(data[12:29]) != checksum:
            return None
        pixels = _read_pixels(data)
        return None if pixels is None else Image.frombytes(mode, (width, height), pixels, "zip", mode, 0)
    except (struct.error, KeyError, ValueError):  # too short, of another mode, or not what its header says
        return None


def _read_pixels(data: bytes) -> bytes | None:
    """Return the compressed pixels, if the chunks behind the first are whole and tell of nothing else."""
    at, found = _START.size, list[bytes]()
    for _ in range(_MAX_CHUNKS):
        length, kind = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if zlib.crc32(data[at + 4 : end]) != _CHECKSUM.unpack_from(data, end)[0]:
            return None
        if kind == b"IDAT":
            found.append(data[at + _HEAD.size : end])
        elif kind == b"IEND":
            return b"".join(found)
        elif _SAYS_NOTHING.get(kind) != length or found:
            return None
        at = end + _CHECKSUM.size
    return None
