"""The IDX files of MNIST and its kin."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.collection import ArrayImages, Collection
from training.errors import InvalidData
from training.sources.open import open_collection

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(values: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + np.asarray(values.shape, dtype=">u4").tobytes() + values.tobytes()


def images(count: int, *rest: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *(rest or (5, 4))), dtype=np.uint8)


def labels(*numbers: int) -> NDArray[np.uint8]:
    return np.asarray(numbers, dtype=np.uint8)


def make(folder: Path, **changed: bytes | None) -> Path:
    """Write three training and two test images; `train_images=None` leaves that file out."""
    folder.mkdir(exist_ok=True)
    contents = (idx(images(3)), idx(labels(1, 0, 2)), idx(images(2, seed=1)), idx(labels(2, 1)))
    for name, content in zip(FILES, contents, strict=True):
        written = changed.get("_".join(name.split("-")[:2]), content)
        if written is not None:
            (folder / name).write_bytes(written)
    return folder


def read(folder: Path) -> Collection:
    return open_collection(str(folder), work=folder)


def pixels(collection: Collection) -> NDArray[np.uint8]:
    assert isinstance(collection.images, ArrayImages)
    return collection.images.pixels


def test_images_labels_and_parts_are_those_of_the_files(tmp_path: Path) -> None:
    collection = read(make(tmp_path / "numbers"))
    assert np.array_equal(pixels(collection)[..., 0], np.concatenate([images(3), images(2, seed=1)]))
    assert collection.labels == ("0", "1", "2")
    assert collection.targets.tolist() == [1, 0, 2, 2, 1]
    assert collection.parts.tolist() == ["train"] * 3 + ["test"] * 2
    assert collection.notes == ("The test part has no image of class 0.",)


def test_packed_and_dotted_files_read_as_the_plain_ones(tmp_path: Path) -> None:
    plain = read(make(tmp_path / "plain"))
    folder = tmp_path / "packed"
    folder.mkdir()
    for name in FILES:
        dotted = name.replace("-idx", ".idx") + ".gz"
        (folder / dotted).write_bytes(gzip.compress((tmp_path / "plain" / name).read_bytes()))
    packed = read(folder)
    assert np.array_equal(pixels(packed), pixels(plain))
    assert packed.targets.tolist() == plain.targets.tolist()


def test_colour_images_have_four_dimensions(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", train_images=idx(images(3, 5, 4, 3)), t10k_images=idx(images(2, 5, 4, 3)))
    assert pixels(read(folder)).shape == (5, 5, 4, 3)


def test_test_files_may_be_absent(tmp_path: Path) -> None:
    assert read(make(tmp_path / "d", t10k_images=None, t10k_labels=None)).parts.tolist() == ["train"] * 3


def test_classes_are_the_numbers_that_occur(tmp_path: Path) -> None:
    collection = read(make(tmp_path / "d", train_labels=idx(labels(7, 26, 7)), t10k_labels=idx(labels(26, 7))))
    assert collection.labels == ("7", "26")
    assert collection.targets.tolist() == [0, 1, 0, 1, 0]


def test_fashion_mnist_has_words_for_its_numbers(tmp_path: Path) -> None:
    for name in ("fashion-mnist", "FashionMNIST", "Fashion MNIST"):
        assert read(make(tmp_path / name)).labels == ("T-shirt/top", "Trouser", "Pullover")


WHOLE = idx(images(3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": WHOLE[:-1]}, "train-images-idx3-ubyte is cut short: its header gives 60 bytes"),
        ({"train_images": WHOLE + b"x"}, "longer than its header says"),
        ({"train_images": WHOLE[:9]}, "cut short within its header"),
        ({"train_images": b""}, "begins with nothing"),
        ({"train_images": b"\0\0\x08\x02" + WHOLE[4:]}, "no IDX file of images: it begins with 00 00 08 02"),
        ({"train_images": b"\0\0\x0d\x03" + WHOLE[4:]}, "no IDX file of images"),
        ({"train_labels": WHOLE}, "no IDX file of labels"),
        ({"train_labels": idx(labels(1, 0))}, "has 3 images, but train-labels-idx1-ubyte has 2 labels"),
        ({"train_labels": None}, "lacks train-labels"),
        ({"train_images": None}, "lacks train-images"),
        ({"t10k_images": None}, "lacks t10k-images"),
        ({"t10k_images": idx(images(2, 4, 4))}, "differ in size or in channels"),
        ({"train_images": gzip.compress(WHOLE)[:-12]}, "cut short or broken"),
        ({"train_images": gzip.compress(WHOLE)[:20] + b"\xff" * 20}, "cut short or broken"),
        ({"train_images": idx(images(3, 5, 4, 2))}, r"images of \(3, 5, 4, 2\)"),
        ({"train_labels": idx(labels(4, 4, 4)), "t10k_labels": idx(labels(4, 4))}, "only one class, 4"),
        ({"t10k_labels": idx(labels(9, 1))}, "no image to train on of class 9"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, changed: dict[str, bytes | None], message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        read(make(tmp_path / "d", **changed))


@pytest.mark.parametrize(("name", "label"), [("mnist", "0"), ("fashion-mnist", "T-shirt/top")])
def test_real_files_read_the_same_by_path_and_by_name(data: Path, tmp_path: Path, name: str, label: str) -> None:
    by_path = open_collection(str(data / name), work=tmp_path)
    by_name = open_collection(name, root=data, work=tmp_path)
    assert len(by_path) == 70_000
    assert by_path.labels[0] == label
    assert by_path.labels == by_name.labels
    assert np.array_equal(by_path.targets, by_name.targets)
    assert np.bincount(by_path.targets[by_path.parts == "test"]).sum() == 10_000
