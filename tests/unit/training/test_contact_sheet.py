from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import encode, noise
from training.contact_sheet import PAIRS_LIMIT, write_contact_sheet
from training.duplicates import Pair


def sheet(path: Path, pairs: list[Pair], files: list[bytes], caption: str = "train\nshop/cat.png") -> Image.Image:
    write_contact_sheet(path, pairs, files.__getitem__, lambda _: caption)
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
    return image


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()}


def test_both_images_of_a_pair_are_shown_in_their_own_shape(tmp_path: Path) -> None:
    files = [encode(Image.new("RGB", (400, 200), "#ff0000")), encode(Image.new("RGB", (30, 60), "#0000ff"))]
    pixels = np.asarray(sheet(tmp_path / "pairs.png", [Pair(0, 1, "near", 0.97)], files)).astype(int)
    red = np.argwhere((pixels == (255, 0, 0)).all(axis=-1))
    blue = np.argwhere((pixels == (0, 0, 255)).all(axis=-1))
    assert np.ptp(red, axis=0).tolist() == [79, 159]
    assert np.ptp(blue, axis=0).tolist() == [159, 79]
    assert red[:, 1].max() < blue[:, 1].min()


def test_a_sheet_does_not_grow_past_its_limit_and_still_shows_the_last_pair(tmp_path: Path) -> None:
    files = [encode(Image.new("RGB", (20, 20), (index, 255, 0))) for index in range(200)]
    pairs = [Pair(index, index + 100, "exact", 1.0) for index in range(100)]
    full = sheet(tmp_path / "full.png", pairs[:PAIRS_LIMIT], files)
    cut = sheet(tmp_path / "cut.png", pairs, files)
    assert cut.size == full.size
    assert {(0, 255, 0), (100, 255, 0), (99, 255, 0), (199, 255, 0)} <= colours(cut)


def test_a_sheet_of_no_pairs_is_an_image(tmp_path: Path) -> None:
    assert sheet(tmp_path / "none.png", [], []).width > 0


@pytest.mark.parametrize(
    "caption",
    ["", "test\n日本語/Zürich 😀.jpg", "\udcff\x00\t\u202e", "train\n" + "a-very-long-name/" * 50, "one\ntwo\nthree"],
)
def test_any_caption_can_be_drawn(tmp_path: Path, caption: str) -> None:
    image = sheet(tmp_path / "pairs.png", [Pair(0, 1, "near", 0.97)], [encode(noise())] * 2, caption)
    margin = np.asarray(image)[:, -12:]
    assert (margin == 255).all()


def test_an_image_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    good = encode(Image.new("RGB", (20, 20), "#00ff00"))

    def read(index: int) -> bytes:
        if index == 2:
            raise FileNotFoundError("gone")
        return good if index == 0 else b"not an image"

    pairs = [Pair(0, 1, "near", 0.97), Pair(1, 2, "near", 0.97)]
    write_contact_sheet(tmp_path / "pairs.png", pairs, read, str)
    with Image.open(tmp_path / "pairs.png") as image:
        assert (0, 255, 0) in colours(image.convert("RGB"))


def test_what_lies_at_the_path_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "pairs.png").write_bytes(b"old")
    sheet(tmp_path / "pairs.png", [Pair(0, 1, "exact", 1.0)], [encode(noise())] * 2)
