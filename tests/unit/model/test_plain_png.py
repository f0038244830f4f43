"""Plain PNG files: decoded to what Pillow decodes them to, or left to it."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from model import preprocessing
from model.errors import ImageTooLarge, InvalidImage
from model.plain_png import MAX_PIXELS, decode_plain_png
from model.preprocessing import ImageLimits, Preprocessing, prepare_image
from tests.fakes import encode, noise

LIMITS = ImageLimits()
DIGITS = Preprocessing(mode="L", height=28, width=28, resize="stretch", mean=(0.5,), std=(0.5,))
COLOURS = Preprocessing(mode="RGB", height=20, width=20, resize="crop", short_side=24, mean=(0.5,) * 3, std=(0.5,) * 3)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    pixels: bytes, *, width: int = 3, height: int = 2, between: bytes = b"", end: bytes = chunk(b"IEND", b"")
) -> bytes:
    """A gray PNG of 8 bits; `pixels` are rows that begin with their filter."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + between + chunk(b"IDAT", zlib.compress(pixels)) + end


ROWS = b"\x00\x01\x02\x03" + b"\x02\x01\x01\x01"  # as it is, and the difference to the row above


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["L", "RGB"]), st.booleans(), st.integers(0, 9))
def test_its_pixels_are_those_that_pillow_decodes(
    width: int, height: int, mode: str, smooth: bool, compress_level: int
) -> None:
    image = noise(width, height, mode)
    if smooth:  # for which an encoder takes other filters
        image = image.resize((2, 2)).resize((width, height))
    data = encode(image, "PNG", compress_level=compress_level)
    found = decode_plain_png(data)
    assert found is not None
    assert (found.mode, found.size) == (mode, (width, height))
    assert np.array_equal(np.asarray(found), np.asarray(image))


@pytest.mark.parametrize("wanted", [DIGITS, COLOURS])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_usual_way_comes_to_the_same(wanted: Preprocessing, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(40, 30, mode), "PNG")
    short = prepare_image(data, wanted, LIMITS)
    monkeypatch.setattr(preprocessing, "decode_plain_png", lambda _: None)
    usual = prepare_image(data, wanted, LIMITS)
    assert np.array_equal(short.pixels, usual.pixels)
    assert short.facts == usual.facts


def with_text(image: Image.Image) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("about", "noise")
    return encode(image, "PNG", pnginfo=info)


@pytest.mark.parametrize(
    "make",
    [
        lambda image: encode(image.convert("P"), "PNG"),
        lambda image: encode(image.convert("1"), "PNG"),
        lambda image: encode(image.convert("RGBA"), "PNG"),
        lambda image: encode(image.convert("LA"), "PNG"),
        lambda image: encode(image.convert("I;16"), "PNG"),
        lambda image: encode(image, "PNG", transparency=3),
        lambda image: encode(image, "PNG", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)]),
        lambda image: encode(image, "PNG", icc_profile=b"a profile"),
        lambda image: encode(image, "JPEG"),
        with_text,
        lambda _: encode(Image.new("L", (MAX_PIXELS + 1, 1)), "PNG"),
        lambda _: b"",
    ],
)
def test_what_is_not_plain_is_left_alone(make: Callable[[Image.Image], bytes]) -> None:
    assert decode_plain_png(make(noise(20, 20, "L"))) is None


def test_what_says_nothing_of_the_pixels_is_passed_over() -> None:
    between = chunk(b"gAMA", bytes(4)) + chunk(b"sRGB", b"\0") + chunk(b"pHYs", bytes(9))
    found = decode_plain_png(png(ROWS, between=between))
    assert found is not None
    assert np.asarray(found).tolist() == [[1, 2, 3], [2, 3, 4]]


@pytest.mark.parametrize(
    "damaged",
    [
        png(ROWS[:-1]),
        png(ROWS[:4] + b"\x07\x01\x01\x01"),
        png(ROWS, width=0),
        png(ROWS, between=chunk(b"gAMA", bytes(3))),
        png(ROWS, end=b""),
        png(ROWS, end=chunk(b"gAMA", bytes(4)) + chunk(b"IEND", b"")),
        png(ROWS, between=chunk(b"tIME", bytes(7)) * 200),
    ],
)
def test_what_is_not_as_it_should_be_is_left_alone(damaged: bytes) -> None:
    assert decode_plain_png(damaged) is None


@given(st.data())
def test_a_file_with_a_byte_changed_or_cut_short_is_left_alone(data: st.DataObject) -> None:
    whole = encode(noise(9, 7, "L"), "PNG")
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([*whole[:place], whole[place] ^ data.draw(st.integers(1, 255)), *whole[place + 1 :]])
    assert decode_plain_png(changed) is None
    assert decode_plain_png(whole[:place]) is None


def test_what_it_leaves_alone_is_refused_with_a_reason() -> None:
    with pytest.raises(InvalidImage, match="PNG image is broken or truncated"):
        prepare_image(png(ROWS[:-1]), DIGITS, LIMITS)


def test_limits_hold_for_plain_files_too() -> None:
    data = encode(noise(60, 2, "L"), "PNG")
    with pytest.raises(ImageTooLarge, match="ratio of 30; the limit is 20"):
        prepare_image(data, DIGITS, ImageLimits(max_image_aspect_ratio=20))
    with pytest.raises(ImageTooLarge, match="60 x 2 = 120 pixels; the limit is 100"):
        prepare_image(data, DIGITS, ImageLimits(max_image_pixels=100))


def test_no_more_is_inflated_than_the_header_announces() -> None:
    bomb = png(ROWS + bytes(50_000_000))
    found = decode_plain_png(bomb)
    reference = Image.open(io.BytesIO(bomb))
    assert found is None or np.array_equal(np.asarray(found), np.asarray(reference))
