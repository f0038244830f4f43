import datetime as dt
import re

import numpy as np
import pytest
from pydantic import JsonValue

from model.manifest import Architecture, Calibration, Manifest, Provenance
from model.preprocessing import Preprocessing
from training.card import write_card
from training.evaluation import Evaluation, evaluate

RECIPE: dict[str, JsonValue] = {"epochs": 15, "schedule": "one cycle", "layers": [1, 2]}


def manifest(
    *, calibrated: bool = True, labels: tuple[str, ...] = ("cat", "dog", "owl"), seed: int | None = 7
) -> Manifest:
    return Manifest(
        name="pets",
        architecture=Architecture(name="classic"),
        labels=labels,
        preprocessing=Preprocessing(
            mode="RGB", height=32, width=48, resize="stretch", interpolation="bilinear", mean=(0.5,) * 3, std=(0.2,) * 3
        ),
        calibration=Calibration(
            temperature=1.5 if calibrated else 1, calibrated=calibrated, note="Fitted on 40 photos."
        ),
        engines=("onnx",),
        parameters=1_234_567,
        metrics={"test_accuracy": 0.75},
        provenance=Provenance(
            created=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
            source="hubel train pets",
            licence="CC0-1.0",
            seed=seed,
            data="300 photos",
            recipe=RECIPE,
            versions={"python": "3.11.9", "torch": "2.14.1"},
        ),
    )


def evaluation(labels: tuple[str, ...] = ("cat", "dog", "owl"), images: int = 90) -> Evaluation:
    """Of a network that recognises a class the better the higher its index is."""
    generator = np.random.default_rng(0)
    targets = np.arange(images) % len(labels)
    skill = np.linspace(0.5, 4, len(labels))[targets]
    logits = generator.normal(size=(images, len(labels))) + skill[:, None] * np.eye(len(labels))[targets]
    return evaluate(logits, targets, labels, 1.5)


def card(measured: Evaluation | None = None, **manifest_arguments: object) -> str:
    return write_card(
        manifest(**manifest_arguments),  # type: ignore[arg-type]
        title="Pets",
        difference=2e-6,
        evaluation=measured,
        facts=[("split", "70 : 10 : 20"), ("fingerprint", "abc123")],
        warnings=["The class owl has 3 images only."],
    )


def tables(text: str) -> list[list[int]]:
    """Return the number of cells of each row, table by table."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [[len(re.findall(r"(?<!\\)\|", line)) - 1 for line in block.splitlines()] for block in blocks]


@pytest.mark.parametrize(
    "fact",
    [
        "classic, 1,234,567 parameters",
        "32x48x3 (H x W x C), resize 'stretch'",
        "300 photos",
        "hubel train pets",
        "CC0-1.0",
        "| calibrated | yes |",
        "largest difference of a probability 2.0e-06",
        "| test accuracy | 0.7500 |",
        "| split | 70 : 10 : 20 |",
        "| fingerprint | abc123 |",
        "| seed | 7 |",
        "epochs 15, schedule one cycle, layers \\[1, 2\\]",
        "python 3.11.9, torch 2.14.1",
        "2026-01-02",
        "Fitted on 40 photos.",
        "- The class owl has 3 images only.",
    ],
)
def test_a_card_tells_where_a_version_comes_from(fact: str) -> None:
    assert fact in card(evaluation())


def test_a_card_tells_each_figure_before_and_after_calibration() -> None:
    measured = evaluation()
    text = card(measured)
    assert f"{measured.top1:.2%} ± {measured.top1_standard_error:.2%}" in text
    for name in ("nll", "ece", "brier"):
        assert f"| {getattr(measured.uncalibrated, name):.4f} | {getattr(measured.calibrated, name):.4f} |" in text
    assert "top-3" not in text  # of three classes, the right one always is
    assert "90 images from the same source as the training images" in text


def test_a_card_without_an_evaluation_tells_how_to_get_one() -> None:
    text = card(calibrated=False)
    assert "`calibrated: false`" in text
    assert "`hubel evaluate pets PHOTOS --calibrate`" in text
    assert "Results" not in text
    assert "has not been measured" in text


def test_a_card_names_the_command_to_calibrate_with_once_where_the_note_does() -> None:
    command = "hubel evaluate pets PHOTOS --calibrate"
    noted = manifest(calibrated=False).model_copy(update={"calibration": Calibration(note=f"To fit one: {command}")})
    section = write_card(noted, title="Pets", difference=0).split("## How sure it says it is")[1]
    assert section.count(command) == 1


def test_a_card_of_other_photos_names_them() -> None:
    text = write_card(manifest(), title="Pets", difference=0, evaluation=evaluation(), photos="folder holidays")
    assert "makes the labels of folder holidays most likely" in text
    assert "90 images of folder holidays" in text
    assert "training images" not in text


def test_a_seed_that_there_was_not_is_not_told() -> None:
    assert "| seed |" not in card(seed=None)
    assert "| seed | 0 |" in card(seed=0)


def test_many_classes_are_told_by_their_ten_worst() -> None:
    labels = tuple(f"class {i:03d}" for i in range(102))
    text = card(evaluation(labels, images=1020), labels=labels)
    told = re.findall(r"^\| class (\d+) \|", text, flags=re.MULTILINE)
    assert len(told) == 10
    assert max(map(int, told)) < 51  # those that it recognises worst
    assert "top-5 accuracy" in text


def test_no_label_breaks_a_table() -> None:
    labels = (
        "a|b",
        "line\nbreak\r\n",
        "`tick` \\|",
        "<script>",
        "_x_ * [a](b)",
        "",
        "höhlenbär 向日葵 🌻",
        "\udcff\x1b",
    )
    text = card(evaluation(labels), labels=labels)
    for rows in tables(text):
        assert len(set(rows)) == 1
    assert "a\\|b" in text
    assert "line break" in text
    assert "<script>" not in text.replace("\\<", "")
    text.encode("utf-8")
