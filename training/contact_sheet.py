"""Pictures of images side by side, so that a person can judge what was said of them.

Pairs that were called duplicates, or single images. Knows nothing of how they are found, nor of parts: what stands
under an image is the caller's.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.errors import InvalidImage
from model.preprocessing import ImageLimits, Preprocessing, prepare_image
from training.duplicates import Pair

PAIRS_LIMIT = 24

_SIDE = 160  # pixels of a picture's longer side
_GAP, _MARGIN, _LINE = 8, 16, 16
_HEAD = 34
_CELL = (2 * _SIDE + _GAP, _LINE + _SIDE + 2 * _LINE)  # a heading, two pictures, two lines under each
_COLUMNS = 3
_TILE_COLUMNS = 6
_PAPER, _INK, _FAINT, _EDGE = "white", "#202020", "#6a6a6a", "#c8c8c8"
# The whole image, squeezed; its own ratio is given back afterwards.
_WHOLE = Preprocessing(
    mode="RGB", height=_SIDE, width=_SIDE, resize="stretch", interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3
)
_LIMITS = ImageLimits(max_image_aspect_ratio=float("inf"))

_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

Tone = Literal["plain", "faint", "right", "wrong"]
_TONES: dict[Tone, str] = {"plain": _INK, "faint": _FAINT, "right": "#2f6db5", "wrong": "#b0500f"}


@dataclass(frozen=True)
class Line:
    """A line of text, and in which tone it is written."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Tile:
    """An image by its index, and what stands under it."""

    index: int
    lines: tuple[Line, ...]


def write_contact_sheet(
    path: Path, pairs: Sequence[Pair], read: Callable[[int], bytes], captions: Callable[[int], str]
) -> None:
    """Draw up to `PAIRS_LIMIT` pairs into a PNG, with their kinds and correlations.

    The pairs are taken from all over the sequence. An image that cannot be read or decoded leaves
    an empty frame.

    Args:
        path: the PNG; what is there is overwritten.
        pairs: the pairs, in the order in which they are to stand.
        read: returns an image's file.
        captions: what stands under an image: its part and name, say, on up to two lines. Lines
            that are too long are shortened in the middle, so that ends of file names stay.

    Raises:
        OSError: the PNG cannot be written.
    """
    chosen = _spread(pairs)
    columns = max(1, min(_COLUMNS, len(chosen)))
    rows = -(-len(chosen) // columns)
    width = 2 * _MARGIN + columns * _CELL[0] + (columns - 1) * 3 * _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _HEAD + rows * (_CELL[1] + 3 * _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _heading(len(chosen), len(pairs)), _INK, _font(15))
    for place, pair in enumerate(chosen):
        row, column = divmod(place, columns)
        corner = (_MARGIN + column * (_CELL[0] + 3 * _GAP), _MARGIN + _HEAD + row * (_CELL[1] + 3 * _GAP))
        _draw_pair(sheet, corner, pair, read, captions)
    sheet.save(path, "PNG")


def write_tiles(path: Path, heading: Sequence[str], tiles: Sequence[Tile], read: Callable[[int], bytes]) -> None:
    """Draw all tiles into a PNG, below a heading of one line or more.

    An image that cannot be read or decoded leaves an empty frame.

    Args:
        path: the PNG; what is there is overwritten.
        heading: what the tiles are; the first line is large.
        tiles: in the order in which they are to stand.
        read: returns an image's file.

    Raises:
        OSError: the PNG cannot be written.
    """
    fonts = [_font(15), *(_font(12) for _ in heading[1:])]
    texts = [_drawable(text) for text in heading]
    columns = max(1, min(_TILE_COLUMNS, len(tiles)))
    lines = max((len(tile.lines) for tile in tiles), default=0)
    cell = (_SIDE, _SIDE + 2 + lines * _LINE)
    top = _MARGIN + _HEAD + len(heading[1:]) * _LINE
    wide = max(
        columns * (cell[0] + 2 * _GAP) - 2 * _GAP, *(round(f.getlength(t)) for f, t in zip(fonts, texts, strict=True))
    )
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (2 * _MARGIN + wide, top + _MARGIN + rows * (cell[1] + 2 * _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (font, text) in enumerate(zip(fonts, texts, strict=True)):
        draw.text((_MARGIN, _MARGIN + number * _LINE + 4 * (number > 0)), text, _FAINT if number else _INK, font)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        left, upper = _MARGIN + column * (cell[0] + 2 * _GAP), top + row * (cell[1] + 2 * _GAP)
        _draw_picture(sheet, (left, upper), tile.index, read)
        for number, line in enumerate(tile.lines):
            where = (left, upper + _SIDE + 2 + number * _LINE)
            draw.text(where, _shortened(line.text, _SIDE, _font(12)), _TONES[line.tone], _font(12))
    sheet.save(path, "PNG")


def whole_picture(data: bytes) -> Image.Image:
    """Decode an image file to the size that it has in a picture: the whole of it, its longer side 160 pixels.

    Raises:
        InvalidImage: as `prepare_image` says.
    """
    prepared = prepare_image(data, _WHOLE, _LIMITS)
    width, height = prepared.facts.width, prepared.facts.height
    scale = _SIDE / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(prepared.pixels).resize(size, Image.Resampling.BICUBIC)


@cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _spread(pairs: Sequence[Pair]) -> list[Pair]:
    places = np.linspace(0, len(pairs) - 1, min(len(pairs), PAIRS_LIMIT)).round().astype(int)
    return [pairs[place] for place in places]


def _heading(shown: int, count: int) -> str:
    return f"{count:,} duplicate pair{'' if count == 1 else 's'}" + (
        f", {shown} of them shown" if shown < count else ""
    )


def _draw_pair(
    sheet: Image.Image,
    corner: tuple[int, int],
    pair: Pair,
    read: Callable[[int], bytes],
    captions: Callable[[int], str],
) -> None:
    draw, font = ImageDraw.Draw(sheet), _font(12)
    left, top = corner
    kind = "exact" if pair.kind == "exact" else f"near, correlation {pair.correlation:.3f}"
    draw.text((left, top - 2), kind, _INK, font)
    for index in (pair.first, pair.second):
        frame = (left, top + _LINE)
        _draw_picture(sheet, frame, index, read)
        for line, text in enumerate(captions(index).splitlines()[:2]):
            where = (left, frame[1] + _SIDE + 2 + line * _LINE)
            draw.text(where, _shortened(text, _SIDE, font), _INK if line == 0 else _FAINT, font)
        left += _SIDE + _GAP


def _draw_picture(sheet: Image.Image, corner: tuple[int, int], index: int, read: Callable[[int], bytes]) -> None:
    """Set an image into the middle of a square frame."""
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    draw.rectangle((left - 1, top - 1, left + _SIDE, top + _SIDE), outline=_EDGE)
    try:
        picture = whole_picture(read(index))
    except (InvalidImage, OSError):
        draw.text((left + _SIDE // 2, top + _SIDE // 2), "cannot be read", _FAINT, _font(12), "mm")
        return
    sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))


def _shortened(text: str, width: int, font: _Font) -> str:
    """Take characters out of the middle until the text is no wider than `width` pixels."""
    text = _drawable(text)
    if font.getlength(text) <= width:
        return text
    kept = min(len(text), width // 2)  # hardly a letter is narrower than 2 pixels
    short = text
    while kept and font.getlength(short) > width:
        kept -= 1
        short = text[: kept // 3] + "..." + text[len(text) - (kept - kept // 3) :]
    return short


def _drawable(text: str) -> str:
    """Keep what Pillow's own font can draw: letters lose their accents, what is left over becomes a question mark."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in plain)
