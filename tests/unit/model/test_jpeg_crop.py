"""Parts of JPEGs: decoded, they are the pixels of the whole."""

import io
import tracemalloc

import numpy as np
import pytest
import simplejpeg
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from model.jpeg_crop import JpegPart, cut_jpeg
from tests.fakes import encode, noise

EDGE = 2  # pixels from where something was left out, whose colours a decoder smooths with those beside
START_OF_FRAME, RESTART_INTERVAL, START_OF_SCAN, END_OF_IMAGE = b"\xff\xc0", b"\xff\xdd", b"\xff\xda", b"\xff\xd9"

PHOTO = noise(200, 150).resize((203, 149))
CENTRE = (60, 40, 140, 100)


def decoded(jpeg: bytes | bytearray, mode: str = "RGB", *, strict: bool = True) -> np.ndarray:
    pixels: np.ndarray = simplejpeg.decode_jpeg(jpeg, "GRAY" if mode == "L" else mode, strict=strict)
    return pixels


def part_of(jpeg: bytes, needed: tuple[int, int, int, int] = CENTRE) -> JpegPart:
    part = cut_jpeg(jpeg, needed)
    assert part is not None
    return part


restarts: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"restart_marker_blocks": st.integers(1, 30)}),
    st.fixed_dictionaries({"restart_marker_rows": st.integers(1, 3)}),
)


@given(
    size=st.tuples(st.integers(9, 150), st.integers(9, 150)),
    mode=st.sampled_from(["RGB", "L"]),
    subsampling=st.integers(0, 2),
    restart=restarts,
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_its_pixels_are_those_of_the_whole(
    size: tuple[int, int], mode: str, subsampling: int, restart: dict[str, int], corners: tuple[float, ...]
) -> None:
    width, height = size
    jpeg = encode(noise(width, height, mode), "JPEG", subsampling=subsampling, **restart)
    left, right = sorted(int(corner * width) for corner in corners[::2])
    top, bottom = sorted(int(corner * height) for corner in corners[1::2])
    part = cut_jpeg(jpeg, (left - EDGE, top - EDGE, right + EDGE, bottom + EDGE))
    assume(part is not None)
    assert part is not None
    whole, found = decoded(jpeg, mode), decoded(part.jpeg, mode, strict=not part.has_rest)
    assert found.shape[:2] == (part.height, part.width)
    assert found.size < whole.size
    cut = found[top - part.top : bottom - part.top, left - part.left : right - part.left]
    assert np.array_equal(cut, whole[top:bottom, left:right])


def test_whole_intervals_around_the_part_are_left_out() -> None:
    part = part_of(encode(PHOTO, "JPEG", subsampling=0, restart_marker_blocks=2))
    assert (part.left, part.top, part.width, part.height, part.has_rest) == (48, 40, 96, 64, False)


def test_of_rows_between_markers_none_is_cut_apart() -> None:
    part = part_of(encode(PHOTO, "JPEG", subsampling=2, restart_marker_rows=2))
    assert (part.left, part.top, part.width, part.height, part.has_rest) == (0, 32, 203, 96, False)


def test_without_markers_the_picture_ends_below_the_part() -> None:
    part = part_of(encode(PHOTO, "JPEG", subsampling=2))
    assert (part.left, part.top, part.width, part.height, part.has_rest) == (0, 0, 203, 112, True)


def test_the_part_at_the_right_and_the_bottom_keeps_their_odd_sides() -> None:
    part = part_of(encode(PHOTO, "JPEG", subsampling=0, restart_marker_blocks=1), (150, 120, 300, 300))
    assert (part.left + part.width, part.top + part.height) == PHOTO.size


def test_what_follows_the_picture_does_not_matter() -> None:
    jpeg = encode(PHOTO, "JPEG", restart_marker_blocks=1)
    assert part_of(jpeg + encode(PHOTO, "JPEG", restart_marker_rows=1)) == part_of(jpeg)


def test_metadata_stay_where_they_are() -> None:
    thumbnail = encode(noise(), "JPEG", restart_marker_blocks=1)
    jpeg = encode(PHOTO, "JPEG", restart_marker_blocks=1, exif=b"Exif\0\0" + thumbnail, comment=b"\xff\xd9\xff\xc0")
    with Image.open(io.BytesIO(part_of(jpeg).jpeg)) as opened:
        assert opened.info["exif"] == b"Exif\0\0" + thumbnail
        assert opened.size == (part_of(jpeg).width, part_of(jpeg).height)


JPEG = encode(PHOTO, "JPEG", subsampling=0)
MARKED = encode(PHOTO, "JPEG", subsampling=0, restart_marker_blocks=2)
SCAN = MARKED.index(START_OF_SCAN)


@pytest.mark.parametrize(
    ("jpeg", "needed"),
    [
        (JPEG, (0, 0, *PHOTO.size)),
        (MARKED, (0, 0, *PHOTO.size)),
        (MARKED, (500, 500, 600, 600)),
        (JPEG, (0, -20, 10, 0)),
        (encode(PHOTO, "JPEG", progressive=True), CENTRE),
        (encode(PHOTO, "JPEG", restart_marker_blocks=17), CENTRE),
        (JPEG[: len(JPEG) // 2] + b"\xff\xc0" + JPEG[len(JPEG) // 2 :], CENTRE),
        (JPEG.removesuffix(END_OF_IMAGE), CENTRE),
        (MARKED.removesuffix(END_OF_IMAGE), CENTRE),
        (MARKED[: len(MARKED) // 2] + END_OF_IMAGE, CENTRE),
        (MARKED.replace(b"\xff\xd3", b"\xff\xd4", 1), CENTRE),
        (MARKED.replace(b"\xff\xd3", b"\xff\xfe", 1), CENTRE),
        (MARKED[:SCAN] + b"\xff\xc4\xff\xff", CENTRE),
        (MARKED[: SCAN + 2], CENTRE),
        (MARKED[: SCAN + 14], CENTRE),
        (MARKED.replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x08\x01"), CENTRE),
        (MARKED.replace(START_OF_FRAME + b"\x00\x11\x08", START_OF_FRAME + b"\x00\x11\x08\x00\x00"), CENTRE),
        (MARKED.replace(START_OF_FRAME, b"\xff\xc9"), CENTRE),
        (MARKED.replace(START_OF_FRAME, b"\xff\xe5"), CENTRE),
        (MARKED.replace(b"\x01\x11\x00\x02\x11\x01\x03\x11\x01", b"\x01\x00\x00\x02\x00\x01\x03\x00\x01"), CENTRE),
        (b"\xff\xd8", CENTRE),
        (b"", CENTRE),
    ],
    ids=[
        "all of it is needed",
        "all intervals are needed",
        "what is needed lies outside",
        "what is needed lies above",
        "progressive",
        "markers that make no rectangles",
        "a marker among the bits",
        "cut off",
        "cut off, with markers",
        "markers are missing",
        "a marker out of turn",
        "a marker that is none",
        "a segment that does not end",
        "a scan without a head",
        "a scan without bits",
        "a scan of one component of three",
        "no height",
        "arithmetic coding",
        "no frame",
        "units without pixels",
        "nothing but a start",
        "nothing",
    ],
)
def test_what_cannot_be_cut_is_left_as_it_is(jpeg: bytes, needed: tuple[int, int, int, int]) -> None:
    assert cut_jpeg(jpeg, needed) is None


def test_a_file_of_nothing_but_marks_takes_little_memory() -> None:
    hostile = MARKED[: SCAN + 14] + bytes([0xFF]) * 2_000_000 + END_OF_IMAGE
    tracemalloc.start()
    assert cut_jpeg(hostile, CENTRE) is None
    assert tracemalloc.get_traced_memory()[1] < 3 * len(hostile)
    tracemalloc.stop()
