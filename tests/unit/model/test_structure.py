"""Files that are small, or announce little, and would cost a decoder much."""

import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from model.errors import ImageTooLarge, InvalidImage, UnsupportedFormat
from model.preprocessing import ImageLimits, Preprocessing, decode_whole, prepare_image, prepare_in_steps
from model.structure import count_scans
from tests.fakes import encode, noise

NETWORK = Preprocessing(mode="RGB", height=30, width=40, resize="stretch", mean=(0, 0, 0), std=(1, 1, 1))
GRAY = Preprocessing(mode="L", height=30, width=40, resize="stretch", mean=(0,), std=(1,))
JPEG = encode(noise(64, 64), "JPEG")
MANY = 2_000_000


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*before_pixels: bytes, after_pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(72)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before_pixels) + pixels + after_pixels + chunk(b"IEND")


def tiff(*entries: tuple[int, int, int, int], tail: bytes = b"", count: int | None = None) -> bytes:
    usual = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    every = sorted([*usual, *entries])
    directory = b"".join(struct.pack("<HHII", *entry) for entry in every)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count or len(every)) + directory + tail


def gif(*blocks: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"".join(blocks)


def bmp(runs: bytes, side: int = 7000) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(1024) + runs


def repeated_scans(count: int, side: int = 64) -> bytes:
    progressive = encode(Image.new("L", (side, side), 99), "JPEG", progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    return progressive[:-2] + last * count + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (JPEG[:2] + b"\xff\xe5\0\2" * MANY + JPEG[2:], "image_pieces"),
        (JPEG[:2] + b"\xff" * MANY + JPEG[2:], "image_pieces"),
        (JPEG[:2] + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 100 + JPEG[2:], "image_exif_blocks"),
        (repeated_scans(200), "image_scans"),
        (repeated_scans(30, side=4500), "image_scans"),
        (png(chunk(b"abCd") * (MANY // 4)), "image_pieces"),
        (png(after_pixels=chunk(b"abCd") * (MANY // 4)), "image_pieces"),
        (png(chunk(b"IDAT") * (MANY // 4)), "image_pieces"),
        (gif(b"!\xfe\1a\0" * MANY), "image_pieces"),
        (gif(b"\1" * MANY), "image_pieces"),
        (bmp(b"\1\5" * MANY), "image_pieces"),
        (bmp(b"\0\2\0\0" * MANY), "image_pieces"),
        (tiff((273, 4, MANY, 300), (279, 4, MANY, 300), tail=bytes(4 * MANY + 500)), "image_strips"),
        (tiff((324, 4, MANY, 300), tail=bytes(4 * MANY + 500)), "image_strips"),
        (tiff((273, 4, MANY, 8), count=60_000), "image_strips"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_take_long_for_its_size_is_refused_soon(data: bytes, limit: str) -> None:
    started = time.process_time()  # a machine that has other work does not count
    with pytest.raises(ImageTooLarge, match=r"the limit is|are read|more than") as caught:
        prepare_image(data, NETWORK, ImageLimits())
    assert time.process_time() - started < 1
    assert caught.value.limit.name == limit


@pytest.mark.parametrize("after", [b"\x00", b"\xd0"])
def test_a_run_of_fill_bytes_is_passed_over_soon(after: bytes) -> None:
    progressive = encode(noise(64, 64), "JPEG", progressive=True)
    started = time.process_time()
    assert count_scans(progressive[:-2] + b"\xff" * 10**6 + after + progressive[-2:]) == 10
    with suppress(InvalidImage):
        prepare_image(JPEG[:2] + b"\xff" * 10**6 + after + JPEG[2:], NETWORK, ImageLimits())
    assert time.process_time() - started < 1


def test_a_png_s_text_is_not_inflated_without_bound() -> None:
    text = b"\0\0" + zlib.compress(bytes(10**6))
    with pytest.raises(InvalidImage, match="text chunks"):
        prepare_image(png(*(chunk(b"zTXt", b"%d" % n + text) for n in range(20))), NETWORK, ImageLimits())
    prepare_image(png(*(chunk(b"zTXt", b"%d" % n + text) for n in range(3))), NETWORK, ImageLimits())


def test_real_progressive_jpegs_are_far_from_the_bound() -> None:
    assert count_scans(JPEG) == 0
    assert count_scans(encode(noise(64, 64), "JPEG", progressive=True)) == 10
    assert count_scans(encode(noise(64, 64, "L"), "JPEG", progressive=True)) == 6
    big = encode(Image.new("RGB", (4000, 3000)), "JPEG", progressive=True)
    assert prepare_image(big, NETWORK, ImageLimits()).facts.width == 4000


def test_scans_of_a_thumbnail_or_behind_the_end_do_not_count() -> None:
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(JPEG) + 2) + JPEG
    data = JPEG[:2] + thumbnail + encode(noise(64, 64), "JPEG", progressive=True)[2:] + repeated_scans(200)
    assert count_scans(data) == 10
    assert prepare_image(data, NETWORK, ImageLimits()).facts.width == 64


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {}),
        ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {}),
    ],
)
def test_memory_is_bounded_from_the_header(image_format: str, mode: str, options: dict[str, object]) -> None:
    data = encode(Image.new(mode, (1000, 800)), image_format, **options)
    with pytest.raises(ImageTooLarge, match=f"{image_format} image of 1000 x 800 .* the limit is 4000000") as caught:
        prepare_image(data, NETWORK, ImageLimits(max_image_decoded_bytes=4_000_000))
    assert (caught.value.limit.name, caught.value.limit.value) == ("max_image_decoded_bytes", 4_000_000)
    prepare_image(data, NETWORK, ImageLimits(max_image_decoded_bytes=20_000_000))


def test_what_a_step_will_hold_is_told_before_it_is_held() -> None:
    pixels = 2000 * 1500
    photo = Image.new("RGB", (2000, 1500))
    assert list(prepare_in_steps(encode(photo), NETWORK, ImageLimits())) == [4 * pixels]
    (reduced,) = prepare_in_steps(encode(photo, "JPEG"), NETWORK, ImageLimits())
    assert reduced <= pixels / 7
    (progressive,) = prepare_in_steps(encode(photo, "JPEG", progressive=True), NETWORK, ImageLimits())
    assert progressive == reduced + 3 * pixels  # 4:2:0: 1.5 coefficients a pixel, of two bytes
    steps = prepare_in_steps(encode(photo, "JPEG", quality=95)[:-400], NETWORK, ImageLimits())
    assert (next(steps), next(steps)) == (reduced, 4 * pixels)  # what is broken is looked at by Pillow, in full
    with pytest.raises(InvalidImage, match="truncated"):
        next(steps)


def test_a_tiff_s_second_directory_is_not_read() -> None:
    first = encode(Image.new("L", (8, 8)), "TIFF")
    at = struct.unpack_from("<I", first, 4)[0]
    link = at + 2 + 12 * struct.unpack_from("<H", first, at)[0]
    several = first[:link] + struct.pack("<I", len(first)) + first[link + 4 :] + b"\xff\xff" + b"\1" * 100
    assert prepare_image(several, NETWORK, ImageLimits()).facts.applied[-1] == "first_frame"
    looped = first[:link] + struct.pack("<I", at) + first[link + 4 :]
    beyond = first[:link] + struct.pack("<I", 2**31) + first[link + 4 :]
    for data in (looped, beyond):
        assert "first_frame" not in prepare_image(data, NETWORK, ImageLimits()).facts.applied


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 2**62, 0, 17])
def test_a_bigtiff_s_directory_may_be_anywhere(offset: int) -> None:
    with pytest.raises(InvalidImage):
        prepare_image(b"II\x2b\0\x08\0\0\0" + struct.pack("<Q", offset) + bytes(9), NETWORK, ImageLimits())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16", "F", "1"])
@pytest.mark.parametrize("network", [NETWORK, GRAY], ids=["RGB", "L"])
def test_conversion_in_bands_gives_the_pixels_of_conversion_at_once(
    mode: str, network: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (130, 110), dtype=np.uint16)
    image = {
        "I;16": lambda: Image.fromarray(values),
        "F": lambda: Image.fromarray(values.astype(np.float32)),
        "P": lambda: noise(110, 130).quantize(),
        "1": lambda: noise(110, 130).convert("1"),
    }.get(mode, lambda: noise(110, 130, mode))()
    data = encode(image, "TIFF" if mode in ("CMYK", "F") else "PNG")
    at_once = prepare_image(data, network, ImageLimits())
    whole = decode_whole(data, ImageLimits())
    monkeypatch.setattr("model.pixel_modes._PIXELS_AT_A_TIME", 1000)
    in_bands = prepare_image(data, network, ImageLimits())
    assert np.array_equal(in_bands.pixels, at_once.pixels)
    assert in_bands.facts == at_once.facts
    assert np.array_equal(decode_whole(data, ImageLimits()), whole)


def test_a_format_that_is_not_decoded_is_named_all_the_same() -> None:
    with pytest.raises(UnsupportedFormat, match="HEIC"):
        prepare_image(b"\0\0\0\x18ftypheic" + bytes(50), NETWORK, ImageLimits())
