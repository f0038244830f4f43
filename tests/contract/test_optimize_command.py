"""`hubel optimize`: what it prints, what it publishes, what it refuses; and what may be done with such a version."""

import functools
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.registry import Registry
from model.types import ModelRef
from tests import command
from tests.asgi import running
from tests.children import start
from tests.fakes import encode, noise, write_photos
from tests.inside import hubel
from training import diff, optimize
from training.precision import Reduction

LABELS = ("ant", "bee", "cow")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time as few runs as there may be."""
    monkeypatch.setattr(optimize, "stage_reduced", functools.partial(optimize.stage_reduced, seconds=0))
    monkeypatch.setattr(diff, "compare", functools.partial(diff.compare, seconds=0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write_photos(folder, LABELS)
    return folder


@pytest.fixture(scope="module")
def reduced_root(published_tiny: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the tiny version in fp32, int8 and bf16, not to be changed."""
    root = tmp_path_factory.mktemp("reduced") / "registry"
    shutil.copytree(published_tiny, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimize, "stage_reduced", functools.partial(optimize.stage_reduced, seconds=0))
        for option in ("--int8", "--bf16"):
            result = hubel("optimize", "tiny:1", photos, option, "--registry", root)
            assert result.returncode == 0, result.stderr
    return root


def test_a_version_is_made_shown_and_published(tiny_root: Path, photos: Path) -> None:
    result = hubel("optimize", "tiny", photos, "--registry", tiny_root, "--alias", "canary")
    assert result.returncode == 0, result.stderr
    for words in (
        "30 images",
        "30 others",
        "top-1 accuracy",
        "calibration error",
        "images/s",
        "published tiny:2 (canary)",
    ):
        assert words in result.stdout
    assert Registry(tiny_root).version(ModelRef.parse("tiny@canary")).manifest.precision == "int8"


def test_the_figures_are_json_and_nothing_else(tiny_root: Path, photos: Path) -> None:
    result = hubel("optimize", "tiny", photos, "--json", "--calibration-images", "21", "--registry", tiny_root)
    assert result.returncode == 0, result.stderr
    found = Reduction.model_validate(json.loads(result.stdout))
    assert (found.base, found.published, found.precision) == ("tiny:1", "tiny:2", "int8")
    assert (found.range_images, found.fitted_images, found.images) == (21, 30, 30)
    assert "published tiny:2" in result.stderr


def test_a_refusal_has_its_figures(tiny_root: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reduction, "drop", property(lambda _: 3.5))
    before = sorted(tiny_root.rglob("*"))
    result = hubel("optimize", "tiny", photos, "--max-drop", "2.5", "--registry", tiny_root)
    assert result.returncode == 1
    for words in ("in int8, tiny:1 is right on", "3.50 points less, the limit is 2.5", "nothing was published"):
        assert words in result.stderr
    assert "top-1 accuracy" in result.stdout
    assert sorted(tiny_root.rglob("*")) == before


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """Images without labels."""
    (tmp_path / "loose").mkdir()
    for number, path in enumerate(write_photos(tmp_path / "photos", LABELS)):
        path.rename(tmp_path / "loose" / f"{number}.png")
    return tmp_path / "loose"


def test_images_without_labels_will_do(tiny_root: Path, loose: Path) -> None:
    result = hubel("optimize", "tiny", loose, "--registry", tiny_root)
    assert (result.returncode, "same first class" in result.stdout) == (0, True), result.stderr
    assert "top-1" not in result.stdout


def test_without_labels_a_network_that_answers_otherwise_is_refused(
    tiny_root: Path, loose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(source: Path, target: Path, pixels: np.ndarray) -> None:
        model = onnx.load(source)
        (bias,) = (each for each in model.graph.initializer if each.name == "network.classifier.bias")
        bias.CopyFrom(numpy_helper.from_array(np.roll([100, 0, 0], 1).astype(np.float32), bias.name))
        onnx.save_model(model, target)

    monkeypatch.setattr(optimize, "quantize_network", spoil)
    result = hubel("optimize", "tiny", loose, "--json", "--registry", tiny_root)
    found = Reduction.model_validate(json.loads(result.stdout))
    assert (result.returncode, found.published, found.agreement.count) == (1, None, 0)
    for words in ("another class for 30 of 30 images", "no labels", "up to 100.00 points", "nothing was published"):
        assert words in result.stderr
    assert Registry(tiny_root).numbers("tiny") == [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny", "photos", "--int8", "--bf16"], ["one precision"]),
        (["tiny", "photos", "--bf16", "--calibration-images", "50"], ["bf16 needs no ranges"]),
        (["tiny", "photos", "--calibration-images", "5"], ["--calibration-images", "than or equal to 20"]),
        (["tiny", "photos", "--max-drop", "-1"], ["--max-drop"]),
        (["tiny", "photos", "--alias", "7"], ["version number"]),
        (["dogs", "photos"], ["no model 'dogs'"]),
        (["tiny:2", "photos"], ["tiny:2 is int8 already", "fp32"]),
        (["tiny:3", "photos", "--int8"], ["tiny:3 is bf16 already"]),
        (["tiny:1", "nowhere"], ["nowhere"]),
        (["tiny:1", "few"], ["3 images to calibrate on", "it takes 20"]),
        (["tiny:1", "others"], ["'dog'", "knows 3 labels"]),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], words: list[str], reduced_root: Path, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", LABELS, count=1, same=True)
    write_photos(tmp_path / "few", LABELS, count=2)
    write_photos(tmp_path / "others", ("ant", "dog"), count=1)
    result = hubel("optimize", *arguments, "--registry", reduced_root, cwd=tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    said = " ".join(result.stderr.replace("│", " ").split())
    for word in words:
        assert word in said
    assert Registry(reduced_root).numbers("tiny") == [1, 2, 3]


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_what_is_not_installed_is_named_with_the_line_to_type(
    package: str, published_tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name == '{package}' else find(name, *rest)\n"
    )
    result = command.hubel("optimize", "tiny", "photos", "--registry", published_tiny, PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert f"needs {package}, which is not installed: pip install 'hubel[torch]'" in result.stderr


@pytest.mark.extra
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_is_stopped_has_published_nothing(
    number: signal.Signals, tiny_root: Path, photos: Path, tmp_path: Path
) -> None:
    before = sorted(tiny_root.rglob("*"))
    child = start("optimize", "tiny", photos, "--registry", tiny_root, cwd=tmp_path)
    child.wait_until(lambda: bool(list((tiny_root / "tiny").glob(".staging-*/model.onnx"))))
    child.signal(number)
    assert child.wait() == 130, child.stderr
    assert child.stderr.splitlines() == ["hubel: stopped; nothing was published"]
    assert sorted(tiny_root.rglob("*")) == before


@pytest.mark.anyio
async def test_an_int8_version_is_served_as_any(reduced_root: Path) -> None:
    image = encode(noise())
    async with running(reduced_root) as client:
        answers = [(await client.post(f"/v1/models/tiny:{number}/predict", content=image)) for number in (1, 2, 3)]
        detail = (await client.get("/v1/models/tiny:2")).json()
    assert [answer.status_code for answer in answers] == [200] * 3
    bodies = [answer.json() for answer in answers]
    assert [body["version"] for body in bodies] == [1, 2, 3]
    assert [body["calibrated"] for body in bodies] == [False, True, True]
    assert (detail["precision"], "What int8 costs" in detail["card"]) == ("int8", True)
    assert detail["metrics"]["agreement_with_fp32"] == 1.0


def test_a_diff_shows_both_precisions(reduced_root: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(reduced_root, tmp_path / "registry")
    for candidate, precision in (("tiny:2", "int8"), ("tiny:3", "bf16")):
        arguments = ("models", "diff", "tiny:1", candidate, "--images", photos, "--registry", tmp_path / "registry")
        result = hubel(*arguments, "--json", "--quiet")
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert found["agreement"]["value"] == 1
        changed = {row["field"]: row["candidate"] for row in found["contract"]["fields"]}
        assert (changed["precision"], changed["tolerance"]) == (precision, 0.1)
    shown = hubel(*arguments[:3], "tiny:2", *arguments[4:])
    assert ("precision" in shown.stdout, "int8" in shown.stdout) == (True, True)


@pytest.mark.parametrize(("number", "engine"), [(2, "onnx"), (3, "torch")])
def test_it_is_exported_and_imported_whole(number: int, engine: str, reduced_root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "version.tar"
    exported = hubel("export", f"tiny:{number}", "--output", archive, "--registry", reduced_root)
    assert exported.returncode == 0, exported.stderr
    imported = hubel("import", archive, "--name", "copy", "--registry", tmp_path / "other")
    assert imported.returncode == 0, imported.stderr
    copy = Registry(tmp_path / "other").version(ModelRef.parse("copy"))
    original = Registry(reduced_root).version(ModelRef("tiny", version=number))
    assert copy.manifest.files == original.manifest.files
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 12, 3), dtype=np.uint8)
    choice = EngineChoice(engine, "cpu")
    first, second = (load_classifier(version, choice).classify(pixels) for version in (original, copy))
    assert np.array_equal(first, second)


def test_it_is_measured_and_calibrated_as_any(reduced_root: Path, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    shutil.copytree(reduced_root, root)
    result = hubel("evaluate", "tiny:2", photos, "--calibrate", "--registry", root)
    assert result.returncode == 0, result.stderr
    version = Registry(root).version(ModelRef("tiny", version=4))
    assert version.manifest.precision == "int8"
    assert version.manifest.provenance.source.startswith("hubel evaluate --calibrate, of tiny:2; hubel optimize --int8")
    assert load_classifier(version, EngineChoice()).engine.name == "onnx"
