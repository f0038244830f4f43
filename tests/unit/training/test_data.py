import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.preprocessing import ImageLimits, Preprocessing, prepare_image
from tests.fakes import encode, noise
from training import data as data_module
from training.collection import ArrayImages, Collection, FileImages
from training.data import PARTS, Part, channel_statistics, load_part, split
from training.sources.open import open_collection

PHOTO = Preprocessing(mode="RGB", height=28, width=28, resize="crop", short_side=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def collection(count: int, classes: int = 3, parts: str | list[str] = "") -> Collection:
    pixels = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 2, 2, 1)
    return Collection(
        name="numbers",
        origin="a test",
        licence="none",
        labels=tuple("abcdefghij"[:classes]),
        images=ArrayImages(pixels),
        targets=np.arange(count) % classes,
        parts=np.array([parts] * count if isinstance(parts, str) else parts, dtype="<U10"),
    )


def photos(folder: Path, *names: str) -> Collection:
    images, count = FileImages(folder, names), len(names)
    return Collection("x", "x", "x", ("a", "b"), images, np.arange(count) % 2, np.array([""] * count))


def alone(count: int) -> np.ndarray:
    return np.arange(count)


def test_a_split_has_every_image_once_and_the_classes_in_balance() -> None:
    whole = collection(300)
    parts = split(whole, alone(300), seed=5)
    assert [len(parts[name]) for name in PARTS] == [210, 30, 60]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(300))
    for indices in parts.values():
        assert np.ptp(np.bincount(whole.targets[indices])) == 0


def test_a_seed_repeats_its_split_and_another_does_not() -> None:
    first, again, other = (split(collection(90), alone(90), seed)["train"].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_copies_stay_in_one_part() -> None:
    groups = np.arange(300) // 4
    for indices in split(collection(300), groups, seed=0).values():
        assert set(groups[indices]).isdisjoint(groups[np.setdiff1d(np.arange(300), indices)])


def test_parts_that_the_owner_made_stand() -> None:
    given = ["train"] * 80 + ["test"] * 20
    parts = split(collection(100, parts=given), alone(100), seed=0)
    assert parts["test"].tolist() == list(range(80, 100))
    assert len(parts["validation"]) == pytest.approx(8, abs=1)
    whole = ["train"] * 50 + ["validation"] * 30 + ["test"] * 20
    parts = split(collection(100, parts=whole), alone(100), seed=0)
    assert [len(parts[name]) for name in PARTS] == [50, 30, 20]


def test_every_part_gets_one_of_a_class_of_three() -> None:
    parts = split(collection(9), alone(9), seed=0)
    for indices in parts.values():
        assert sorted(np.arange(9)[indices] % 3) == [0, 1, 2]


def test_a_class_of_one_is_trained_on() -> None:
    whole = collection(30, classes=2)
    whole.targets[:] = 0
    whole.targets[7] = 1
    assert 7 in split(whole, alone(30), seed=0)["train"]


def test_a_part_has_the_pixels_that_serving_prepares_and_the_middle_of_a_frame_nearly_so(tmp_path: Path) -> None:
    names = []
    for seed, size in enumerate([(90, 60), (60, 90), (300, 200), (33, 35)]):
        names.append(f"{seed}.jpg")
        (tmp_path / names[-1]).write_bytes(encode(noise(*size, seed=seed), "JPEG"))
    exact = load_part(photos(tmp_path, *names), np.arange(4), PHOTO, tmp_path)
    part = load_part(photos(tmp_path, *names), np.arange(4), PHOTO, tmp_path, margin=True)
    assert exact.frames.shape == (4, 28, 28, 3)
    assert part.frames.shape == (4, 32, 32, 3)
    for place, name in enumerate(names):
        served = prepare_image((tmp_path / name).read_bytes(), PHOTO, ImageLimits()).pixels
        assert np.array_equal(exact.pixels[place], served)
        assert np.abs(part.pixels[place].astype(int) - served).mean() < 0.5


def test_pixels_that_memory_does_not_hold_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise(40, 40)))
    whole = Collection(
        "x", "x", "x", ("a", "b"), FileImages(tmp_path, ("a.png",)), np.zeros(1, np.int64), np.array([""])
    )
    inside = load_part(whole, np.arange(1), PHOTO, tmp_path)
    monkeypatch.setattr(data_module, "MEMORY_BYTES", 100)
    outside = load_part(whole, np.arange(1), PHOTO, tmp_path)
    assert isinstance(outside.frames, np.memmap)
    assert np.array_equal(inside.frames, outside.frames)


def test_arrays_of_another_size_are_resized() -> None:
    gray = Preprocessing(mode="L", height=8, width=8, resize="stretch", mean=(0.5,), std=(0.5,))
    part = load_part(collection(3), np.array([2, 0]), gray, Path())
    assert part.frames.shape == (2, 8, 8, 1)
    assert part.indices.tolist() == [2, 0]


@pytest.mark.parametrize("margin", [False, True])
def test_arrays_are_resized_and_cropped_as_serving_does_whatever_their_size(margin: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    images = ArrayImages(pixels)
    whole = Collection("x", "x", "x", ("a", "b"), images, np.arange(2), np.array(["", ""]))
    part = load_part(whole, np.arange(2), PHOTO, Path(), margin=margin)
    served = prepare_image(images.read(1), PHOTO, ImageLimits()).pixels
    assert np.abs(part.pixels[1].astype(int) - served).mean() < 0.5
    assert not np.array_equal(served, pixels[1])


def test_mean_and_deviation_are_those_of_numpy() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    mean, deviation = channel_statistics(Part(frames, np.zeros(5, np.int64), (6, 7), np.arange(5)))
    assert mean == pytest.approx(frames.mean(axis=(0, 1, 2)) / 255, abs=1e-4)
    assert deviation == pytest.approx(frames.std(axis=(0, 1, 2)) / 255, abs=1e-4)


def identities(whole: Collection) -> set[bytes]:
    assert isinstance(whole.images, ArrayImages)
    return {image.tobytes() for image in whole.images.pixels}


def test_a_digit_that_comes_as_a_file_has_the_pixels_it_was_trained_with(tmp_path: Path) -> None:
    whole = open_collection("digits", work=tmp_path)
    assert isinstance(whole.images, ArrayImages)
    gray = Preprocessing(mode="L", height=28, width=28, resize="stretch", mean=(0.5,), std=(0.5,))
    for pixels in whole.images.pixels[:20]:
        data = encode(Image.fromarray(pixels[..., 0]))
        assert np.array_equal(prepare_image(data, gray, ImageLimits()).pixels, pixels)


def test_no_digit_of_ours_is_among_the_test_digits_of_mnist(data: Path, tmp_path: Path) -> None:
    raw = gzip.decompress((data / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    file = io.BytesIO(raw[16:])
    assert not {file.read(784) for _ in range(10_000)} & identities(open_collection("digits", work=tmp_path))
