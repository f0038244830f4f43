"""How an image file is put together, looked at before a decoder is.

A decoder's time and memory do not follow from the number of pixels alone: a JPEG may go over the
same pixels ten thousand times, a TIFF may list millions of strips, any file may have millions of
empty chunks. All that is counted or bounded here, from the bytes. Knows no engine and no HTTP.
"""

import io
import math
import re
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final

from PIL import Image, JpegImagePlugin, TiffImagePlugin

from model.errors import ImageTooLarge, Limit

# What real files have is far below these: progressive JPEGs have up to twenty scans.
# Chunks, segments, blocks and runs, of which Pillow reads each in two to four pieces: half a second of its loops.
MAX_PIECES: Final = 400_000
MAX_COSTLY_PIECES: Final = 100_000  # of a JPEG or PNG, in whose loops it does more with each
MAX_SCANS: Final = 100
MAX_SCANNED_PIXELS: Final = 500_000_000  # pixels by scans: half a second
MAX_STRIPS: Final = 65_536
MAX_EXIF_BLOCKS: Final = 64  # Pillow puts them together one by one

_LONG = 2**22  # bytes; what is shorter cannot hold much EXIF
_JPEG, _PNG, _TIFF = b"\xff\xd8", b"\x89PNG", (b"II", b"MM")
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # markers without a body are left out
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_SEQUENTIAL = (0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xC9, 0xCB, 0xCD, 0xCF)
_STRIP_OFFSETS, _TILE_OFFSETS, _ROWS_PER_STRIP = 273, 324, 278
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1}  # of Pillow's modes; I;16 has 2, all others have 4
# libwebp's two canvases, Pillow's copy of one and its image; a lossless one is decoded beside them.
_WEBP_COPIES = 5


class BoundedFile(io.BytesIO):
    """A file in memory that is read from so often and no more, which bounds every loop of a reader in Python."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._most = self._left = MAX_COSTLY_PIECES if data.startswith((_JPEG, _PNG)) else MAX_PIECES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `BytesIO` does.

        Raises:
            ImageTooLarge: it was read from too often.
        """
        self._left -= 1
        if self._left < 0:
            raise ImageTooLarge(
                f"the image is cut into too many pieces; {self._most} are read",
                Limit("image_pieces", self._most),
            )
        return super().read(size)


def check_file(data: bytes) -> None:
    """Refuse a file whose header alone would take long to read, or much memory.

    Raises:
        ImageTooLarge: it is a TIFF of too many strips, or a JPEG of too many EXIF blocks.
    """
    if data.startswith(_TIFF) and (strips := _tiff_directory(data)[0]) > MAX_STRIPS:
        raise ImageTooLarge(
            f"the TIFF is cut into {strips} strips or tiles; the limit is {MAX_STRIPS}",
            Limit("image_strips", MAX_STRIPS),
        )
    if len(data) > _LONG and data.startswith(_JPEG) and (blocks := _count_exif_blocks(data)) > MAX_EXIF_BLOCKS:
        raise ImageTooLarge(
            f"the JPEG has {blocks} EXIF blocks; the limit is {MAX_EXIF_BLOCKS}",
            Limit("image_exif_blocks", MAX_EXIF_BLOCKS),
        )


def count_scans(jpeg: bytes, enough: int = MAX_SCANS + 1) -> int:
    """Return how many scans of a JPEG's first picture a decoder keeps in memory, but no more than `enough`.

    0 means that it keeps none: there is one scan, which is decoded as it is read.
    """
    scans, components, progressive = 0, 0, False
    for pieces, (marker, start, _) in enumerate(jpeg_segments(jpeg)):
        if pieces == MAX_PIECES:
            return enough
        if marker == END_OF_IMAGE:
            return scans
        if marker == START_OF_SCAN:
            if not scans and not progressive and jpeg[start + 2 : start + 3] == bytes([components]):
                return 0
            scans += 1
            if scans >= enough:
                return scans
        elif marker in _PROGRESSIVE or marker in _SEQUENTIAL:
            progressive = marker in _PROGRESSIVE
            components = jpeg[start + 7] if len(jpeg) > start + 7 else 0
    return scans


def jpeg_segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Give the segments of a JPEG: the code of the marker, where its body begins, and where its body says it ends."""
    at = 2
    while (found := _SEGMENT.search(jpeg, at)) is not None:
        start = found.end()
        at = start + int.from_bytes(jpeg[start : start + 2], "big")
        yield found[1][0], start, at


def decoded_bytes(data: bytes, image: Image.Image) -> int:
    """Return how many bytes are held while an opened image is decoded in full, at its worst."""
    pixels = image.width * image.height
    size = pixels * (2 if image.mode.startswith("I;16") else _BYTES_PER_PIXEL.get(image.mode, 4))
    if image.format == "WEBP":
        return 4 * pixels * _WEBP_COPIES
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return size + coefficient_bytes(data, image)
    if image.format == "TIFF":
        return size + _strip_bytes(image)
    return size


def coefficient_bytes(data: bytes, image: Image.Image) -> int:
    """Return how many bytes libjpeg holds beside the pixels of an opened JPEG of several scans.

    Raises:
        ImageTooLarge: there are too many scans for so many pixels.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 0
    pixels = max(image.width * image.height, 1)
    limit = min(MAX_SCANS, max(MAX_SCANNED_PIXELS // pixels, 1))
    scans = count_scans(data, enough=limit + 1)
    if scans > limit:
        raise ImageTooLarge(
            f"the JPEG goes over its {pixels} pixels more than {limit} times", Limit("image_scans", limit)
        )
    areas = [across * down for _, across, down, *_ in image.layer]
    return 2 * math.ceil(pixels * sum(areas) / max(*areas, 1)) if scans else 0


def has_second_directory(tiff: bytes) -> bool:
    """Tell whether a TIFF holds a second image; what is in it is not looked at."""
    return _tiff_directory(tiff)[1]


def _count_exif_blocks(jpeg: bytes) -> int:
    """Return how many EXIF blocks a JPEG has before its pixels."""
    blocks = 0
    for marker, start, _ in islice(jpeg_segments(jpeg), MAX_COSTLY_PIECES):
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            break
        blocks += jpeg.startswith(b"Exif\0", start + 2)
    return blocks


def _strip_bytes(image: Image.Image) -> int:
    """Return the size of the strip that libtiff decodes beside the image."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or [tile.codec_name for tile in image.tile] != ["libtiff"]:
        return 0
    rows = image.tag_v2.get(_ROWS_PER_STRIP, image.height)
    return image.width * 4 * min(rows if isinstance(rows, int) else image.height, image.height)


def _tiff_directory(tiff: bytes) -> tuple[int, bool]:
    """Return how many strips or tiles the first directory lists, and whether another directory follows."""
    order, big = "<" if tiff.startswith(b"II") else ">", tiff[2:4] in (b"\x2b\x00", b"\x00\x2b")
    offset, count = struct.Struct(order + ("Q" if big else "I")), struct.Struct(order + ("Q" if big else "H"))
    entry = struct.Struct(order + ("HHQ8x" if big else "HHI4x"))
    try:
        (first,) = offset.unpack_from(tiff, 8 if big else 4)
        start = first + count.size
        end = start + entry.size * count.unpack_from(tiff, first)[0]
    except (struct.error, OverflowError):  # an offset beyond the file, or beyond any file
        return 0, False
    there = tiff[start:end]  # shorter where the file ends within the directory, and read all the same
    entries = entry.iter_unpack(there[: len(there) // entry.size * entry.size])
    strips = max((n for tag, _, n in entries if tag in (_STRIP_OFFSETS, _TILE_OFFSETS)), default=0)
    try:
        (following,) = offset.unpack_from(tiff, end)
        return strips, following not in (0, first) and count.unpack_from(tiff, following)[0] > 0
    except (struct.error, OverflowError):  # an offset beyond the file, or beyond any file
        return strips, False
