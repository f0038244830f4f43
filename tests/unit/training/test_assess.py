"""Measuring a version on labelled photos, and calibrating it on them."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.checkpoint import CARD
from model.classifier import Classifier, load_classifier
from model.engines.selection import EngineChoice
from model.errors import GoldenMismatch
from model.preprocessing import ImageLimits
from model.registry import Registry, StoredVersion
from tests.fakes import TINY_LABELS, FakeEngine, encode, noise
from training import recalibrate
from training.assess import BATCH, assess, compute_logits
from training.collection import FileImages
from training.errors import InvalidData, UnreadableImages
from training.photos import FEWEST_FITTED, Photos, Wish, gather, halve
from training.progress import Display
from training.recalibrate import publish_calibrated


def display() -> Display:
    return Display(Console(file=io.StringIO()), quiet=True)


def write_photos(folder: Path, each: int = 14, labels: tuple[str, ...] = TINY_LABELS, seed: int = 0) -> Path:
    for place, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for number in range(each):
            (folder / label / f"{number:02d}.png").write_bytes(encode(noise(seed=seed + 1000 * place + number)))
    return folder


def write_parts(folder: Path, **sizes: int) -> Path:
    for place, (part, each) in enumerate(sizes.items()):
        write_photos(folder / part, each, seed=10_000 * place)
    return folder


def gathered(folder: Path, version: StoredVersion, **wishes: object) -> Photos:
    (folder.parent / "work").mkdir(exist_ok=True)
    return gather(Wish(str(folder), **wishes), version, folder.parent / "work", display())  # type: ignore[arg-type]


def names(photos: Photos, indices: np.ndarray) -> set[str]:
    return {photos.collection.images.name(int(index)) for index in indices}


def test_the_halves_are_disjoint_whole_and_even_in_every_class() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 5, 301)
    fitted, measured = halve(targets, np.arange(301), seed=0)
    assert sorted([*fitted, *measured]) == list(range(301))
    counts = [np.bincount(targets[half], minlength=5) for half in (fitted, measured)]
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_classes_of_one_image_are_divided_too() -> None:
    assert [len(half) for half in halve(np.arange(500), np.arange(500), seed=0)] == [250, 250]


def test_copies_stay_in_one_half() -> None:
    groups = np.arange(60) // 3
    fitted, measured = halve(np.zeros(60, np.int64), groups, seed=0)
    assert not set(groups[fitted]) & set(groups[measured])
    assert len(fitted) == len(measured)


def test_the_seed_alone_decides_on_the_halves() -> None:
    targets, groups = np.arange(80) % 4, np.arange(80)
    assert np.array_equal(halve(targets, groups, 7)[0], halve(targets, groups, 7)[0])
    assert not np.array_equal(halve(targets, groups, 7)[0], halve(targets, groups, 8)[0])


def test_without_parts_every_image_is_measured(tiny: StoredVersion, tmp_path: Path) -> None:
    photos = gathered(write_photos(tmp_path / "photos", 3, ("COW", "Ant")), tiny)
    assert (len(photos.measured), len(photos.fitted)) == (6, 0)
    assert photos.collection.labels == TINY_LABELS
    assert photos.collection.targets.tolist() == [0, 0, 0, 2, 2, 2]
    assert any("2 of the 3 classes" in text for text in photos.warnings)


def test_of_parts_the_test_part_is_measured(tiny: StoredVersion, tmp_path: Path) -> None:
    photos = gathered(write_parts(tmp_path / "photos", train=3, test=2), tiny)
    assert names(photos, photos.measured) == {f"test/{label}/{i:02d}.png" for label in TINY_LABELS for i in range(2)}


def test_where_no_part_is_for_tests_every_image_is_measured_and_it_is_said(tiny: StoredVersion, tmp_path: Path) -> None:
    photos = gathered(write_parts(tmp_path / "photos", train=3, val=2), tiny)
    assert len(photos.measured) == 15
    assert "no test part" in photos.division


def test_a_calibration_is_fitted_on_the_validation_part_and_measured_on_the_test_part(
    tiny: StoredVersion, tmp_path: Path
) -> None:
    folder = write_parts(tmp_path / "photos", train=1, val=8, test=5)
    copied = (folder / "test" / "ant" / "00.png").read_bytes()
    (folder / "val" / "ant" / "00.png").write_bytes(copied)
    photos = gathered(folder, tiny, calibrate=True)
    assert {name.split("/")[0] for name in names(photos, photos.measured)} == {"test"}
    fitted = names(photos, photos.fitted)
    assert {name.split("/")[0] for name in fitted} == {"val"}
    assert len(fitted) == 23
    assert "val/ant/00.png" not in fitted  # its copy is measured


def test_a_calibration_without_parts_never_measures_what_it_was_fitted_on(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    for number in range(6):
        (folder / "bee" / f"copy{number}.png").write_bytes((folder / "bee" / "00.png").read_bytes())
    photos = gathered(folder, tiny, calibrate=True)
    fitted, measured = names(photos, photos.fitted), names(photos, photos.measured)
    assert not fitted & measured
    assert len(fitted | measured) == 48
    copies = {"bee/00.png", *(f"bee/copy{number}.png" for number in range(6))}
    assert copies <= fitted or copies <= measured
    assert any("6 exact" in text for text in photos.warnings)


def test_too_few_images_to_fit_a_temperature_on_are_refused(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 12)
    with pytest.raises(InvalidData, match=f"18 images.*it takes {FEWEST_FITTED}"):
        gathered(folder, tiny, calibrate=True)
    assert len(gathered(folder, tiny).measured) == 36


def test_unreadable_images_are_left_out_also_where_their_class_has_no_other(
    tiny: StoredVersion, tmp_path: Path
) -> None:
    folder = write_photos(tmp_path / "photos", 1)
    (folder / "bee" / "00.png").write_text("no image")
    photos = gathered(folder, tiny, max_unreadable=0.5)
    assert photos.collection.targets.tolist() == [0, 2]
    assert any("bee/00.png" in text for text in photos.warnings)
    with pytest.raises(UnreadableImages, match="--max-unreadable"):
        gathered(folder, tiny, max_unreadable=0.1)


def test_data_in_which_nothing_can_be_read_is_refused(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 1)
    for path in folder.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(InvalidData, match="no image of the data can be read"):
        gathered(folder, tiny, max_unreadable=1)


def test_images_that_a_version_was_made_with_are_warned_of(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 3)
    photos = gathered(folder, tiny)
    assert photos.warnings == ()
    (tiny.folder / CARD).write_text(f"| fingerprint of the data | {photos.fingerprint} |")
    assert any("too good" in text for text in gathered(folder, tiny).warnings)


def test_logits_are_those_of_the_served_pixels_in_batches(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 2 * BATCH + 5, ("ant",))
    images = FileImages(folder, tuple(f"ant/{number:02d}.png" for number in range(2 * BATCH + 5)))
    engine = FakeEngine()
    classifier = Classifier(tiny.manifest, engine)
    done: list[int] = []
    logits = compute_logits(classifier, images, done.append)
    assert engine.batches == [BATCH, BATCH, 5]
    assert done[-1] == len(images)
    served = [classifier.prepare(images.read(index), ImageLimits()).pixels for index in range(len(images))]
    assert np.array_equal(logits, FakeEngine().infer(np.stack(served)))


def test_an_image_that_goes_while_it_is_measured_is_named(tiny: StoredVersion, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"gone\.png"):
        compute_logits(Classifier(tiny.manifest, FakeEngine()), FileImages(tmp_path, ("gone.png",)))


def test_without_calibration_the_version_s_own_temperature_is_measured(tiny: StoredVersion, tmp_path: Path) -> None:
    calibration = tiny.manifest.calibration.model_copy(update={"temperature": 1.7})
    version = replace(tiny, manifest=tiny.manifest.model_copy(update={"calibration": calibration}))
    found = assess(version, gathered(write_photos(tmp_path / "photos", 3), version), display())
    assert (found.evaluation.images, found.evaluation.temperature) == (9, 1.7)
    assert found.calibration == calibration


def test_the_alias_alone_is_moved_to_a_calibrated_version(tiny_root: Path, tiny: StoredVersion, tmp_path: Path) -> None:
    registry = Registry(tiny_root)
    photos = gathered(write_photos(tmp_path / "photos"), tiny, calibrate=True)
    found = assess(tiny, photos, display())
    assert publish_calibrated(registry, found).number == 2
    assert registry.state("tiny").aliases == {"production": 1}
    third = publish_calibrated(registry, found, "canary")
    assert registry.state("tiny").aliases == {"production": 1, "canary": 3}
    card = (third.folder / CARD).read_text()
    assert "fitted on 21 images of folder photos" in card
    assert photos.fingerprint in card
    for engine in ("onnx", "torch"):
        classifier = load_classifier(third, EngineChoice(engine, "cpu"))
        assert classifier.manifest.calibration == found.calibration


def test_a_version_that_does_not_load_at_its_new_temperature_is_not_published(
    tiny_root: Path, tiny: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = assess(tiny, gathered(write_photos(tmp_path / "photos"), tiny, calibrate=True), display())

    def refuse(*_: object) -> float:
        raise GoldenMismatch("the engine differs")

    monkeypatch.setattr(recalibrate, "check_staged", refuse)
    with pytest.raises(GoldenMismatch):
        publish_calibrated(Registry(tiny_root), found)
    assert Registry(tiny_root).numbers("tiny") == [1]
    assert not list((tiny_root / "tiny").glob(".staging-*"))
