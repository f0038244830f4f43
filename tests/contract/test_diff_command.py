"""`hubel models diff`: what it prints, what it writes, what it remembers, how it exits."""

import functools
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from hubel import build
from model.errors import ModelError
from model.registry import Registry
from model.types import ModelRef
from tests.command import hubel
from tests.conftest import ROOT
from tests.fakes import tiny_release, write_photos
from training import diff
from training.diff import Diff
from training.errors import TrainingError
from training.publish import publish

LABELS = ("ant", "bee", "cow")


@pytest.fixture(scope="module")
def two_versions(published_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two versions of random weights, not to be changed; the one says cow to all, the other ant."""
    root = tmp_path_factory.mktemp("two") / "registry"
    shutil.copytree(published_tiny, root)
    publish(Registry(root), tiny_release(seed=2))
    return root


@pytest.fixture
def root(two_versions: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed at will."""
    copy = tmp_path / "registry"
    shutil.copytree(two_versions, copy)
    return copy


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", LABELS, count=6)
    return tmp_path / "photos"


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    (tmp_path / "loose").mkdir()
    for number, path in enumerate(write_photos(tmp_path / "classes", LABELS, count=2)):
        path.rename(tmp_path / "loose" / f"{number}.png")
    return tmp_path / "loose"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time as few runs as there may be."""
    monkeypatch.setattr(diff, "compare", functools.partial(diff.compare, seconds=0))


def compare(root: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(build(), ["models", "diff", *map(str, arguments), "--registry", str(root)])


def test_the_diff_of_two_versions_is_printed_written_and_remembered(root: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "first"
    result = compare(root, "tiny:1", "tiny:2", "--images", photos, "--json", "--quiet", "--report", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    found = Diff.model_validate(json.loads(result.stdout))
    assert (found.baseline.version, found.candidate.version, found.images) == ("tiny:1", "tiny:2", 18)
    assert (found.agreement.count, len(found.differences)) == (0, 18)
    assert [(row.label, row.change) for row in found.per_class] == [("cow", -1), ("bee", 0), ("ant", 1)]
    assert [timing.batch for timing in found.candidate.timings] == [1, 8]

    assert Diff.model_validate_json((folder / "diff.json").read_text()) == found
    with Image.open(folder / "differences.png") as image:
        assert (image.format, image.width > 500) == ("PNG", True)
    assert "tiny:1 (A) and tiny:2 (B)" in (folder / "index.html").read_text()

    (record,) = Registry(root).state("tiny").diffs
    assert (record.baseline, record.candidate, record.images) == (1, 2, 18)
    assert record.agreement == found.agreement.value
    assert found.baseline.accuracy is not None
    assert record.baseline_accuracy == found.baseline.accuracy.value
    assert (found.fingerprint in record.data, "folder photos" in record.data) == (True, True)


def test_the_table_has_both_versions_side_by_side(root: Path, photos: Path) -> None:
    result = compare(root, "tiny:1", "tiny:2", "--images", photos)
    assert result.exit_code == 0
    for words in ("A: tiny:1", "B: tiny:2", "top-1 accuracy", "calibration error", "median", "classes that changed"):
        assert words in result.stdout


def test_a_version_and_itself_agree_and_that_is_not_remembered(root: Path, photos: Path) -> None:
    result = compare(root, "tiny", "tiny:1", "--images", photos, "--min-agreement", "1", "--json")
    assert result.exit_code == 0
    found = Diff.model_validate_json(result.stdout)
    assert (found.agreement.value, found.differences, found.contract.same) == (1.0, (), True)
    assert Registry(root).state("tiny").diffs == ()


def test_versions_of_two_models_are_compared_and_not_remembered(root: Path, photos: Path) -> None:
    shutil.copytree(root / "tiny", root / "other")
    result = compare(root, "tiny:1", "other:2", "--images", photos)
    assert (result.exit_code, "other:2" in result.stdout) == (0, True)
    assert [Registry(root).state(name).diffs for name in ("tiny", "other")] == [(), ()]


def test_too_little_agreement_ends_with_1_and_is_remembered(root: Path, loose: Path) -> None:
    result = compare(root, "tiny:1", "tiny:2", "--images", loose, "--min-agreement", "1", "--quiet")
    assert result.exit_code == 1
    assert "less than 100.00% (--min-agreement)" in result.stderr
    (record,) = Registry(root).state("tiny").diffs
    assert (record.images, record.baseline_accuracy) == (6, None)
    assert record.agreement < 1
    assert compare(root, "tiny:1", "tiny:2", "--images", loose, "--min-agreement", "0").exit_code == 0


def test_without_record_nothing_is_remembered(root: Path, photos: Path) -> None:
    assert compare(root, "tiny:1", "tiny:2", "--images", photos, "--no-record").exit_code == 0
    assert Registry(root).state("tiny").diffs == ()


def test_notes_do_not_get_into_the_json(root: Path, loose: Path) -> None:
    (loose / "bad.png").write_text("no image")
    result = compare(root, "tiny:1", "tiny:2", "--images", loose, "--max-unreadable", "0.5", "--json")
    assert json.loads(result.stdout)["unreadable"][0]["image"] == "bad.png"
    for words in ("no labels", "bad.png"):
        assert words in result.stderr


def test_the_base_installation_is_enough(two_versions: Path, photos: Path, tmp_path: Path) -> None:
    """Neither torch nor anything else of the extra `torch` is imported, also for the pictures."""
    absent = ("torch", "torchvision", "matplotlib", "sklearn", "scipy", "mlxtend", "onnx")
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nsys.modules.update(dict.fromkeys({absent!r}))\n"
        "from training import diff\ndiff.compare.__kwdefaults__['seconds'] = 0\n"
    )
    result = hubel(
        *("models", "diff", "tiny:1", "tiny:2", "--images", photos, "--report", tmp_path / "report", "--no-record"),
        *("--registry", two_versions),
        PYTHONPATH=str(tmp_path),
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "report" / "differences.png").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny:1", "dogs", "--images", "photos"], ["no model 'dogs'"]),
        (["tiny:1", "tiny:9", "--images", "photos"], ["no version 9"]),
        (["tiny:1", "tiny:2"], ["--images"]),
        (["tiny:1", "tiny:2", "--images", "photos", "--min-agreement", "95"], ["--min-agreement"]),
        (["tiny:1", "tiny:2", "--images", "nowhere"], ["there is no nowhere"]),
        (["tiny:1", "tiny:2", "--images", "photos", "--report", "/proc/nowhere"], ["/proc/nowhere cannot be made"]),
    ],
)
def test_what_is_wrong_is_said_and_ends_with_2(arguments: list[str], words: list[str], two_versions: Path) -> None:
    result = compare(two_versions, *arguments)
    if not isinstance(result.exception, ModelError | TrainingError):  # which `main` ends with 2
        assert result.exit_code == 2
    for word in words:
        assert word in f"{result.stderr} {result.exception}"


def test_an_unknown_version_is_a_line_and_no_traceback(two_versions: Path) -> None:
    result = hubel("models", "diff", "tiny:1", "tiny:9", "--images", "photos", "--registry", two_versions)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "no version 9" in result.stderr


def test_an_alias_is_what_it_means_now(root: Path, photos: Path) -> None:
    Registry(root).promote(ModelRef("tiny", version=2), "canary")
    result = compare(root, "tiny", "tiny@canary", "--images", photos, "--json", "--quiet")
    assert json.loads(result.stdout)["candidate"]["version"] == "tiny:2"
