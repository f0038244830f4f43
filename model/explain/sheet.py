"""A picture that tells of an explanation: the photo, what speaks for the class laid over it, the colours, the words."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.explain.heat_colours import colour_bar
from model.preprocessing import Pixels

_SIDE = 640  # of each picture, at the most; smaller ones are enlarged to half of it
_MARGIN, _LINE, _TEXT_SIZE = 12, 26, 18
_BAR_WIDTH, _BAR_HEIGHT = 160, 12
_WHITE, _BLACK, _GREY = (255, 255, 255), (20, 20, 20), (90, 90, 90)


def draw_sheet(photo: Pixels, painted: Pixels, title: str, note: str) -> bytes:
    """Draw the photo and the painted photo, uint8 (H, W, 3) of one size, side by side under two lines; return a PNG."""
    one, other = (_fit(Image.fromarray(picture)) for picture in (photo, painted))
    font = ImageFont.load_default(_TEXT_SIZE)
    top = 2 * _MARGIN + 2 * _LINE
    wide = max(2 * one.width + 3 * _MARGIN, 2 * _MARGIN + _width(title, font), 2 * _MARGIN + _width(note, font))
    sheet = Image.new("RGB", (wide, top + one.height + _LINE + 2 * _MARGIN), _WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, _BLACK, font)
    draw.text((_MARGIN, _MARGIN + _LINE), note, _GREY, font)
    sheet.paste(one, (_MARGIN, top))
    left, below = 2 * _MARGIN + one.width, top + one.height + _MARGIN
    sheet.paste(other, (left, top))
    bar = Image.fromarray(np.repeat(colour_bar(_BAR_WIDTH)[None], _BAR_HEIGHT, axis=0))
    draw.text((left, below), "nothing", _GREY, font)
    left += _width("nothing", font) + _MARGIN
    sheet.paste(bar, (left, below + (_TEXT_SIZE - _BAR_HEIGHT) // 2 + 3))
    draw.text((left + _BAR_WIDTH + _MARGIN, below), "most", _GREY, font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _fit(image: Image.Image) -> Image.Image:
    """Bring an image to a size that can be looked at; small ones keep their pixels as squares."""
    longest = max(image.size)
    if longest < _SIDE // 2:
        times = _SIDE // 2 // longest
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    if longest > _SIDE:
        size = (max(1, image.width * _SIDE // longest), max(1, image.height * _SIDE // longest))
        return image.resize(size, Image.Resampling.LANCZOS)
    return image


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return round(font.getlength(text))
