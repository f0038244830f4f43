"""`hubel evaluate`: what it prints, what it publishes, what it refuses."""

import hashlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.command import hubel
from tests.unit.training.test_assess import write_photos
from training.assess import assess
from training.evaluation import Evaluation
from training.photos import Wish, gather
from training.progress import Display


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", labels=("Ant", "BEE", "cow"))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.extra
def test_a_calibration_publishes_the_same_network_with_its_temperature(
    tiny_root: Path, tiny: StoredVersion, photos: Path
) -> None:
    before = digests(tiny.folder)
    result = hubel("evaluate", "tiny", photos, "--calibrate", "--json", "--registry", tiny_root)
    assert (result.returncode, "published tiny:2" in result.stderr) == (0, True), result.stderr
    evaluation = Evaluation.model_validate(json.loads(result.stdout))

    version = Registry(tiny_root).version(ModelRef("tiny", version=2))
    manifest = version.manifest
    assert manifest.calibration.calibrated
    assert manifest.calibration.temperature == evaluation.temperature != 1
    assert "21 images of folder photos" in manifest.calibration.note
    assert manifest.metrics["test_accuracy"] == evaluation.top1
    assert "tiny:1" in manifest.provenance.source
    assert (manifest.labels, manifest.preprocessing) == (tiny.manifest.labels, tiny.manifest.preprocessing)

    assert digests(tiny.folder) == before
    after = digests(version.folder)
    assert {name: after[name] for name in before if name not in ("card.md", "manifest.json")} == {
        name: digest for name, digest in before.items() if name not in ("card.md", "manifest.json")
    }
    assert "report/index.html" in after
    assert "folder photos" in (version.folder / "card.md").read_text()
    assert Registry(tiny_root).state("tiny").aliases == {"production": 1}
    assert load_classifier(version, EngineChoice("onnx", "cpu")).manifest.calibration.calibrated


def test_an_evaluation_alone_prints_a_table_and_publishes_nothing(
    tiny_root: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "reports" / "first"
    result = hubel("evaluate", "tiny:1", photos, "--report", folder, "--registry", tiny_root)
    assert (result.returncode, result.stderr) == (0, "")
    for words in ("42", "top-1", "macro F1", "calibration error", "Brier", "temperature"):
        assert words in result.stdout
    assert "folder photos" in (folder / "index.html").read_text()
    assert Evaluation.model_validate_json((folder / "evaluation.json").read_text()).images == 42
    assert Registry(tiny_root).numbers("tiny") == [1]


@pytest.mark.extra
def test_labels_that_are_not_the_version_s_end_the_command(tiny_root: Path, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 1, ("ants", "bee", "cow"))
    result = hubel("evaluate", "tiny", folder, "--registry", tiny_root)
    assert result.returncode == 2
    for words in ("'ants' (nearest: 'ant')", "knows 3 labels"):
        assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny", "photos", "--alias", "canary"], ["--alias", "--calibrate"]),
        (["tiny", "photos", "--calibrate", "--alias", "7"], ["version number"]),
        (["dogs", "photos"], ["no model 'dogs'"]),
        (["tiny", "photos", "--report", "/proc/nowhere"], ["/proc/nowhere cannot be made"]),
    ],
)
def test_what_is_wrong_is_said_before_the_work(arguments: list[str], words: list[str], published_tiny: Path) -> None:
    result = hubel("evaluate", *arguments, HUBEL_REGISTRY=str(published_tiny))
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    for word in words:
        assert word in result.stderr


def test_without_torch_the_line_to_type_is_named(published_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    )
    result = hubel("evaluate", "tiny", "photos", "--registry", published_tiny, PYTHONPATH=str(tmp_path))
    assert (result.returncode, "pip install 'hubel[torch]'" in result.stderr) == (2, True)


@pytest.mark.extra
def test_imagenet_recognises_the_sample_as_its_reference_does(
    default_registry: Path, data: Path, tmp_path: Path
) -> None:
    """The sample's reference is 441 of 500, top-5 490, with another decoder."""
    version = Registry(default_registry).version(ModelRef.parse("imagenet"))
    display = Display(Console(file=io.StringIO()), quiet=True)
    wish = Wish(str(data / "imagenet-sample"), label_column="class_index")
    evaluation = assess(version, gather(wish, version, tmp_path, display), display).evaluation
    assert evaluation.images == 500
    assert abs(evaluation.top1 * 500 - 441) <= 3
    assert abs(evaluation.top_k * 500 - 490) <= 3
