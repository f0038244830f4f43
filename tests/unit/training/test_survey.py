"""What is found in images before training, and what is said of it."""

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.preprocessing import ImageLimits, Preprocessing, prepare_image
from tests.fakes import encode, noise
from training.collection import ArrayImages, Collection, FileImages, Images
from training.errors import InvalidData, UnreadableImages
from training.sources.open import open_collection
from training.survey import survey

FLAT = encode(Image.new("RGB", (80, 60), "navy"))


@dataclass(frozen=True)
class Listed:
    """Images by their bytes; None cannot be read."""

    files: tuple[bytes | None, ...]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def read(self, index: int) -> bytes:
        content = self.files[index]
        if content is None:
            raise OSError(5, "Input/output error")
        return content

    def take(self, indices: NDArray[np.int64]) -> "Listed":
        return Listed(tuple(self.files[index] for index in indices))


def collection(images: Images, targets: list[int] | None = None, parts: list[str] | None = None) -> Collection:
    chosen = targets if targets is not None else [index % 2 for index in range(len(images))]
    return Collection(
        name="d",
        origin="tests",
        licence="none",
        labels=("ant", "bee"),
        images=images,
        targets=np.asarray(chosen, dtype=np.int64),
        parts=np.asarray(parts or [""] * len(images), dtype=np.str_),
    )


def listed(*files: bytes | None, targets: list[int] | None = None, parts: list[str] | None = None) -> Collection:
    return collection(Listed(files), targets, parts)


def photos(count: int, width: int = 80, height: int = 60) -> list[bytes]:
    return [encode(noise(width, height, seed=seed)) for seed in range(count)]


def arrays(count: int, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def thumbnail(file: bytes, side: int) -> NDArray[np.uint8]:
    preprocessing = Preprocessing(
        mode="L", height=side, width=side, resize="stretch", interpolation="bilinear", mean=(0.5,), std=(0.5,)
    )
    return prepare_image(file, preprocessing, ImageLimits()).pixels[..., 0]


def test_sizes_and_thumbnails_are_those_of_the_upright_images() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [*photos(2), encode(noise(70, 90, seed=9), "JPEG", exif=turned)]
    found = survey(listed(*files))
    assert found.sizes.tolist() == [[80, 60], [80, 60], [90, 70]]
    assert found.thumbnails.dtype == np.uint8
    assert all(np.array_equal(seen, thumbnail(file, 128)) for seen, file in zip(found.thumbnails, files, strict=True))
    assert (found.formats, found.unreadable, found.gray_share) == ({"JPEG": 1, "PNG": 2}, {}, 0.0)
    assert found.readable.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("height", "width", "side"), [(28, 28, 28), (20, 30, 30), (63, 2, 63), (64, 64, 128), (96, 96, 128)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_surveyed_as_their_files_would_be(height: int, width: int, side: int, channels: int) -> None:
    images = ArrayImages(arrays(6, height, width, channels))
    fast = survey(collection(images))
    slow = survey(listed(*(images.read(index) for index in range(6))))
    assert fast.thumbnails.shape == (6, side, side)
    assert np.array_equal(fast.thumbnails, slow.thumbnails)
    assert np.array_equal(fast.sizes, slow.sizes)
    assert np.array_equal(fast.gray, slow.gray)
    assert fast.gray_share == (1.0 if channels == 1 else 0.0)


def test_thumbnails_are_large_as_soon_as_one_image_is() -> None:
    small = photos(99, 20, 20)
    assert survey(listed(*small, small[0])).thumbnails.shape == (100, 20, 20)
    assert survey(listed(*small[:50], *photos(1, 40, 30), *small[50:])).thumbnails.shape == (100, 40, 40)
    found = survey(listed(*small[:50], *photos(1, 80, 20), *small[50:]))
    assert found.thumbnails.shape == (100, 128, 128)
    assert np.array_equal(found.thumbnails[50], thumbnail(photos(1, 80, 20)[0], 128))


def test_unreadable_images_are_left_out_and_named_with_the_reason() -> None:
    files = photos(38)
    found = survey(listed(*files[:36], b"this is text", None))
    assert sorted(found.unreadable) == [36, 37]
    assert found.unreadable[36] == "the 12 bytes are not an image that can be read"
    assert found.unreadable[37] == "the file cannot be read: Input/output error"
    assert found.sizes[36:].tolist() == [[0, 0], [0, 0]]
    assert not found.thumbnails[36:].any()
    assert found.readable.tolist() == list(range(36))
    assert found.warnings == (
        "2 images cannot be read and are left out. 36.png (the 12 bytes are not an image that can be read); "
        "37.png (the file cannot be read: Input/output error).",
    )


def test_too_many_unreadable_images_stop_with_the_limit_and_its_option() -> None:
    broken = listed(*photos(14), *[b"text"] * 6)
    with pytest.raises(UnreadableImages) as raised:
        survey(broken, max_unreadable=0.2)
    text = str(raised.value)
    assert "6 of 20 images (30.0%) cannot be read; the limit is 20.0% (--max-unreadable 0.2)" in text
    assert "14.png (the 4 bytes are not an image that can be read)" in text
    assert "18.png" in text
    assert "19.png" not in text
    assert len(survey(broken, max_unreadable=0.3).unreadable) == 6


@pytest.mark.parametrize("part", ["train", ""])
def test_class_without_a_readable_image_to_train_on_stops(part: str) -> None:
    data = listed(*photos(2), b"text", *photos(1), targets=[0, 0, 1, 1], parts=[part, part, part, "test"])
    with pytest.raises(InvalidData, match=r"no image of bee can be read for training. 2.png \(the 4 bytes"):
        survey(data, max_unreadable=1.0)


def test_images_above_the_limits_are_unreadable() -> None:
    found = survey(
        listed(*photos(4), *photos(1, 90, 90)), max_unreadable=0.5, limits=ImageLimits(max_image_pixels=5_000)
    )
    assert "8100 pixels; the limit is 5000" in found.unreadable[4]


def test_fingerprint_depends_on_contents_labels_and_parts_alone(tmp_path: Path) -> None:
    files = photos(4, 10, 8)
    first = survey(listed(*files, targets=[0, 0, 1, 1])).fingerprint
    for index, file in enumerate(files):
        (tmp_path / f"other {index}").write_bytes(file)
    stored = FileImages(tmp_path, ("other 3", "other 0", "other 2", "other 1"))
    assert survey(collection(stored, [1, 0, 1, 0])).fingerprint == first
    assert len(first) == 64
    others = [
        listed(*files, targets=[0, 1, 1, 1]),
        listed(*files, targets=[0, 0, 1, 1], parts=["train", "", "", ""]),
        listed(*files[:3], files[2], targets=[0, 0, 1, 1]),
        listed(*files, files[3], targets=[0, 0, 1, 1, 1]),
        replace(listed(*files, targets=[0, 0, 1, 1]), labels=("ant", "wasp")),
    ]
    assert len({first, *(survey(other).fingerprint for other in others)}) == 1 + len(others)


def test_fingerprint_of_arrays_does_not_depend_on_their_order() -> None:
    pixels = arrays(5, 6, 7, 3)
    whole = survey(collection(ArrayImages(pixels), [0, 1, 0, 1, 1]))
    turned = survey(collection(ArrayImages(pixels[::-1]), [1, 1, 0, 1, 0]))
    assert whole.fingerprint == turned.fingerprint
    pixels[0, 0, 0, 0] ^= 1
    assert survey(collection(ArrayImages(pixels), [0, 1, 0, 1, 1])).fingerprint != whole.fingerprint


def test_good_data_has_no_warnings() -> None:
    assert survey(listed(*photos(20))).warnings == ()
    assert survey(collection(ArrayImages(arrays(20, 8, 8, 1)))).warnings == ()


def gray(width: int = 80, height: int = 60) -> bytes:
    return encode(noise(width, height, "L"))


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        (listed(*photos(21), targets=[0] * 20 + [1]), "has only one image, which cannot be in two parts: bee."),
        (listed(*photos(29), targets=[0] * 20 + [1] * 9), "One class has fewer than 10 images"),
        (listed(*photos(8)), "2 classes have fewer than 10 images, from which little can be learnt: ant, bee."),
        (listed(*photos(71, 9, 9), targets=[0] * 61 + [1] * 10), "uneven: ant has 61 images, bee has 10;"),
        (listed(*photos(21), *photos(1, 31, 40)), "1 image has a side of less than 32 pixels: 21.png."),
        (listed(*photos(20), *photos(2, 400, 400)), "longer side is 80 pixels or less in a twentieth of them, 400"),
        (listed(*photos(21), gray()), "1 image is gray among 21 in colour."),
        (listed(*photos(20), *[FLAT] * 7), "7 images show next to nothing, one even shade: 20.png, 21.png, 22.png"),
        (listed(*photos(20), *[FLAT] * 7), "23.png, 24.png and 2 more."),
        (listed(*photos(19), encode(Image.new("L", (5000, 4001)))), "1 image has more than 20 megapixels"),
    ],
)  # fmt: skip
def test_what_may_go_wrong_is_said(data: Collection, warning: str) -> None:
    assert any(warning in said for said in survey(data).warnings)


def test_images_of_one_size_are_never_called_tiny() -> None:
    assert survey(listed(*photos(20, 8, 8))).warnings == ()


def test_progress_counts_every_image() -> None:
    for data in (listed(*photos(20)), collection(ArrayImages(arrays(20, 8, 8, 1)))):
        done: list[int] = []
        survey(data, on_progress=done.append)
        assert done[-1] == 20
        assert done == sorted(set(done))


def test_interrupt_leaves_no_thread_and_reads_no_further() -> None:
    before = set(threading.enumerate())
    data = listed(*photos(4, 40, 30) * 500)

    def interrupt(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(data, on_progress=interrupt)
    assert set(threading.enumerate()) <= before


def test_taken_images_keep_their_names_labels_and_parts(tmp_path: Path) -> None:
    chosen = np.asarray([4, 1, 3])
    stored = FileImages(tmp_path, tuple(f"{index}.png" for index in range(5)))
    memory = ArrayImages(arrays(5, 4, 4, 1), "digit")
    for images in (stored, memory):
        whole = collection(images, parts=["train", "test", "", "train", "validation"])
        part = whole.take(chosen)
        assert len(part) == len(part.images) == 3
        assert [part.images.name(index) for index in range(3)] == [images.name(index) for index in chosen]
        assert part.targets.tolist() == [0, 1, 1]
        assert part.parts.tolist() == ["validation", "test", "train"]
        assert part.labels == whole.labels
        assert part.take(np.asarray([2])).images.name(0) == images.name(3)
    assert np.array_equal(memory.take(chosen).pixels, memory.pixels[chosen])


def test_hostile_files_as_a_class_are_survived(data: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "nasty").symlink_to(data / "nasty", target_is_directory=True)
    (tmp_path / "d" / "cat").symlink_to(data / "cats-dogs" / "train" / "cat", target_is_directory=True)
    whole = open_collection(str(tmp_path / "d"), work=tmp_path)
    found = survey(whole, max_unreadable=0.5)
    names = {whole.images.name(index) for index in found.unreadable}
    assert 20 < len(names) < 60
    assert all(name.startswith("nasty/") for name in names)
    kept = survey(whole.take(found.readable), max_unreadable=0.0)
    assert np.array_equal(kept.thumbnails, found.thumbnails[found.readable])


def test_real_data_is_surveyed_fast_and_without_reproach(data: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    found = survey(open_collection(str(data / "mnist"), work=tmp_path))
    assert time.monotonic() - start < 20
    assert found.thumbnails.shape == (70_000, 28, 28)
    assert (found.gray_share, found.warnings) == (1.0, ())
    for folder in ("cats-dogs", "flowers", "cifar10"):
        seen = survey(open_collection(str(data / folder), work=tmp_path))
        assert (seen.unreadable, seen.warnings) == ({}, ())
