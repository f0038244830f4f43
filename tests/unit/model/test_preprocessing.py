import csv
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedFormat
from model.preprocessing import ImageLimits, Preprocessing, prepare_image
from tests.fakes import encode, encode_frames, noise
from training.imagenet import PREPROCESSING as IMAGENET

LIMITS = ImageLimits()
WHOLE = Preprocessing(mode="RGB", height=30, width=40, resize="stretch", mean=(0, 0, 0), std=(1, 1, 1))
GRAY = Preprocessing(mode="L", height=30, width=40, resize="stretch", mean=(0,), std=(1,))


def pixels_of(data: bytes, preprocessing: Preprocessing = WHOLE) -> np.ndarray:
    return prepare_image(data, preprocessing, LIMITS).pixels


def applied_to(data: bytes, preprocessing: Preprocessing = WHOLE) -> tuple[str, ...]:
    return prepare_image(data, preprocessing, LIMITS).facts.applied


def test_an_image_of_the_network_s_size_is_taken_as_it_is() -> None:
    image = noise(40, 30)
    prepared = prepare_image(encode(image), WHOLE, LIMITS)
    assert np.array_equal(prepared.pixels, np.asarray(image))
    assert (prepared.facts.width, prepared.facts.height, prepared.facts.format) == (40, 30, "PNG")
    assert prepared.facts.applied == ()


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_the_content_tells_the_format(image_format: str) -> None:
    assert prepare_image(encode(noise(), image_format), WHOLE, LIMITS).facts.format == image_format


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_stands_upright(orientation: int, image_format: str, mode: str) -> None:
    shape = Preprocessing(
        mode=mode, height=16, width=24, resize="crop", short_side=32, mean=(0,) * len(mode), std=(1,) * len(mode)
    )
    upright = noise(6, 4).resize((120, 80), Image.Resampling.BICUBIC)
    turn_back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn_back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {}
    if image_format == "WEBP":
        options = {"lossless": True}
    prepared = prepare_image(encode(stored, image_format, exif=exif, **options), shape, LIMITS)
    expected = pixels_of(encode(upright), shape)
    assert np.abs(prepared.pixels.astype(int) - expected).max() <= 12
    assert np.abs(prepared.pixels.astype(int) - expected).mean() <= 1
    assert (prepared.facts.width, prepared.facts.height) == (120, 80)
    assert (f"exif_orientation_{orientation}" in prepared.facts.applied) == (orientation > 1)


@pytest.mark.parametrize("side", [30, 167, 224])
def test_a_crop_of_the_whole_short_side_fits_images_of_every_size(side: int) -> None:
    shape = Preprocessing(mode="L", height=side, width=side, resize="crop", short_side=side, mean=(0,), std=(1,))
    for width in range(8, 1500):
        left, top, right, bottom = shape.source_box(width, 1501)
        assert 0 <= left <= right <= width
        assert 0 <= top <= bottom <= 1501
    broken = next(width for width in range(8, 1500) if side * (width / side) > width)  # by rounding
    assert pixels_of(encode(noise(broken, broken, "L")), shape).shape == shape.shape


def test_the_crop_is_the_centre_at_the_stated_scale() -> None:
    shape = Preprocessing(mode="RGB", height=20, width=20, resize="crop", short_side=30, mean=(0,) * 3, std=(1,) * 3)
    image = Image.new("RGB", (90, 60), "red")
    image.paste("blue", (25, 10, 65, 50))  # the centre of 40 x 40: two thirds of the short side
    pixels = pixels_of(encode(image), shape)
    assert (pixels[2:-2, 2:-2] == (0, 0, 255)).all()  # the resampling of the rim reaches beyond the crop
    assert np.abs(pixels[0, 0].astype(int) - (0, 0, 255)).max() < 60


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (40, 30), (10, 20, 30, 0))
    half = Image.new("RGBA", (40, 30), (0, 0, 0, 128))
    assert (pixels_of(encode(clear)) == 255).all()
    assert np.abs(pixels_of(encode(half)).astype(int) - 127).max() <= 1
    assert applied_to(encode(half)) == ("alpha_over_white",)


def test_transparency_of_a_palette_is_laid_over_white() -> None:
    image = Image.new("P", (40, 30), 3)
    image.putpalette([0, 0, 0] * 4)
    assert (pixels_of(encode(image, "PNG", transparency=3)) == 255).all()


def test_sixteen_bit_gray_keeps_its_ramp() -> None:
    ramp = np.linspace(0, 65535, 40, dtype=np.uint16)[None, :].repeat(30, axis=0)
    pixels = pixels_of(encode(Image.fromarray(ramp)), GRAY)[0, :, 0]
    assert np.abs(pixels.astype(int) - np.linspace(0, 255, 40)).max() <= 1


def test_floats_are_stretched_from_their_own_range() -> None:
    ramp = np.linspace(-3, 5, 40, dtype=np.float32)[None, :].repeat(30, axis=0)
    data = encode(Image.fromarray(ramp), "TIFF")
    assert applied_to(data, GRAY) == ("stretched_range",)
    assert (pixels_of(data, GRAY)[0, 0, 0], pixels_of(data, GRAY)[0, -1, 0]) == (0, 255)


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (40, 30), (255, 0, 0, 0))
    red, green, blue = pixels_of(encode(cyan, "JPEG", quality=95))[0, 0].astype(int)
    assert red < 60
    assert min(green, blue) > 150


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime")]
    for image_format in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encode_frames(frames, image_format)
        assert applied_to(data)[-1] == "first_frame"
        assert np.abs(pixels_of(data)[0, 0].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("image_format", ["TIFF", "MPO", "GIF", "WEBP"])
def test_the_size_that_is_told_is_the_first_frame_s(image_format: str) -> None:
    first, second = noise(120, 90), noise(60, 50)
    if image_format in ("GIF", "WEBP"):
        second = noise(120, 90, seed=1)
    facts = prepare_image(encode_frames([first, second], image_format), WHOLE, LIMITS).facts
    assert (facts.width, facts.height, facts.applied[-1]) == (120, 90, "first_frame")


def test_a_second_frame_is_never_composed() -> None:
    """A GIF's later frame may be as large as it likes: it is not looked at."""
    data = bytearray(encode_frames([noise(10, 10), noise(10, 10, seed=1)], "GIF"))
    at = data.rindex(b"\x2c\x00\x00\x00\x00\x0a\x00\x0a\x00")  # the second image descriptor: its size is 10 x 10
    data[at + 5 : at + 9] = struct.pack("<HH", 9400, 9400)
    facts = prepare_image(bytes(data), WHOLE, LIMITS).facts
    assert (facts.width, facts.height) == (10, 10)


def test_big_jpegs_are_decoded_small_and_look_the_same() -> None:
    big = noise(8, 6).resize((3200, 2400), Image.Resampling.BICUBIC)
    data = encode(big, "JPEG", quality=95)
    full = pixels_of(encode(big), IMAGENET)
    reduced = prepare_image(data, IMAGENET, LIMITS)
    assert reduced.facts.applied == ("reduced_decode",)
    assert (reduced.facts.width, reduced.facts.height) == (3200, 2400)
    assert np.abs(reduced.pixels.astype(int) - full).mean() < 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"\x00" * 100, "not an image"),
        (b"hello", "not an image"),
        (encode(noise(200, 200))[:5000], "broken or truncated"),
        (encode(noise(200, 200), "JPEG")[:5000], "broken or truncated"),
        (encode(noise(200, 200), "WEBP")[:5000], "broken"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        prepare_image(data, WHOLE, LIMITS)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x00\x00\x00\x18ftypheic....", "HEIC"),
        (b"\x00\x00\x00\x18ftypavif....", "AVIF"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\x00\x01", "PSD"),
    ],
)
def test_formats_that_are_not_decoded_are_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"{name} images are not decoded here: send JPEG"):
        prepare_image(data, WHOLE, LIMITS)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header announces more than its few bytes hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_100, 10_000, 13_000, 60_000])
def test_the_header_s_pixels_are_bounded_before_decoding(side: int) -> None:
    with pytest.raises(ImageTooLarge, match="the limit") as caught:
        prepare_image(bomb(side, side), WHOLE, LIMITS)
    assert (caught.value.limit.name, caught.value.limit.value) == ("max_image_pixels", 50_000_000)


def test_the_ratio_of_the_sides_is_bounded() -> None:
    with pytest.raises(ImageTooLarge, match="ratio of 100; the limit is 50") as caught:
        prepare_image(encode(Image.new("L", (400, 4))), WHOLE, LIMITS)
    assert caught.value.limit.name == "max_image_aspect_ratio"


def test_a_record_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="short_side"):
        Preprocessing(mode="L", height=20, width=20, resize="crop", short_side=10, mean=(0,), std=(1,))
    with pytest.raises(ValueError, match="3 values"):
        Preprocessing(mode="RGB", height=20, width=20, resize="stretch", mean=(0,), std=(1,))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's, about the fuzzed files
def test_hostile_files_are_taken_or_refused_as_listed(data: Path) -> None:
    wrong = []
    with (data / "nasty" / "manifest.csv").open() as manifest:
        for row in csv.DictReader(manifest):
            try:
                prepare_image((data / "nasty" / row["file"]).read_bytes(), IMAGENET, LIMITS)
                found = "accept"
            except ModelError:
                found = "reject"
            if found != row["expected"]:
                wrong.append((row["file"], found))
    assert wrong == []


@pytest.mark.parametrize("scene", ["landscape", "portrait"])
def test_real_photos_of_every_orientation_stand_upright(scene: str, data: Path) -> None:
    folder = data / "exif-orientation"
    with (folder / "manifest.csv").open() as manifest:
        rows = [row for row in csv.DictReader(manifest) if row["file"].startswith(scene)]
    prepared = [prepare_image((folder / row["file"]).read_bytes(), IMAGENET, LIMITS) for row in rows]
    for row, image in zip(rows, prepared, strict=True):
        assert (image.facts.width, image.facts.height) == (int(row["upright_width"]), int(row["upright_height"]))
        assert np.abs(image.pixels.astype(int) - prepared[1].pixels).mean() < 20  # turned otherwise: over 60


def test_the_fast_path_agrees_with_pillow_on_real_photos(data: Path) -> None:
    """Reduced decoding stays close to what Pillow gives from the whole photo, resampled once."""
    differences = []
    for path in sorted((data / "imagenet-sample").glob("*.JPEG"))[::20]:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as photo:
            png = encode(photo.convert("RGB"))
            if photo.getexif().get(0x0112, 1) not in (0, 1):
                continue
        differences.append(np.abs(pixels_of(content, IMAGENET).astype(int) - pixels_of(png, IMAGENET)).mean())
    assert len(differences) > 20
    assert max(differences) < 2
    assert np.mean(differences) < 0.2
