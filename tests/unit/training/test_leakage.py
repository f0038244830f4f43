from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.collection import Collection, FileImages, Images
from training.duplicates import Pair
from training.errors import LeakageFound
from training.leakage import check_leakage

Sizes = NDArray[np.int64]


def collection(images: Images, parts: Sequence[str], targets: Sequence[int] | None = None) -> Collection:
    classes = np.zeros(len(parts), np.int64) if targets is None else np.array(targets)
    return Collection("shop", "here", "none", ("cat", "dog"), images, classes, np.array(parts))


def named(count: int) -> FileImages:
    return FileImages(Path(), tuple(f"image-{index}.png" for index in range(count)))


def sizes_of(count: int, side: int = 300) -> Sizes:
    return np.full((count, 2), side)


def test_only_pairs_across_parts_offend() -> None:
    pairs = [Pair(0, 1, "exact", 1.0), Pair(0, 2, "exact", 1.0), Pair(2, 3, "near", 0.98), Pair(3, 4, "near", 0.95)]
    parts = ["train", "train", "test", "test", "validation"]
    judged = check_leakage(pairs, collection(named(5), parts), sizes_of(5), allow=False)
    assert judged.offending == (pairs[1], pairs[3])
    assert (judged.exact_within, judged.near_within, judged.exact_across, judged.near_across) == (1, 1, 1, 1)
    assert judged.record == (
        "5 images with 1 exact and 1 near duplicate pairs within parts and 1 exact and 1 near duplicate pairs across "
        "parts."
    )


def test_an_image_that_was_left_over_leaks_into_the_test_part_and_not_into_the_training_part() -> None:
    pairs = [Pair(0, 1, "exact", 1.0), Pair(0, 2, "exact", 1.0)]
    judged = check_leakage(pairs, collection(named(3), ["", "train", "test"]), sizes_of(3), allow=False)
    assert judged.offending == (pairs[1],)


def test_images_without_parts_are_never_refused() -> None:
    pairs = [Pair(0, 1, "exact", 1.0), Pair(1, 2, "near", 0.98)]
    judged = check_leakage(pairs, collection(named(3), ["", "", ""]), sizes_of(3), allow=False)
    judged.refuse()
    assert (judged.exact_within, judged.near_within) == (1, 1)
    assert judged.record == "3 images with 1 exact and 1 near duplicate pairs."
    mixed = check_leakage(pairs, collection(named(3), ["", "train", ""]), sizes_of(3), allow=False)
    assert mixed.offending == ()


@pytest.mark.parametrize(("kind", "refused"), [("exact", True), ("near", False)])
def test_small_images_offend_only_where_they_are_equal(kind: str, *, refused: bool) -> None:
    pair = Pair(0, 1, "exact" if kind == "exact" else "near", 1.0)
    sizes = np.array([(63, 40), (300, 200)])
    judged = check_leakage([pair], collection(named(2), ["train", "test"]), sizes, allow=False)
    assert bool(judged.offending) == bool(judged.refusal) == refused
    assert any("by chance" in warning for warning in judged.warnings) != refused


def test_the_error_names_counts_pairs_and_the_option() -> None:
    pairs = [Pair(index, index + 10, "exact", 1.0) for index in range(7)] + [Pair(7, 17, "near", 0.97)]
    judged = check_leakage(pairs, collection(named(20), ["train"] * 10 + ["test"] * 10), sizes_of(20), allow=False)
    with pytest.raises(LeakageFound) as raised:
        judged.refuse(Path("pairs.png"))
    assert str(raised.value) == (
        "the parts share pictures: 7 exact and 1 near duplicate pairs: "
        + "; ".join(f"image-{i}.png [train] = image-{i + 10}.png [test] (exact)" for i in range(5))
        + "; and 3 more. Take one image of each pair away, or go on all the same with --allow-leakage. "
        "The pairs are shown in pairs.png."
    )


def test_allowed_leakage_is_warned_of_and_recorded() -> None:
    pairs = [Pair(0, 1, "exact", 1.0)]
    judged = check_leakage(pairs, collection(named(2), ["train", "test"]), sizes_of(2), allow=True)
    judged.refuse()
    assert judged.offending == tuple(pairs)
    assert "--allow-leakage" in judged.warnings[0]
    assert judged.record.endswith("the run was allowed to go on.")


def test_equal_pictures_with_different_labels_are_told() -> None:
    pairs = [Pair(0, 1, "exact", 1.0), Pair(0, 2, "exact", 1.0), Pair(2, 3, "near", 0.99)]
    judged = check_leakage(pairs, collection(named(4), [""] * 4, [0, 0, 1, 0]), sizes_of(4), allow=False)
    assert judged.contradictory == (pairs[1],)
    assert "image-0.png = image-2.png: 'cat' and 'dog'" in judged.warnings[-1]


def test_data_without_duplicates_has_no_warnings() -> None:
    judged = check_leakage([], collection(named(2), ["train", "test"]), sizes_of(2), allow=False)
    judged.refuse()
    assert judged.warnings == ()
