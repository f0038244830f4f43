"""Leaving out what a network does not see of a JPEG spares time, and changes no pixel."""

import io
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model import reduced_jpeg
from model.errors import InvalidImage
from model.jpeg_crop import JpegPart
from model.preprocessing import ImageLimits, PreparedImage, Preprocessing, prepare_image, prepare_in_steps
from model.reduced_jpeg import reduced_bytes, scaled, smallest_scale
from tests.fakes import encode, noise

LIMITS = ImageLimits()
CENTRE = Preprocessing(mode="RGB", height=24, width=24, resize="crop", short_side=32, mean=(0,) * 3, std=(1,) * 3)


@contextmanager
def cutting(*, from_bytes: float) -> Iterator[list[int]]:
    """Cut files from so many bytes on; gives the sizes of what is decoded."""
    decoded = list[int]()
    decode = simplejpeg.decode_jpeg

    def spy(jpeg: bytes, **options: object) -> np.ndarray:
        decoded.append(len(jpeg))
        pixels: np.ndarray = decode(jpeg, **options)
        return pixels

    with mock.patch.object(reduced_jpeg, "_LONG", from_bytes), mock.patch.object(simplejpeg, "decode_jpeg", spy):
        yield decoded


def same(first: PreparedImage, second: PreparedImage) -> bool:
    return first.facts == second.facts and np.array_equal(first.pixels, second.pixels)


preprocessings = st.builds(
    lambda mode, height, width, resize, rim, interpolation: Preprocessing(
        mode=mode,
        height=height,
        width=width,
        resize=resize,
        short_side=max(height, width) + rim if resize == "crop" else None,
        interpolation=interpolation,
        mean=(0,) * len(mode),
        std=(1,) * len(mode),
    ),
    st.sampled_from(["RGB", "L"]),
    st.integers(8, 40),
    st.integers(8, 40),
    st.sampled_from(["crop", "crop", "stretch"]),
    st.integers(0, 12),
    st.sampled_from(["bilinear", "bicubic"]),
)
options = st.fixed_dictionaries(
    {"subsampling": st.integers(0, 2), "quality": st.integers(40, 95)},
    optional={"restart_marker_blocks": st.integers(1, 8), "restart_marker_rows": st.integers(1, 2)},
)


@given(
    size=st.tuples(st.integers(20, 400), st.integers(20, 400)),
    mode=st.sampled_from(["RGB", "L"]),
    orientation=st.integers(1, 8),
    options=options,
    preprocessing=preprocessings,
)
def test_every_pixel_is_what_decoding_all_gives(
    size: tuple[int, int], mode: str, orientation: int, options: dict[str, int], preprocessing: Preprocessing
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = encode(noise(*size, mode), "JPEG", exif=exif, **options)
    with cutting(from_bytes=np.inf):
        whole = prepare_image(jpeg, preprocessing, LIMITS)
    with cutting(from_bytes=0) as decoded:
        assert same(prepare_image(jpeg, preprocessing, LIMITS), whole)
    assert len(decoded) == 1


@pytest.mark.parametrize("from_bytes", [0, np.inf])
@pytest.mark.parametrize("layout", ["411", "440", "441"])
def test_rare_layouts_of_colours_are_decoded(layout: str, from_bytes: float) -> None:
    pixels = np.asarray(noise(8, 8).resize((256, 256), Image.Resampling.BICUBIC))
    jpeg = simplejpeg.encode_jpeg(pixels, 95, colorsubsampling="411" if layout == "441" else layout)
    if layout == "441":  # as many units of code as in 4:1:1, in another order
        jpeg = jpeg.replace(b"\x01\x41\x00", b"\x01\x14\x00", 1)
    with Image.open(io.BytesIO(jpeg)) as opened:
        expected = prepare_image(encode(opened.convert("RGB"), "BMP"), CENTRE, LIMITS).pixels
    with cutting(from_bytes=from_bytes):
        assert np.abs(prepare_image(jpeg, CENTRE, LIMITS).pixels.astype(int) - expected).mean() < 8


def test_the_scale_is_the_decoder_s() -> None:
    for size in ((3264, 2448), (613, 401), (97, 800), (8, 8), (1, 50), (520, 519)):
        jpeg = encode(noise(4, 4).resize(size), "JPEG")
        for least in ((512, 512), (65, 300), (100, 50), (9, 9), (4000, 1)):
            height, width, *_ = simplejpeg.decode_jpeg_header(jpeg, min_width=least[0], min_height=least[1])
            assert scaled(size, smallest_scale(size, least)) == (width, height)


def test_a_whole_photo_of_48_megapixels_is_within_the_limits() -> None:
    assert reduced_bytes(bytes(20_000_000), (8064, 6048)) < LIMITS.max_image_decoded_bytes


def test_memory_is_no_more_than_was_told() -> None:
    size = (4000, 3000)
    jpeg = encode(noise(400, 300).resize(size), "JPEG", quality=95, restart_marker_blocks=1)
    assert len(jpeg) > 2**17
    (told,) = prepare_in_steps(jpeg, CENTRE, LIMITS)
    tracemalloc.start()
    prepare_image(jpeg, CENTRE, LIMITS)
    assert tracemalloc.get_traced_memory()[1] < told + 200_000
    tracemalloc.stop()


def test_real_photos_are_cut_and_keep_their_pixels(data: Path) -> None:
    shares = {}
    for path in sorted((data / "phone").glob("*.jpg")):
        jpeg = path.read_bytes()
        with cutting(from_bytes=np.inf):
            whole = prepare_image(jpeg, CENTRE, LIMITS)
        with cutting(from_bytes=2**17) as decoded:
            assert same(prepare_image(jpeg, CENTRE, LIMITS), whole)
        shares[path.stem] = decoded[0] / len(jpeg)
    assert shares["samsung_galaxy_s2"] < 0.7  # markers after every four units
    assert shares["samsung_galaxy_s9_plus"] < 0.98  # after every row


@pytest.mark.parametrize("restart", [{}, {"restart_marker_blocks": 2}, {"restart_marker_rows": 1}])
def test_a_large_jpeg_that_was_cut_off_is_refused(restart: dict[str, int]) -> None:
    jpeg = encode(noise(800, 600), "JPEG", quality=95, **restart)
    assert len(jpeg) > 2**17
    with cutting(from_bytes=2**17) as decoded:
        prepare_image(jpeg, CENTRE, LIMITS)
        assert len(decoded) == 1
        assert decoded[0] < len(jpeg) or not restart
        for length in (len(jpeg) // 2, len(jpeg) * 9 // 10, len(jpeg) - 2):
            with pytest.raises(InvalidImage, match="broken or truncated"):
                prepare_image(jpeg[:length], CENTRE, LIMITS)


def verdict(jpeg: bytes, *, from_bytes: float) -> str:
    with cutting(from_bytes=from_bytes):
        try:
            prepare_image(jpeg, CENTRE, LIMITS)
        except InvalidImage as error:
            return f"{type(error).__name__}: {error}"
    return "decoded"


@pytest.mark.parametrize("restart", [{}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}])
def test_a_damaged_file_is_refused_if_it_is_when_all_of_it_is_decoded(restart: dict[str, int]) -> None:
    jpeg = encode(noise(360, 240), "JPEG", **restart)
    chance = random.Random(7)
    verdicts = list[str]()
    for _ in range(100):
        damaged = bytearray(jpeg)
        at = chance.randrange(2, len(jpeg))
        damaged[at : at + chance.randrange(40)] = chance.choice(
            [b"", b"\xff\xd9", b"\xff\xc0", b"\xff\xd3", b"\xff\xda", b"\xff\xff", chance.randbytes(30)]
        )
        verdicts.append(verdict(bytes(damaged), from_bytes=0))
        assert verdicts[-1] == verdict(bytes(damaged), from_bytes=np.inf)
    assert 10 < verdicts.count("decoded") < 90


def test_small_files_are_decoded_as_they_are() -> None:
    jpeg = encode(noise(400, 300), "JPEG", restart_marker_blocks=1)
    with cutting(from_bytes=2**17) as decoded:
        prepare_image(jpeg, CENTRE, LIMITS)
    assert decoded == [len(jpeg)]


def test_where_the_part_cannot_be_decoded_the_whole_is() -> None:
    jpeg = encode(noise(400, 300), "JPEG", restart_marker_blocks=1)
    with cutting(from_bytes=np.inf):
        whole = prepare_image(jpeg, CENTRE, LIMITS)
    with cutting(from_bytes=0) as decoded, mock.patch.object(reduced_jpeg, "cut_jpeg", broken_part):
        assert same(prepare_image(jpeg, CENTRE, LIMITS), whole)
    assert decoded[1:] == [len(jpeg)]


def broken_part(jpeg: bytes, needed: tuple[int, int, int, int]) -> object:
    """A part that holds less than it says."""
    return JpegPart(encode(noise(16, 16), "JPEG"), 0, 0, 200, 200, has_rest=False)
