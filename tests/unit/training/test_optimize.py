"""A version of reduced precision: what it is made of, what it is compared with, and when there is none."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import CARD, EXPLAIN_NETWORK, GOLDEN, NETWORK, WEIGHTS, read_golden, verify_files
from model.classifier import load_classifier
from model.engines import selection
from model.engines.selection import EngineChoice
from model.errors import RegistryUnavailable
from model.manifest import EngineName
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.fakes import write_photos
from tests.unit.training.test_assess import display, gathered
from training import optimize, trial
from training.assess import prepare_all
from training.errors import NotReducible
from training.optimize import check_reducible, publish_reduced, stage_reduced
from training.photos import Photos
from training.precision import Goal, ReducedPrecision
from training.quantize import quantize_network

LABELS = ("ant", "bee", "cow")


@pytest.fixture
def photos(tiny: StoredVersion, tmp_path: Path) -> Photos:
    write_photos(tmp_path / "photos", LABELS)
    return gathered(tmp_path / "photos", tiny, calibrate=True)


def publish(
    root: Path, version: StoredVersion, photos: Photos, precision: ReducedPrecision = "int8", alias: str | None = None
) -> StoredVersion:
    registry, goal = Registry(root), Goal(precision, calibration_images=25)
    with stage_reduced(registry, version, photos, goal, display(), seconds=0) as candidate:
        assert candidate.trial.found.refusal == ""
        publish_reduced(registry, candidate, alias)
    return registry.version(ModelRef("tiny", version=2))


def same_files(first: StoredVersion, second: StoredVersion) -> set[str]:
    return {name for name, record in first.manifest.files.items() if second.manifest.files.get(name) == record}


def test_an_int8_version_has_another_network_and_golden_outputs_of_its_own(
    tiny_root: Path, tiny: StoredVersion, photos: Photos
) -> None:
    version = publish(tiny_root, tiny, photos, alias="canary")
    manifest = version.manifest
    verify_files(version.folder, manifest)
    assert (manifest.precision, manifest.tolerance, manifest.engines) == ("int8", 0.1, ("onnx", "openvino"))
    assert same_files(tiny, version) == {WEIGHTS, EXPLAIN_NETWORK, "layers.json"}
    assert Registry(tiny_root).state("tiny").aliases == {"production": 1, "canary": 2}
    classifier = load_classifier(version, EngineChoice())
    golden = read_golden(version.folder)
    assert np.array_equal(classifier.engine.infer(golden.pixels), golden.logits)
    assert np.array_equal(golden.pixels, read_golden(tiny.folder).pixels)
    assert not np.array_equal(golden.logits, read_golden(tiny.folder).logits)


def test_its_card_and_its_report_say_what_it_is_made_of_and_what_it_costs(
    tiny_root: Path, tiny: StoredVersion, photos: Photos
) -> None:
    version = publish(tiny_root, tiny, photos)
    card = (version.folder / CARD).read_text(encoding="utf-8")
    for words in (
        "## What int8 costs",
        "Made of tiny:1 by `hubel optimize --int8`",
        "25 calibration images",
        "30 other images of folder photos",
        "| top-1 accuracy |",
        "| images/s, in batches of 8 |",
        "engines against the golden outputs",
        photos.fingerprint,
    ):
        assert words in card
    report = json.loads((version.folder / "report" / "precision.json").read_text())
    assert (report["base"], report["images"], report["range_images"]) == ("tiny:1", 30, 25)
    assert "tiny:1, in int8" in (version.folder / "report" / "index.html").read_text(encoding="utf-8")
    manifest = version.manifest
    assert manifest.provenance.source == f"hubel optimize --int8, of tiny:1; {tiny.manifest.provenance.source}"
    assert manifest.provenance.recipe["calibration_images"] == 25
    assert manifest.metrics["test_accuracy"] == report["reduced"]["accuracy"]["top1"]
    assert manifest.metrics["test_accuracy_in_fp32"] == report["fp32"]["accuracy"]["top1"]
    assert manifest.metrics["agreement_with_fp32"] == report["agreement"]["value"]


def test_the_images_that_calibrate_are_never_measured(tiny_root: Path, tiny: StoredVersion, photos: Photos) -> None:
    seen: list[np.ndarray] = []

    def quantize(source: Path, target: Path, pixels: np.ndarray) -> None:
        seen.append(pixels)
        quantize_network(source, target, pixels)

    classifier = load_classifier(tiny, EngineChoice("onnx", "cpu"))
    measured = prepare_all(classifier, photos.collection.images, photos.measured)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimize, "quantize_network", quantize)
        for _ in range(2):
            goal = Goal(calibration_images=25)
            with stage_reduced(Registry(tiny_root), tiny, photos, goal, display(), seconds=0):
                pass
    first, again = seen
    assert (len(first), np.array_equal(first, again)) == (25, True)
    assert not {image.tobytes() for image in first} & {image.tobytes() for image in measured}


def test_a_candidate_that_is_not_published_leaves_nothing(tiny_root: Path, tiny: StoredVersion, photos: Photos) -> None:
    before = sorted(tiny_root.rglob("*"))
    with stage_reduced(Registry(tiny_root), tiny, photos, Goal(), display(), seconds=0):
        assert sorted(tiny_root.rglob("*")) != before
    with (
        pytest.raises(KeyboardInterrupt),
        stage_reduced(Registry(tiny_root), tiny, photos, Goal(), display(), seconds=0),
    ):
        raise KeyboardInterrupt
    assert sorted(tiny_root.rglob("*")) == before


def test_a_bf16_version_has_the_same_files_and_is_computed_otherwise(
    tiny_root: Path, tiny: StoredVersion, photos: Photos
) -> None:
    version = publish(tiny_root, tiny, photos, "bf16")
    manifest = version.manifest
    assert (manifest.precision, manifest.tolerance, manifest.engines) == ("bf16", 0.1, ("openvino", "torch"))
    assert same_files(tiny, version) == {WEIGHTS, NETWORK, EXPLAIN_NETWORK, "layers.json"}
    assert version.manifest.files[GOLDEN] != tiny.manifest.files[GOLDEN]
    classifier = load_classifier(version, EngineChoice("torch", "cpu"))
    assert not np.array_equal(read_golden(version.folder).logits, read_golden(tiny.folder).logits)
    assert classifier.manifest.precision == "bf16"
    assert "computed in bf16" in (version.folder / CARD).read_text(encoding="utf-8")


def test_labels_that_the_version_does_not_know_yet_calibrate_it_and_known_ones_do_not(
    tiny_root: Path, tiny: StoredVersion, photos: Photos
) -> None:
    calibration = tiny.manifest.calibration.model_copy(update={"temperature": 1.7, "calibrated": True, "note": "Once."})
    version = dataclasses.replace(tiny, manifest=tiny.manifest.model_copy(update={"calibration": calibration}))
    for known, temperature, words in (
        (True, 1.7, "Once. The temperature is that of tiny:1"),
        (False, None, "fitted on 30"),
    ):
        told = dataclasses.replace(photos, known=known)
        with stage_reduced(Registry(tiny_root), version, told, Goal(), display(), seconds=0) as candidate:
            found = candidate.manifest.calibration
            assert words in found.note
            assert (found.temperature == temperature) == known
            assert found.temperature == candidate.trial.found.reduced.temperature
            assert candidate.trial.found.fitted_images == (0 if known else 30)
            assert any("too sure" in note for note in candidate.trial.found.notes) == known


def test_images_without_labels_tell_how_often_both_say_the_same(
    tiny_root: Path, tiny: StoredVersion, tmp_path: Path
) -> None:
    (tmp_path / "loose").mkdir()
    for number, path in enumerate(write_photos(tmp_path / "photos", LABELS)):
        path.rename(tmp_path / "loose" / f"{number}.png")
    photos = gathered(tmp_path / "loose", tiny, calibrate=True, unlabelled=True)
    assert (photos.labelled, len(photos.fitted), len(photos.measured)) == (False, 30, 30)
    version = publish(tiny_root, tiny, photos)
    assert version.manifest.metrics == {"agreement_with_fp32": 1.0}
    assert version.manifest.calibration == tiny.manifest.calibration
    assert "has not been measured" in (version.folder / CARD).read_text(encoding="utf-8")


def with_engines(version: StoredVersion, *engines: EngineName) -> StoredVersion:
    return dataclasses.replace(version, manifest=version.manifest.model_copy(update={"engines": engines}))


def test_what_cannot_be_reduced_is_refused_before_the_work(
    tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced = dataclasses.replace(tiny, manifest=tiny.manifest.model_copy(update={"precision": "int8"}))
    with pytest.raises(NotReducible, match="tiny:1 is int8 already"):
        check_reducible(reduced, "bf16")
    files = {name: record for name, record in tiny.manifest.files.items() if name != NETWORK}
    bare = dataclasses.replace(tiny, manifest=tiny.manifest.model_copy(update={"files": files}))
    with pytest.raises(NotReducible, match=r"tiny:1 holds no model\.onnx"):
        check_reducible(bare, "int8")
    monkeypatch.setattr(selection, "is_installed", lambda engine: engine == "onnx")
    with pytest.raises(NotReducible, match=r"nothing on this machine computes tiny:1 in bf16.*openvino, torch"):
        check_reducible(tiny, "bf16")
    check_reducible(tiny, "int8")
    monkeypatch.setattr(selection, "is_installed", lambda engine: engine != "openvino")
    with pytest.raises(NotReducible, match="runs on openvino;"):
        check_reducible(with_engines(tiny, "onnx"), "bf16")


def test_answers_that_are_no_numbers_are_refused(
    tiny_root: Path, tiny: StoredVersion, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "compute_all_logits", lambda *_: [np.zeros((60, 3)), np.full((60, 3), np.nan)])
    with (
        pytest.raises(NotReducible, match="what is no number in int8"),
        stage_reduced(Registry(tiny_root), tiny, photos, Goal(), display(), seconds=0),
    ):
        pass


def test_a_full_disk_is_told_as_such(
    tiny_root: Path, tiny: StoredVersion, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(optimize, "copy_files", fail)
    with (
        pytest.raises(RegistryUnavailable, match="No space left"),
        stage_reduced(Registry(tiny_root), tiny, photos, Goal(), display(), seconds=0),
    ):
        pass


def test_a_calibration_is_noted_where_one_image_is_more_than_the_limit(
    tiny_root: Path, tiny: StoredVersion, photos: Photos
) -> None:
    with stage_reduced(Registry(tiny_root), tiny, photos, Goal(), display(), seconds=0) as candidate:
        assert any("one is 3.33 points" in note for note in candidate.trial.found.notes)
