"""How two versions differ: what is counted, what is timed, what is shown."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from model.checkpoint import CARD, NETWORK
from model.classifier import Classifier
from model.engines.base import Logits
from model.errors import InferenceFailed
from model.manifest import Calibration
from model.preprocessing import Pixels, prepare_image
from model.registry import StoredVersion
from tests.fakes import TINY_LABELS, encode, noise
from training import answers, diff
from training.answers import BATCH, open_photos, share_classes
from training.collection import ArrayImages, Collection
from training.diff import Diff, Difference, Said, compare, compare_contracts, mcnemar, time_in_turns
from training.diff_page import SHOWN_LIMIT, choose_shown, write_diff
from training.errors import InvalidData, UnreadableImages
from training.evaluation import evaluate
from training.metrics import interval
from training.survey import survey

# What A and B give each of six images, two of each class, ant, bee and cow in turn.
A_SAYS = np.array(
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]]
)
B_SAYS = np.array(
    [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.7, 0.2], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.1, 0.85, 0.05]]
)
TRUTHS = np.array([0, 0, 1, 1, 2, 2])


class ScriptedEngine:
    """An engine that reads from an image's red which row of probabilities it is to answer."""

    name = "onnx"
    device = "cpu"
    one_core = False

    def __init__(self, probabilities: np.ndarray) -> None:
        self.logits = np.log(probabilities).astype(np.float32)
        self.batches: list[int] = []

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        self.batches.append(len(pixels))
        return np.asarray(self.logits[pixels[:, 0, 0, 0]])

    def stop(self) -> None:
        """It never takes long."""

    def release(self) -> None:
        """It holds nothing."""


def script(monkeypatch: pytest.MonkeyPatch, *engines: ScriptedEngine) -> None:
    """Let the n-th version that is loaded answer by the n-th engine."""
    waiting = list(engines)
    monkeypatch.setattr(diff, "load_classifier", lambda version, _: Classifier(version.manifest, waiting.pop(0)))


def relabelled(version: StoredVersion, labels: tuple[str, ...], number: int = 2) -> StoredVersion:
    return replace(version, number=number, manifest=version.manifest.model_copy(update={"labels": labels}))


def plain(row: int) -> bytes:
    return encode(Image.new("RGB", (20, 20), (row, 0, 0)))


def write_rows(folder: Path, labels: tuple[str, ...] = TINY_LABELS) -> Path:
    for row, truth in enumerate(TRUTHS):
        (folder / labels[truth]).mkdir(parents=True, exist_ok=True)
        (folder / labels[truth] / f"{row}.png").write_bytes(plain(row))
    return folder


def write_loose(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    for row in range(count):
        (folder / f"{row}.png").write_bytes(plain(row))
    return folder


def opened(folder: Path) -> Collection:
    return open_photos(str(folder), work=folder.parent)


def measured(a: StoredVersion, b: StoredVersion, folder: Path, max_unreadable: float = 0.0) -> Diff:
    return compare(a, b, opened(folder), max_unreadable=max_unreadable, seconds=0)


@pytest.fixture
def second(tiny: StoredVersion) -> StoredVersion:
    return relabelled(tiny, TINY_LABELS)


@pytest.fixture
def found(tiny: StoredVersion, second: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diff:
    """A and B on the six images with their labels."""
    script(monkeypatch, ScriptedEngine(A_SAYS), ScriptedEngine(B_SAYS))
    return measured(tiny, second, write_rows(tmp_path / "photos"))


def test_agreement_and_accuracy_are_those_computed_by_hand(found: Diff) -> None:
    assert (found.images, found.agreement.count, found.agreement.value) == (6, 3, 0.5)
    assert found.agreement.interval == interval(0.5, 6)
    assert (found.baseline.accuracy, found.candidate.accuracy) != (None, None)
    assert found.baseline.accuracy is not None
    assert found.candidate.accuracy is not None
    assert (found.baseline.accuracy.count, found.candidate.accuracy.count) == (4, 4)
    assert found.verdict is not None
    verdict = found.verdict.model_dump()
    assert verdict == {"both": 3, "only_baseline": 1, "only_candidate": 1, "neither": 1, "p_value": 1.0}


def test_probabilities_are_compared_on_every_image(found: Diff) -> None:
    changes = np.abs(A_SAYS.max(axis=1) - B_SAYS.max(axis=1))
    assert found.mean_probability_change == pytest.approx(changes.mean(), abs=1e-6)
    assert found.largest_probability_change == pytest.approx(0.2, abs=1e-6)
    assert found.largest_change_image == "cow/4.png"


def test_the_differences_are_named_the_surest_first(found: Diff) -> None:
    told = [
        (each.image, each.baseline.label, each.candidate.label, each.truth, each.index) for each in found.differences
    ]
    assert told == [
        ("cow/5.png", "ant", "bee", "cow", 5),
        ("ant/1.png", "ant", "bee", "ant", 1),
        ("bee/3.png", "ant", "bee", "bee", 3),
    ]
    assert found.differences[0].baseline.probability == pytest.approx(0.9, abs=1e-6)


def test_the_classes_that_lost_most_come_first(found: Diff) -> None:
    rows = [(row.label, row.images, row.baseline_right, row.candidate_right, row.change) for row in found.per_class]
    assert rows == [("ant", 2, 2, 1, -0.5), ("cow", 2, 1, 1, 0.0), ("bee", 2, 1, 2, 0.5)]


def test_calibration_is_that_of_an_evaluation_at_the_version_s_temperature(
    tiny: StoredVersion, second: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration(temperature=1.7, calibrated=True)
    second = replace(second, manifest=second.manifest.model_copy(update={"calibration": calibration}))
    script(monkeypatch, ScriptedEngine(A_SAYS), ScriptedEngine(B_SAYS))
    result = measured(tiny, second, write_rows(tmp_path / "photos"))
    wanted = evaluate(np.log(B_SAYS), TRUTHS, TINY_LABELS, 1.7).calibrated
    reliance = result.candidate.reliance
    assert (reliance.temperature, reliance.calibrated, reliance.images) == (1.7, True, 6)
    assert reliance.nll == pytest.approx(wanted.nll, abs=1e-6)
    assert reliance.ece == pytest.approx(wanted.ece, abs=1e-6)
    assert not result.baseline.reliance.calibrated


@pytest.mark.parametrize(
    ("pair", "p_value"),
    [((0, 0), 1.0), ((5, 5), 1.0), ((0, 5), 2 / 32), ((5, 0), 2 / 32), ((1, 9), 22 / 1024), ((2, 3), 1.0)],
)
def test_mcnemar_is_the_binomial_s_two_tails(pair: tuple[int, int], p_value: float) -> None:
    assert mcnemar(*pair) == pytest.approx(p_value, abs=1e-12)


def test_mcnemar_takes_many_pairs() -> None:
    assert mcnemar(10_000, 10_000) == 1.0
    assert 0 < mcnemar(4_900, 5_100) < 0.05


def test_a_version_agrees_with_itself(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number, label in enumerate(TINY_LABELS * 2):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.png").write_bytes(encode(noise(seed=number)))
    result = measured(tiny, tiny, folder)
    assert (result.agreement.value, result.differences, result.largest_probability_change) == (1.0, (), 0.0)
    assert result.contract.same
    assert result.baseline.network_bytes == (tiny.folder / NETWORK).stat().st_size
    assert result.baseline.engine == "onnx on cpu"


def test_images_without_labels_are_compared_without_a_verdict(
    tiny: StoredVersion, second: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, ScriptedEngine(A_SAYS), ScriptedEngine(B_SAYS))
    result = measured(tiny, second, write_loose(tmp_path / "photos"))
    assert (result.images, result.agreement.count) == (6, 3)
    assert (result.verdict, result.per_class, result.baseline.accuracy) == (None, (), None)
    assert (result.baseline.reliance.nll, result.candidate.reliance.ece) == (None, None)
    assert [each.truth for each in result.differences] == [None] * 3
    assert any("no labels" in note for note in result.notes)


def test_a_table_without_labels_does_not_hide_loose_images_and_one_with_labels_is_read(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", 4)
    (folder / "sizes.csv").write_text("file,width\n0.png,20\n")
    assert opened(folder).labels == ()
    rows = "".join(f"{row}.png,{TINY_LABELS[row % 2]}\n" for row in range(4))
    (folder / "labels.csv").write_text("file,label\n" + rows)
    assert opened(folder).labels == ("ant", "bee")


def test_of_data_in_parts_the_test_part_is_taken(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_rows(tmp_path / "photos" / part)
    assert {opened(tmp_path / "photos").images.name(index).split("/")[0] for index in range(6)} == {"test"}


def test_answers_are_compared_by_label_and_not_by_index(
    tiny: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = relabelled(tiny, ("cow", "ant", "bee"))
    script(monkeypatch, ScriptedEngine(A_SAYS), ScriptedEngine(A_SAYS[:, [2, 0, 1]]))
    result = measured(tiny, second, write_rows(tmp_path / "photos", ("Ant", "BEE", "cow")))
    assert (result.agreement.value, result.contract.labels_reordered) == (1.0, True)
    assert result.candidate.accuracy == result.baseline.accuracy
    assert result.candidate.reliance.nll == pytest.approx(result.baseline.reliance.nll)


def test_a_class_that_only_one_version_knows_is_a_mistake_of_the_other(
    tiny: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = relabelled(tiny, ("ant", "bee", "dog"))
    script(monkeypatch, ScriptedEngine(A_SAYS), ScriptedEngine(A_SAYS))
    result = measured(tiny, second, write_rows(tmp_path / "photos"))
    assert (result.contract.labels_only_baseline, result.contract.labels_only_candidate) == (("cow",), ("dog",))
    assert not result.contract.labels_reordered
    assert result.agreement.count == 5  # cow and dog are one class index and two labels
    assert result.verdict is not None
    assert (result.verdict.only_baseline, result.verdict.only_candidate) == (1, 0)
    assert (result.baseline.reliance.images, result.candidate.reliance.images) == (6, 4)
    assert "tiny:2 does not know the class of 2 images, which it gets wrong therefore: cow." in result.notes


def test_a_label_that_occurs_twice_is_two_classes(tiny: StoredVersion) -> None:
    twice = relabelled(tiny, ("crane", "bee", "crane")).manifest
    shared = share_classes(twice, twice.model_copy(update={"labels": ("bee", "crane", "crane")}))
    assert shared.labels == ("crane", "bee", "crane")
    assert [places.tolist() for places in shared.places] == [[0, 1, 2], [1, 0, 2]]
    assert shared.own(1).tolist() == [1, 0, 2, -1]


def test_versions_and_data_that_have_no_label_in_common_are_refused(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "photos")
    with pytest.raises(InvalidData, match="no label in common"):
        measured(tiny, relabelled(tiny, ("x", "y", "z")), folder)
    other = write_rows(tmp_path / "others", ("x", "y", "z"))
    with pytest.raises(InvalidData, match=r"none of them.*without labels, put the images into one folder"):
        measured(tiny, tiny, other)


def test_class_indices_are_refused_where_they_mean_different_classes(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "photos", ("0", "1", "2"))
    with pytest.raises(InvalidData, match="number theirs differently"):
        measured(tiny, relabelled(tiny, ("cow", "ant", "bee")), folder)
    assert measured(tiny, tiny, folder).agreement.value == 1


def test_unreadable_images_are_left_out_and_named(
    tiny: StoredVersion, second: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_rows(tmp_path / "photos")
    (folder / "ant" / "1.png").write_text("no image")
    script(monkeypatch, *(ScriptedEngine(says) for says in (A_SAYS, B_SAYS) * 2))
    result = measured(tiny, second, folder, max_unreadable=0.2)
    assert (result.images, result.agreement.count) == (5, 3)
    assert [each.image for each in result.unreadable] == ["ant/1.png"]
    assert any("1 image cannot be read" in note and "ant/1.png" in note for note in result.notes)
    assert [each.index for each in result.differences] == [5, 3]  # places in the data, not among the readable ones
    with pytest.raises(UnreadableImages, match=r"1 of 6 images .*ant/1\.png"):
        measured(tiny, second, folder, max_unreadable=0.1)


def test_data_of_which_nothing_can_be_read_is_refused(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "only.png").write_text("no image")
    with pytest.raises(InvalidData, match=r"no image can be read: only\.png"):
        measured(tiny, tiny, folder, max_unreadable=1)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InvalidData, match="photos is empty"):
        opened(tmp_path / "photos")


def test_logits_that_are_no_numbers_are_refused(
    tiny: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ScriptedEngine(A_SAYS)
    broken.logits[3, 1] = np.nan
    script(monkeypatch, ScriptedEngine(A_SAYS), broken)
    with pytest.raises(InferenceFailed, match="not a finite number"):
        measured(tiny, tiny, write_loose(tmp_path / "photos"))


def test_an_image_is_decoded_once_for_versions_that_want_the_same_pixels(
    tiny: StoredVersion, second: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def count(data: bytes, *rest: object) -> object:
        calls.append(len(data))
        return prepare_image(data, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "prepare_image", count)
    folder = write_loose(tmp_path / "photos")
    shifted = tiny.manifest.preprocessing.model_copy(update={"mean": (0.4,) * 3})
    wider = tiny.manifest.preprocessing.model_copy(update={"width": 14})
    for preprocessing, decoded in ((shifted, 6), (wider, 12)):
        calls.clear()
        script(monkeypatch, ScriptedEngine(A_SAYS), ScriptedEngine(B_SAYS))
        manifest = second.manifest.model_copy(update={"preprocessing": preprocessing})
        measured(tiny, replace(second, manifest=manifest), folder)
        assert len(calls) == decoded


def test_images_are_asked_about_in_batches_that_stay_small(
    tiny: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((2 * BATCH + 3, 12, 12, 3), np.uint8)
    pixels[:, ..., 0] = (np.arange(len(pixels)) % 6)[:, None, None]
    photos = Collection(
        name="rows",
        origin="rows",
        licence="",
        labels=TINY_LABELS,
        images=ArrayImages(pixels),
        targets=TRUTHS[np.arange(len(pixels)) % 6],
        parts=np.full(len(pixels), ""),
    )
    engine, done = ScriptedEngine(A_SAYS), list[int]()
    script(monkeypatch, engine, ScriptedEngine(B_SAYS))
    result = compare(tiny, tiny, photos, max_unreadable=0, seconds=0, on_progress=done.append)
    assert engine.batches[:3] == [BATCH, BATCH, 3]
    assert max(engine.batches) == BATCH
    assert done == [BATCH, 2 * BATCH, 2 * BATCH + 3]
    assert result.fingerprint == survey(photos).fingerprint


def test_images_that_a_version_was_made_with_are_warned_of(tiny: StoredVersion, tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "photos")
    (tiny.folder / CARD).write_text(f"| fingerprint of the data | {survey(opened(folder)).fingerprint} |")
    manifest = tiny.manifest.model_copy(
        update={"files": {name: record for name, record in tiny.manifest.files.items() if name != CARD}}
    )
    version = replace(tiny, manifest=manifest)
    assert sum("too good" in note for note in measured(version, version, folder).notes) == 1


class Clock:
    """A clock on which the n-th run takes as long as it is told to."""

    def __init__(self, durations: list[float]) -> None:
        self.durations, self.now, self.calls = durations, 0.0, 0

    def __call__(self) -> float:
        if self.calls % 2:
            self.now += self.durations[self.calls // 2 % len(self.durations)]
        self.calls += 1
        return self.now


def test_versions_are_timed_in_turns_after_a_warm_up(tiny: StoredVersion) -> None:
    order: list[str] = []

    class Noting(ScriptedEngine):
        def __init__(self, letter: str) -> None:
            super().__init__(A_SAYS)
            self.letter = letter

        def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
            order.append(f"{self.letter}{len(pixels)}")
            return super().infer(pixels, spread=spread)

    pair = Classifier(tiny.manifest, Noting("A")), Classifier(tiny.manifest, Noting("B"))
    examples = np.zeros((3, 12, 12, 3), np.uint8)
    # A takes 2 s and B 4 s; they run as A B B A
    first, second = time_in_turns(pair, (examples, examples), seconds=0, clock=Clock([2.0, 4.0, 4.0, 2.0]))
    assert order[:10] == ["A1", "B1", "A1", "B1", "A1", "B1", "B1", "A1", "A1", "B1"]
    assert (len(order), order[-1]) == (28, "B8")
    assert [(row.batch, row.runs) for row in first] == [(1, 5), (8, 5)]
    assert (first[0].median_ms, first[0].p95_ms, second[0].median_ms) == (2000, 2000, 4000)


def test_what_differs_in_the_manifests_is_named(tiny: StoredVersion) -> None:
    before = tiny.manifest
    preprocessing = before.preprocessing.model_copy(update={"height": 16})
    architecture = before.architecture.model_copy(update={"config": {**before.architecture.config, "dropout": 0.5}})
    after = before.model_copy(
        update={"preprocessing": preprocessing, "architecture": architecture, "engines": ("onnx",), "labels": ("bee",)}
    )
    contract = compare_contracts(before, after)
    assert {change.field: (change.baseline, change.candidate) for change in contract.fields} == {
        "architecture.config.dropout": (None, 0.5),
        "preprocessing.height": (12, 16),
        "engines": (["onnx", "torch"], ["onnx"]),
    }
    assert contract.labels_only_baseline == ("ant", "cow")
    assert not contract.same


def test_a_diff_is_frozen_and_survives_json(found: Diff) -> None:
    assert Diff.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValidationError):
        found.images = 7  # type: ignore[misc]


def test_the_report_is_a_record_a_picture_and_a_page(found: Diff, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "first"
    write_diff(folder, found, opened(tmp_path / "photos").images.read)
    assert json.loads((folder / "diff.json").read_text())["agreement"]["count"] == 3
    with Image.open(folder / "differences.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for row in (1, 3, 5):  # the images themselves
        assert (pixels == (row, 0, 0)).all(axis=1).sum() > 1000
    page = (folder / "index.html").read_text()
    assert page.count("<img ") == 3
    assert re.findall(r"(?:src|href)=.(?!data:)", page) == []
    assert "<script" not in page
    for words in ("3 of 6 images", "Only A is right", "B: bee, 70%", "it is: ant", "tiny:2"):
        assert words in page


def test_a_report_of_versions_that_agree_or_of_images_that_are_gone_is_whole(found: Diff, tmp_path: Path) -> None:
    def gone(_: int) -> bytes:
        raise FileNotFoundError("gone")

    write_diff(tmp_path / "gone", found, gone)
    assert "cow/5.png" in (tmp_path / "gone" / "index.html").read_text()
    same = found.model_copy(update={"differences": (), "per_class": ()})
    write_diff(tmp_path / "same", same, gone)
    assert "On no image" in (tmp_path / "same" / "index.html").read_text()
    assert (tmp_path / "same" / "differences.png").stat().st_size


def test_labels_and_names_are_text_on_the_page(found: Diff, tmp_path: Path) -> None:
    evil = Difference(
        image="<b>.png",
        index=0,
        baseline=Said(label="<script>alert(1)</script>", probability=0.5),
        candidate=Said(label="\u202e日本", probability=0.4),
        truth=None,
    )
    write_diff(tmp_path / "r", found.model_copy(update={"differences": (evil,)}), lambda _: plain(0))
    page = (tmp_path / "r" / "index.html").read_text()
    assert "<script" not in page
    assert "<b>.png" not in page


def test_losses_are_shown_although_other_differences_are_surer() -> None:
    def difference(index: int, right: str) -> Difference:
        said = {letter: Said(label="x" if letter == right else "y", probability=0.5) for letter in "AB"}
        return Difference(image=str(index), index=index, baseline=said["A"], candidate=said["B"], truth="x")

    many = [difference(index, "B") for index in range(100)] + [difference(100 + index, "A") for index in range(30)]
    shown = choose_shown(many)
    assert len(shown) == SHOWN_LIMIT
    assert [each.index for each in shown] == [*range(24), *range(100, 124)]
    assert choose_shown(many[:10]) == many[:10]
