"""From the bytes of an image file to the uint8 pixels that a network takes.

The one preprocessing path of training's evaluation, serving and export, and the only user
of Pillow's decoders; what an image may cost them is bounded here and in `structure.py`. Which
pixels a version wants is its `Preprocessing` record, stored in its manifest. Normalisation is
not done here: it is the first operation of the network that a version exports. Knows nothing
of engines, files' names or HTTP.

The decode policy, `DECODE_POLICY`:
the content decides the format, never a name; the header's pixel count and ratio of sides are
checked before anything is decoded; the first frame counts; EXIF orientation is applied;
palettes are looked up; transparency is laid over white; CMYK becomes RGB; 16-bit gray is
scaled by its bit depth; 32-bit integers and floats are stretched from their own minimum and
maximum; colour profiles are ignored. JPEGs of three or one channel are decoded by libjpeg-turbo
at the smallest scale that leaves twice the target's short side, everything else by Pillow in
full; one resampling then goes straight from the decoded image to the network's pixels.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.errors import ImageTooLarge, InvalidImage, Limit, UnsupportedFormat
from model.jpeg_crop import Box
from model.native import silence_libtiff
from model.pixel_modes import convert_mode
from model.plain_png import decode_plain_png
from model.reduced_jpeg import decode_reduced, reduced_bytes, scaled, smallest_scale
from model.structure import BoundedFile, check_file, coefficient_bytes, decoded_bytes, has_second_directory

DECODE_POLICY: Final = 1
# Pillow's names. A JPEG that holds several pictures (MPO, from phones) opens as one of JPEG's.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

Pixels = NDArray[np.uint8]
Side = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(gt=0, le=1)]
T = TypeVar("T")

_BYTES_PER_PIXEL = 4  # of a decoded image, gray or not, at the most
_MAX_TEXT_BYTES = 8 * 2**20  # of a PNG, inflated

_REACHES = {"bilinear": 1, "bicubic": 2}  # pixels from its centre, of a kernel that does not shrink
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Orientation tag -> how the stored pixels are turned to stand upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
# Formats that people send and that are not decoded: (offset, magic bytes, name).
_OTHER_FORMATS = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"8BPS", "PSD"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "EPS"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"BLP2", "BLP"),
    (0, b"BLP1", "BLP"),
)


class Preprocessing(BaseModel):
    """What pixels a version's network takes, and how they come from an image.

    `mean` and `std` are per channel on the scale 0 to 1; the exported network applies them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["RGB", "L"]
    height: Side
    width: Side
    resize: Literal["crop", "stretch"]
    short_side: Side | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...]
    std: tuple[Share, ...]
    decode_policy: Literal[1] = DECODE_POLICY

    @model_validator(mode="after")
    def _consistent(self) -> "Preprocessing":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mode {self.mode} wants {self.channels} values in mean and in std")
        if self.resize == "crop" and (self.short_side is None or self.short_side < max(self.height, self.width)):
            raise ValueError("resize 'crop' wants a short_side of at least the height and the width")
        return self

    @property
    def channels(self) -> int:
        """C of (N, H, W, C)."""
        return len(self.mode)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one prepared image."""
        return self.height, self.width, self.channels

    def source_size(self) -> tuple[int, int]:
        """(height, width) that an upright image has at the network's own scale, at the least."""
        return (self.short_side, self.short_side) if self.short_side is not None else (self.height, self.width)

    def source_box(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the part of an upright image that the network sees."""
        if self.short_side is None:
            return 0.0, 0.0, width, height
        scale = min(width, height) / self.short_side
        across, down = min(self.width * scale, width), min(self.height * scale, height)  # rounding may add to them
        left, top = (width - across) / 2, (height - down) / 2
        return left, top, left + across, top + down


@dataclass(frozen=True)
class ImageLimits:
    """What an image's header may announce before anything is decoded."""

    max_image_pixels: int = 50_000_000
    max_image_aspect_ratio: float = 50.0
    max_image_decoded_bytes: int = 400_000_000


@dataclass(frozen=True)
class ImageFacts:
    """What an image was: its upright size in pixels, its format, what was done to its pixels."""

    width: int
    height: int
    format: str
    applied: tuple[str, ...]


@dataclass(frozen=True)
class PreparedImage:
    """Pixels as the network takes them, uint8 (H, W, C), and what the image was."""

    pixels: Pixels
    facts: ImageFacts


def prepare_image(data: bytes, preprocessing: Preprocessing, limits: ImageLimits) -> PreparedImage:
    """Decode an image file and bring it to the network's size.

    Raises:
        InvalidImage: the bytes are empty, not an image, truncated or broken.
        UnsupportedFormat: an image, but not of one of `FORMATS`.
        ImageTooLarge: the header announces more than `limits` allow.
    """
    return _finish(prepare_in_steps(data, preprocessing, limits))


def prepare_in_steps(
    data: bytes, preprocessing: Preprocessing, limits: ImageLimits
) -> Generator[int, None, PreparedImage]:
    """Do what `prepare_image` does, with a stop before each step that takes memory.

    Yields:
        Bytes that the next step holds at its worst, whatever the steps before it held.
    """
    plain = decode_plain_png(data)
    if plain is not None:
        check_size(*plain.size, limits)
        applied = list[str]()
        small = _resample(convert_mode(plain, preprocessing.mode, applied), 1, preprocessing)
        return _prepared(small, preprocessing, ImageFacts(*plain.size, "PNG", tuple(applied)))
    opened = _open(data, limits)
    image_format = opened.format or "unknown"
    # Decoders raise nearly every built-in exception on hostile bytes, also while reading EXIF;
    # whatever they raise, the caller is told that the image is broken.
    try:
        orientation, image, applied = yield from _decode(data, opened, preprocessing, limits)
        width, height = opened.size[::-1] if orientation in _SIDEWAYS else opened.size
        small = _resample(image, orientation, preprocessing)
    except InvalidImage:
        raise
    except Exception as error:
        raise InvalidImage(f"the {image_format} image is broken or truncated: {_reason(error)}") from error
    if orientation in _TURNS:
        applied.append(f"exif_orientation_{orientation}")
    if _has_second_frame(data, opened):
        applied.append("first_frame")
    return _prepared(small, preprocessing, ImageFacts(width, height, image_format, tuple(applied)))


def _prepared(image: Image.Image, preprocessing: Preprocessing, facts: ImageFacts) -> PreparedImage:
    return PreparedImage(np.asarray(image, dtype=np.uint8).reshape(preprocessing.shape), facts)


def decode_whole(data: bytes, limits: ImageLimits) -> Pixels:
    """Decode an image file at its full size: upright RGB, uint8 (H, W, 3).

    Raises:
        InvalidImage: as `prepare_image` says.
    """
    opened = _open(data, limits)
    try:
        orientation, image, _ = _finish(_decode(data, opened, None, limits))
    except InvalidImage:
        raise
    except Exception as error:  # as in `prepare_in_steps`
        raise InvalidImage(f"the image is broken or truncated: {_reason(error)}") from error
    upright = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
    return np.asarray(upright.convert("RGB"), dtype=np.uint8)


@cache
def load_decoders() -> None:
    """Load the decoders of `FORMATS`, so that the first image does not wait for them; set them for hostile files."""
    from PIL import MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  all there are take 0.06 s more

    Image.preinit()  # the other ones
    PngImagePlugin.MAX_TEXT_MEMORY = _MAX_TEXT_BYTES
    silence_libtiff()


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Refuse an image by the size its header announces.

    Raises:
        ImageTooLarge: it has too many pixels, or one side is too long for the other.
    """
    pixels = width * height
    if pixels > limits.max_image_pixels:
        raise ImageTooLarge(
            f"the image has {width} x {height} = {pixels} pixels; the limit is {limits.max_image_pixels}",
            Limit("max_image_pixels", limits.max_image_pixels),
        )
    ratio = max(width, height) / max(min(width, height), 1)
    if ratio > limits.max_image_aspect_ratio:
        raise ImageTooLarge(
            f"the image's sides, {width} x {height}, have a ratio of {ratio:.0f}; "
            f"the limit is {limits.max_image_aspect_ratio:g}",
            Limit("max_image_aspect_ratio", limits.max_image_aspect_ratio),
        )


def _finish(steps: Generator[int, None, T]) -> T:
    """Go through all steps without a stop."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header only, and hold it to the limits."""
    if not data:
        raise InvalidImage("the image is empty: 0 bytes were sent")
    load_decoders()
    check_file(data)
    opened = _read_header(data, limits)
    check_size(*opened.size, limits)
    return opened


def _read_header(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        return Image.open(BoundedFile(data), formats=FORMATS)
    except InvalidImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            f"the image's header announces more pixels than the limit, {limits.max_image_pixels}",
            Limit("max_image_pixels", limits.max_image_pixels),
        ) from error
    except UnidentifiedImageError:
        other = _other_format(data)
        if other is not None:
            raise UnsupportedFormat(
                f"{other} images are not decoded here: send JPEG, PNG, WebP, GIF, BMP or TIFF"
            ) from None
        raise InvalidImage(f"the {len(data)} bytes are not an image that can be read") from None
    except Exception as error:  # as in `prepare_in_steps`: headers are hostile too
        raise InvalidImage(f"the image's header is broken: {_reason(error)}") from error


def _other_format(data: bytes) -> str | None:
    start = data[:256].lstrip().lower()
    if b"<svg" in start:
        return "SVG"
    return next((name for at, magic, name in _OTHER_FORMATS if data[at:].startswith(magic)), None)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _decode(
    data: bytes, opened: Image.Image, preprocessing: Preprocessing | None, limits: ImageLimits
) -> Generator[int, None, tuple[int, Image.Image, list[str]]]:
    """Return the EXIF orientation, the image as stored, in the mode that is wanted or gray, and what was done.

    Without `preprocessing` all of it is wanted, in RGB.

    Yields:
        As `prepare_in_steps`.
    """
    mode = preprocessing.mode if preprocessing is not None else "RGB"
    applied: list[str] = []
    image = None
    if opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L"):
        orientation = _orientation(opened)
        eighths = smallest_scale(opened.size, _least_size(opened, orientation, preprocessing))
        reduced = scaled(opened.size, eighths)
        memory = reduced_bytes(data, reduced) + coefficient_bytes(data, opened)
        yield _check_memory(memory, opened, limits)
        image = _decode_jpeg(data, opened, eighths, _needed_box(reduced, orientation, preprocessing))
    if image is None:
        copies = 1
        if opened.format == "TIFF" and (turned := _orientation(opened)) != 1:
            applied.append(f"exif_orientation_{turned}")  # by Pillow, in load()
            copies = 2
        converted = 0 if opened.mode in (mode, "L") else opened.width * opened.height * _BYTES_PER_PIXEL
        yield _check_memory(copies * decoded_bytes(data, opened) + converted, opened, limits)
        opened.load()
        orientation = _orientation(opened)  # after load(): for a PNG, reading EXIF would load it, and hide a fault
        image = opened
    elif image.size != opened.size:
        applied.append("reduced_decode")
    return orientation, convert_mode(image, mode, applied), applied


def _check_memory(size: int, image: Image.Image, limits: ImageLimits) -> int:
    """Return the bytes that are needed to decode an image if they are not too many."""
    if size > limits.max_image_decoded_bytes:
        raise ImageTooLarge(
            f"the {image.format} image of {image.width} x {image.height} pixels takes {size} bytes to decode; "
            f"the limit is {limits.max_image_decoded_bytes}",
            Limit("max_image_decoded_bytes", limits.max_image_decoded_bytes),
        )
    return size


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or the block is broken."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block does not make the pixels wrong
        return 1
    return value if value in _TURNS else 1


def _least_size(opened: Image.Image, orientation: int, preprocessing: Preprocessing | None) -> tuple[int, int]:
    """Return the (width, height) that an image as it is stored has, at the least, once it is decoded."""
    if preprocessing is None:
        return opened.size
    height, width = preprocessing.source_size()
    return (2 * height, 2 * width) if orientation in _SIDEWAYS else (2 * width, 2 * height)


def _decode_jpeg(data: bytes, opened: Image.Image, eighths: int, needed: Box) -> Image.Image | None:
    """Decode with libjpeg-turbo at a reduced scale, or return None to leave it to Pillow.

    What is not needed may be black. The size is that of the whole all the same: by it Pillow decides whether to
    resample across or down first, and the pixels differ by what is rounded in between.
    """
    gray = opened.mode == "L"
    reduced = decode_reduced(data, gray=gray, size=opened.size, eighths=eighths, needed=needed)
    if reduced is None:
        return None
    image = Image.fromarray(reduced.pixels[..., 0] if gray else reduced.pixels)
    (left, top), size = reduced.corner, reduced.size
    del reduced  # its pixels, before there are those of another image
    return image if image.size == size else image.crop((-left, -top, size[0] - left, size[1] - top))


def _seen(size: tuple[int, int], orientation: int, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Return the box that the network sees of an image as it is stored: left, top, right, bottom.

    It is symmetrical about the centre, so it is computed with the sides that the stored image has.
    """
    width, height = size
    if orientation not in _SIDEWAYS:
        return preprocessing.source_box(width, height)
    top, left, bottom, right = preprocessing.source_box(height, width)
    return left, top, right, bottom


def _target(orientation: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (width, height) that what is seen becomes, before it is turned."""
    width, height = preprocessing.width, preprocessing.height
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def _needed_box(size: tuple[int, int], orientation: int, preprocessing: Preprocessing | None) -> Box:
    """Return the box of the pixels that resampling reads, all where there is no `preprocessing`."""
    if preprocessing is None:
        return 0, 0, *size
    left, top, right, bottom = _seen(size, orientation, preprocessing)
    width, height = _target(orientation, preprocessing)
    reach = _REACHES[preprocessing.interpolation]
    across, down = reach * max(1, (right - left) / width), reach * max(1, (bottom - top) / height)
    return (
        max(0, math.floor(left - across)),
        max(0, math.floor(top - down)),
        min(size[0], math.ceil(right + across)),
        min(size[1], math.ceil(bottom + down)),
    )


def _resample(image: Image.Image, orientation: int, preprocessing: Preprocessing) -> Image.Image:
    """Take the network's part of the image at the network's size and mode, upright, in one resampling.

    The pixels are turned after they have become few.
    """
    left, top, right, bottom = _seen(image.size, orientation, preprocessing)
    target = _target(orientation, preprocessing)
    small, box = image, (left, top, right, bottom)
    if image.size != target or box != (0, 0, *target):
        small = image.resize(target, _RESAMPLING[preprocessing.interpolation], box=box)
    if orientation in _TURNS:
        small = small.transpose(_TURNS[orientation])
    return small if small.mode == preprocessing.mode else small.convert(preprocessing.mode)


def _has_second_frame(data: bytes, image: Image.Image) -> bool:
    """Look for a second frame without decoding it; afterwards the image may be at that frame."""
    try:
        if image.format == "TIFF":  # whose `is_animated` would walk through every frame
            return has_second_directory(data)
        return bool(getattr(image, "is_animated", False))
    except Exception:  # EOFError where there is none; a broken second frame is none either
        return False
