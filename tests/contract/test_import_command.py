"""`hubel import`: its sources, its options, and what it needs torch for."""

import json
from pathlib import Path

import pytest
import torch
import torchvision

from model.archive import write_archive
from model.registry import Registry, StoredVersion
from tests import command
from tests.inside import hubel
from tests.unit.training.test_imports_onnx import write_network


@pytest.fixture
def no_torch(tmp_path: Path) -> str:
    """A path in which torch cannot be found or imported, as in the base install."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import importlib.util as u, sys\nfind = u.find_spec\nsys.modules['torch'] = sys.modules['onnx'] = None\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    )
    return str(folder)


def test_an_archive_is_imported_without_torch_and_answers(
    tiny: StoredVersion, tmp_path: Path, no_torch: str, pytestconfig: pytest.Config
) -> None:
    path = tmp_path / "any.name"
    write_archive(tiny, path)
    root = tmp_path / "elsewhere"
    result = command.hubel("import", path, "--registry", root, PYTHONPATH=no_torch)
    assert (result.returncode, result.stdout) == (0, "published tiny:1 (production)\n")
    result = hubel("import", path, "--name", "other", "--alias", "canary", "--registry", root)
    assert result.stdout == "published other:1 (canary, production)\n"
    photo = pytestconfig.rootpath / "docs" / "cat.jpg"
    answers = [
        json.loads(hubel("predict", photo, "--model", "tiny", "--json", "--registry", registry).stdout)
        for registry in (tiny.folder.parent.parent, root)
    ]
    assert answers[0] == answers[1]
    refused = hubel("import", path, "--arch", "resnet50", "--registry", root)
    assert (refused.returncode, "--arch" in refused.stderr) == (2, True)
    path.write_bytes(path.read_bytes()[:5000])
    broken = hubel("import", path, "--registry", root)
    assert (broken.returncode, "ends too early" in broken.stderr) == (2, True)
    assert Registry(root).numbers("tiny") == [1]


def test_a_network_of_another_program_is_imported_and_says_what_was_assumed(tmp_path: Path) -> None:
    write_network(tmp_path / "My Net.onnx", ending="Softmax")
    (tmp_path / "labels.json").write_text('["ant", "bee", "cow"]')
    options = ["--labels", "labels.json", "--short-side", "20", "--mean", "0.5,0.5,0.5", "--licence", "MIT"]
    root = tmp_path / "registry"
    result = hubel("import", "My Net.onnx", *options, "--registry", root, cwd=tmp_path)
    assert result.stdout.splitlines() == [
        "taken from what is usual for ImageNet: resize crop; bilinear; std 0.229,0.224,0.225",
        "published my-net:1 (production)",
    ]
    manifest = json.loads(hubel("models", "show", "my-net", "--json", "--registry", root).stdout)
    assert (manifest["preprocessing"]["short_side"], manifest["provenance"]["licence"]) == (20, "MIT")
    arch = hubel("import", "My Net.onnx", *options, "--arch", "resnet18", "--registry", root, cwd=tmp_path)
    assert (arch.returncode, "--arch" in arch.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.pth"], ["'missing.pth' is not known", "imagenet"]),
        (["notes.txt"], ["notes.txt is of no kind", ".safetensors", ".onnx"]),
        (["imagenet", "--mean", "0.5"], ["--mean", "leave it out"]),
        (["weights.pth", "--size", "big"], ["'big' is no size"]),
        (["weights.pth", "--std", "a,b,c"], ["no list of numbers"]),
        (["---.pth"], ["choose one", "--name"]),
        (["broken.hubel.tar"], ["not an archive that 'hubel export' wrote"]),
    ],
)
def test_what_cannot_be_imported_is_said(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    for name in ("notes.txt", "weights.pth", "---.pth", "broken.hubel.tar"):
        (tmp_path / name).write_bytes(b"nothing of the kind" * 100)
    source = arguments[0] if arguments[0] != "---.pth" else "./---.pth"
    result = hubel("import", source, *arguments[1:], "--registry", "registry", cwd=tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    said = " ".join(result.stderr.replace("│", " ").split())
    for word in words:
        assert word in said
    assert not list((tmp_path / "registry").glob("*"))


def test_a_checkpoint_without_torch_names_the_line_to_type(tmp_path: Path, no_torch: str) -> None:
    (tmp_path / "weights.pth").write_bytes(b"weights")
    arguments = ("import", tmp_path / "weights.pth", "--registry", tmp_path / "registry")
    result = command.hubel(*arguments, PYTHONPATH=no_torch)
    assert (result.returncode, "pip install 'hubel[torch]'" in result.stderr) == (2, True)


def test_a_checkpoint_is_imported_and_a_pickle_is_not(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    network = torchvision.models.squeezenet1_1(num_classes=2)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    torch.save(network, tmp_path / "whole.pth")
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    options = ["--arch", "squeezenet1_1", "--labels", "labels.txt", "--size", "64", "--registry", "registry"]
    result = hubel("import", "weights.pth", *options, cwd=tmp_path)
    assert result.stdout.splitlines()[1] == "published weights:1 (production)"
    photo = pytestconfig.rootpath / "docs" / "cat.jpg"
    assert hubel("predict", photo, "--model", "weights", "--registry", tmp_path / "registry").returncode == 0
    refused = hubel("import", "whole.pth", *options, cwd=tmp_path)
    assert (refused.returncode, "holds more than tensors" in refused.stderr) == (2, True)
