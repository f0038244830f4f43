import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model.preprocessing import ImageLimits, Pixels, Preprocessing, prepare_image
from tests.fakes import encode
from tests.unit.training.test_leakage import collection, named, sizes_of
from training import duplicates, leakage
from training.collection import ArrayImages
from training.duplicates import Pair, duplicate_groups, find_duplicates, pixel_digest
from training.errors import LeakageFound
from training.leakage import check_leakage

SQUEEZED = Preprocessing(mode="L", height=128, width=128, resize="stretch", mean=(0.5,), std=(0.5,))
Sizes = NDArray[np.int64]


def thumbnails(files: Sequence[bytes]) -> tuple[Pixels, Sizes]:
    prepared = [prepare_image(file, SQUEEZED, ImageLimits()) for file in files]
    sizes = [(image.facts.width, image.facts.height) for image in prepared]
    return np.stack([image.pixels[..., 0] for image in prepared]), np.array(sizes)


def decoded(file: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")


def digest_of(files: Sequence[bytes]) -> Callable[[int], bytes]:
    return lambda index: pixel_digest(np.asarray(decoded(files[index])))


def clouds(count: int, side: int, seed: int = 0) -> Pixels:
    """Pictures of shapes of every size, each another one."""
    generator = np.random.default_rng(seed)
    total = np.zeros((count, side, side))
    for grain in (4, 8, 16, 32):
        for index in range(count):
            noise = Image.fromarray(generator.integers(0, 256, (grain, grain), dtype=np.uint8))
            total[index] += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
    return (total / 4).astype(np.uint8)


def never(index: int) -> bytes:
    raise AssertionError(f"image {index} was decoded in full without need")


def found(pixels: Pixels) -> list[Pair]:
    """Pairs of images that are their thumbnails."""
    return find_duplicates(pixels, sizes_of(len(pixels)), lambda index: pixel_digest(pixels[index]))


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def scale(image: Image.Image, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)


COPIES: tuple[Callable[[bytes], bytes], ...] = (
    lambda file: file,
    lambda file: file,
    lambda file: file,
    lambda file: encode(decoded(file)),
    lambda file: encode(decoded(file)),
    lambda file: encode(decoded(file), "JPEG", quality=50),
    lambda file: encode(decoded(file), "JPEG", quality=60),
    lambda file: encode(decoded(file), "JPEG", quality=75),
    lambda file: encode(decoded(file), "WEBP", quality=50),
    lambda file: encode(decoded(file), "WEBP", quality=75),
    lambda file: encode(scale(decoded(file), 0.4), "JPEG", quality=85),
    lambda file: encode(scale(decoded(file), 0.47), "PNG"),
    lambda file: encode(scale(decoded(file), 0.55), "JPEG", quality=85),
    lambda file: encode(scale(decoded(file), 0.62), "WEBP", quality=80),
    lambda file: encode(scale(decoded(file), 0.7), "JPEG", quality=85),
    lambda file: encode(crop(decoded(file), 0.08, 0, 0, 0), "JPEG", quality=80),
    lambda file: encode(crop(decoded(file), 0.03, 0.08, 0, 0.05), "JPEG", quality=80),
    lambda file: encode(crop(decoded(file), 0.08, 0.08, 0.08, 0.08), "JPEG", quality=80),
    lambda file: encode(crop(decoded(file), 0.06, 0.03, 0.03, 0.07), "WEBP", quality=75),
    lambda file: encode(scale(crop(decoded(file), 0, 0.04, 0.08, 0), 0.6), "JPEG", quality=70),
)


def test_copies_of_photos_in_another_part_are_found_and_refused(data: Path) -> None:
    folders = ("cats-dogs", "flowers", "imagenet-sample")
    paths = sorted(path for folder in folders for path in (data / folder).rglob("*.[jJ][pP]*"))
    photos = [path.read_bytes() for path in paths]
    generator = np.random.default_rng(7)
    originals = generator.choice(len(photos), len(COPIES), replace=False)
    files = photos + [make(photos[index]) for make, index in zip(COPIES, originals, strict=True)]
    parts = generator.choice(("train", "test"), len(photos))
    parts[originals] = "train"
    parts = np.concatenate([parts, ["test"] * len(COPIES)])
    planted = {(int(index), len(photos) + place) for place, index in enumerate(originals)}

    squeezed, sizes = thumbnails(files)
    pairs = find_duplicates(squeezed, sizes, digest_of(files))

    at = {(pair.first, pair.second) for pair in pairs}
    assert len(planted & at) >= 18
    assert {(pair.first, pair.second) for pair in pairs if pair.kind == "exact"} >= set(
        sorted(planted, key=lambda p: p[1])[:3]
    )
    assert len(at - planted) <= len(photos) / 1000  # the photos have no duplicates of their own
    judged = check_leakage(pairs, collection(named(len(files)), list(parts)), sizes, allow=False)
    assert len(judged.offending) >= 18
    with pytest.raises(LeakageFound, match="--allow-leakage"):
        judged.refuse()


@pytest.mark.extra
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_parts_of_a_known_data_set_of_small_images_are_not_refused(data: Path, name: str) -> None:
    rows = [gzip.decompress((data / name / f"{part}-images-idx3-ubyte.gz").read_bytes()) for part in ("train", "t10k")]
    pixels = np.concatenate([np.frombuffer(row, np.uint8, offset=16) for row in rows]).reshape(-1, 28, 28)
    pairs = find_duplicates(pixels, sizes_of(len(pixels), 28), never)
    whole = collection(ArrayImages(pixels[..., None]), ["train"] * 60_000 + ["test"] * 10_000)
    judged = check_leakage(pairs, whole, sizes_of(len(pixels), 28), allow=False)
    judged.refuse()
    assert judged.near_across > 0
    assert any("by chance" in warning for warning in judged.warnings)
    assert len(pairs) < 200


@pytest.mark.parametrize("side", [28, 128])
def test_different_images_are_no_pair(side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, side, side), dtype=np.uint8)
    assert found(noise) == []
    assert found(clouds(100, side)) == []


@pytest.mark.parametrize("side", [28, 128])
def test_flat_images_are_no_near_pairs(side: int) -> None:
    gray = np.broadcast_to(np.arange(0, 250, 10, dtype=np.uint8)[:, None, None], (25, side, side))
    grain = np.random.default_rng(0).integers(0, 3, gray.shape, dtype=np.uint8)
    assert found(gray + grain) == []
    assert found(np.ascontiguousarray(gray)) == []


def test_images_that_share_their_layout_only_are_no_pair() -> None:
    pages = np.full((12, 128, 128), 250, np.uint8)
    pages[:, :24] = 20
    pages[:, 100:, :40] = 90
    for page, text in zip(pages, np.random.default_rng(0).integers(0, 2, (12, 30, 50), dtype=np.uint8), strict=True):
        page[32:92, 14:114] -= 120 * text.repeat(2, axis=0).repeat(2, axis=1)
    assert found(pages) == []


@pytest.mark.parametrize("side", [28, 128])
def test_an_image_of_other_gray_values_or_grain_is_a_near_pair(side: int) -> None:
    pixels = clouds(20, side)
    brighter = (pixels[:5] * 0.9 + 20).astype(np.uint8)
    pairs = found(np.concatenate([pixels, brighter]))
    assert [(pair.first, pair.second, pair.kind) for pair in pairs] == [(i, 20 + i, "near") for i in range(5)]
    assert all(0.99 < pair.correlation <= 1 for pair in pairs)


@pytest.mark.parametrize("many", [0, 20_000])
def test_crops_are_found_among_few_images_and_among_many(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_MANY", many)
    pictures = [Image.fromarray(pixels) for pixels in clouds(20, 256)]
    cuts = [(0.07, 0, 0, 0), (0, 0.05, 0, 0), (0, 0, 0.08, 0.04), (0.03, 0.03, 0.03, 0.03)]
    crops = [crop(picture, *cut) for picture, cut in zip(pictures, cuts, strict=False)]
    squeezed = np.stack([np.asarray(picture.resize((128, 128))) for picture in pictures + crops])
    assert [(pair.first, pair.second) for pair in found(squeezed)] == [(0, 20), (1, 21), (2, 22), (3, 23)]


def test_equal_thumbnails_are_exact_only_with_equal_pixels_and_sizes() -> None:
    pixels = np.concatenate([clouds(1, 128)] * 4)
    sizes = sizes_of(4)
    sizes[3] = 200
    pairs = find_duplicates(pixels, sizes, [b"one", b"other", b"one", b""].__getitem__)
    assert [(pair.first, pair.second, pair.kind) for pair in pairs] == [
        (0, 1, "near"),
        (0, 2, "exact"),
        (0, 3, "near"),
        (1, 3, "near"),
    ]


def test_images_are_decoded_in_full_only_where_thumbnails_are_equal() -> None:
    assert find_duplicates(clouds(30, 128), sizes_of(30), never) == []


@pytest.mark.parametrize("side", [28, 128])
def test_many_copies_of_one_image_make_few_pairs_and_one_group(side: int) -> None:
    pixels = np.concatenate([clouds(3, side)] * 50)
    pairs = found(pixels)
    assert len(pairs) == 3 * 49
    assert all(pair.kind == "exact" and pair.correlation == 1 for pair in pairs)
    assert duplicate_groups(pairs, 150).tolist() == [0, 1, 2] * 50


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_for_a_pair_have_none(count: int) -> None:
    assert found(clouds(count, 128)) == []
    assert found(clouds(count, 28)) == []
    assert duplicate_groups([], count).tolist() == [0] * count


def test_groups_are_the_connected_components() -> None:
    pairs = [Pair(first, second, "near", 1.0) for first, second in ((4, 5), (1, 4), (0, 2), (5, 7))]
    assert duplicate_groups(pairs, 8).tolist() == [0, 1, 0, 2, 1, 1, 3, 1]


@pytest.mark.parametrize("side", [28, 128])
def test_a_limit_on_the_work_keeps_the_likeliest_pairs_and_is_told(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "CANDIDATES_LIMIT", 5)
    monkeypatch.setattr(duplicates, "SMALL_CANDIDATES_LIMIT", 5)
    pixels = clouds(20, side)
    brighter = (pixels[:10] * 0.9 + 20).astype(np.uint8)
    told: list[str] = []
    pairs = find_duplicates(np.concatenate([pixels, brighter]), sizes_of(30), never, told.append)
    assert 0 < len(pairs) <= 5
    assert len(told) == 1
    assert "5 likeliest" in told[0]


def test_no_more_small_pairs_are_returned_than_the_limit_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "SMALL_PAIRS_LIMIT", 3)
    monkeypatch.setattr(leakage, "SMALL_PAIRS_LIMIT", 3)
    pixels = clouds(10, 28)
    told: list[str] = []
    both = np.concatenate([pixels, (pixels * 0.9 + 20).astype(np.uint8)])
    pairs = find_duplicates(both, sizes_of(20, 28), never, told.append)
    assert len(pairs) == 3
    assert "3 most alike" in told[0]
    judged = check_leakage(pairs, collection(named(20), ["train"] * 10 + ["test"] * 10), sizes_of(20, 28), allow=False)
    assert any(warning.startswith("at least 3 ") for warning in judged.warnings)


def test_a_digest_tells_shapes_and_types_apart() -> None:
    pixels = np.zeros((4, 6), np.uint8)
    others = [pixels.reshape(6, 4), pixels[..., None], pixels.view(np.int8), np.ones_like(pixels)]
    assert pixel_digest(pixels) == pixel_digest(np.zeros((6, 4), np.uint8).T)
    assert len({pixel_digest(array) for array in [pixels, *others]}) == 5
