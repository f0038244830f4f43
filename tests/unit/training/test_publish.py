import dataclasses
import json
import stat
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model.architectures.catalog import build_network
from model.checkpoint import CARD, EXPLAIN_NETWORK, LAYERS, NETWORK
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.errors import CorruptCheckpoint, GoldenMismatch
from model.manifest import Architecture
from model.registry import Registry, StoredVersion
from tests.fakes import reported_release, tiny_release
from training import publish as publish_module
from training.imagenet import import_imagenet, translate
from training.publish import publish


def run(folder: Path, name: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"pixels": pixels}), strict=True))


def test_a_version_has_every_file_with_its_digest(tiny: StoredVersion) -> None:
    files = {path.name for path in tiny.folder.iterdir()}
    assert files == {*tiny.manifest.files, "manifest.json"}
    assert files >= {
        "model.safetensors",
        "model.onnx",
        "model.explain.onnx",
        "layers.json",
        "golden.safetensors",
        "card.md",
    }


def test_the_explaining_network_gives_the_same_logits_and_every_layer(tiny: StoredVersion) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    served = run(tiny.folder, NETWORK, pixels)
    explained = run(tiny.folder, EXPLAIN_NETWORK, pixels)
    assert np.abs(explained["logits"] - served["logits"]).max() < 1e-6
    layers = json.loads((tiny.folder / LAYERS).read_text())["layers"]
    assert {layer["output"] for layer in layers} == set(explained)
    for layer in layers:
        assert list(explained[layer["output"]].shape) == [5, *layer["shape"]]
    by_name = {layer["name"]: layer for layer in layers}
    assert list(by_name) == [
        "normalize", "normalize#2", "conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc1", "fc1_relu",
        "classifier",
    ]  # fmt: skip
    assert by_name["conv2"]["inputs"] == ["pool1"]
    assert by_name["conv1"]["folded"] == ["batch_norm"]
    assert by_name["conv1"]["attributes"]["kernel"] == [3, 3]
    relu = np.maximum(explained[by_name["conv1"]["output"]], 0)
    assert np.array_equal(relu, explained[by_name["relu1"]["output"]])


@pytest.mark.parametrize("name", ["resnet18", pytest.param("mnasnet0_5", marks=pytest.mark.extra)])
def test_a_torchvision_network_can_be_published_and_served(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(name, 3, {})
    release = dataclasses.replace(tiny_release(), network=network, architecture=Architecture(name=name))
    version = publish(Registry(tmp_path), release)
    for engine in ("onnx", "torch"):
        assert load_classifier(version, EngineChoice(engine, "cpu")).engine.name == engine


def test_a_network_whose_export_answers_otherwise_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        name, device, one_core = "onnx", "cpu", True

        def __init__(self, folder: Path, threads: int) -> None:
            pass

        def infer(self, pixels: np.ndarray, *, spread: bool = False) -> np.ndarray:
            return np.zeros((len(pixels), 3), np.float32)

    monkeypatch.setattr(publish_module, "OnnxEngine", Other)
    registry = Registry(tmp_path)
    with pytest.raises(GoldenMismatch):
        publish(registry, tiny_release())
    assert registry.names() == []


def test_the_card_tells_source_licence_and_figures(tmp_path: Path) -> None:
    release = dataclasses.replace(tiny_release(), metrics={"test_accuracy": 0.5}, licence="CC0")
    card = (publish(Registry(tmp_path), release).folder / CARD).read_text()
    for words in ("| licence | CC0 |", "| test accuracy | 0.5000 |", "| calibrated | no"):
        assert words in card


def test_a_report_has_every_engine_and_its_files_are_in_the_manifest(tmp_path: Path) -> None:
    version = publish(Registry(tmp_path), reported_release())
    files = {path.relative_to(version.folder).as_posix() for path in version.folder.rglob("*") if path.is_file()}
    assert files == {*version.manifest.files, "manifest.json"}
    assert "report/index.html" in files
    page = (version.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "onnx" in page
    assert "torch" in page
    assert "| fingerprint of the data | f00 |" in (version.folder / CARD).read_text(encoding="utf-8")
    for path in (version.folder, version.folder / "report"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE((version.folder / "report" / "index.html").stat().st_mode) == 0o644


def test_weights_of_another_network_are_not_imported() -> None:
    network = import_imagenet("imagenet").network
    weights = dict(network.state_dict())
    assert translate(weights, network).keys() == weights.keys()
    weights.popitem()
    with pytest.raises(CorruptCheckpoint, match="not those of EfficientNet-Lite0"):
        translate(weights, network)
