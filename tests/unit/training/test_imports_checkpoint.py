import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms

from model.architectures.catalog import build_network
from model.architectures.timm_networks import read_timm_config
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.errors import EngineUnavailable, UnknownArchitecture
from model.preprocessing import ImageLimits
from model.registry import Registry, StoredVersion
from training.errors import InvalidSource
from training.imports.checkpoint import import_checkpoint
from training.imports.labels import read_labels
from training.imports.preprocessing import USUAL, PixelWish, settle
from training.imports.state_dict import read_state_dict
from training.imports.wish import Wish
from training.publish import publish

ARCH = "squeezenet1_1"
SMALL = PixelWish(size=(64, 64), short_side=72)


def trained(network: nn.Module) -> nn.Module:
    """Give a fresh network the statistics of batch norm that training leaves."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return trained(torchvision.models.get_model(ARCH, weights=None, num_classes=3))


@pytest.fixture
def labels(tmp_path: Path) -> str:
    path = tmp_path / "labels.txt"
    path.write_text("ant\nbee\ncow\n\n")
    return str(path)


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def probabilities(version: StoredVersion, photo: bytes, engine: str) -> np.ndarray:
    classifier = load_classifier(version, EngineChoice(engine, "cpu"))
    pixels = classifier.prepare(photo, ImageLimits()).pixels
    return np.asarray(classifier.classify(pixels[None].copy())[0])


@torch.inference_mode()
def as_its_makers_would(
    network: nn.Module, photo: bytes, sizes: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """The answer of the original network behind torchvision's own transforms; the sizes of crop and short side."""
    size, short_side = sizes
    prepare = transforms.Compose(
        [
            transforms.Resize(short_side, transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    answer: Tensor = network(prepare(image)[None]).softmax(1)[0]
    return np.asarray(answer.numpy())


def test_a_checkpoint_of_torchvision_answers_as_the_network_it_is_of(
    network: nn.Module, labels: str, photo: bytes, tmp_path: Path
) -> None:
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in network.state_dict().items()}
    path = saved(tmp_path / "weights.pth", {"epoch": 3, "state_dict": wrapped})
    found = import_checkpoint(Wish(path, "mine", ARCH, labels, licence="MIT", note="by hand", pixels=SMALL))
    version = publish(Registry(tmp_path / "registry"), found.release)
    expected = as_its_makers_would(network, photo, (64, 72), USUAL.mean, USUAL.std)
    for engine in ("onnx", "torch"):
        assert np.abs(probabilities(version, photo, engine) - expected).max() < 0.01
    manifest = version.manifest
    assert (manifest.architecture.name, manifest.labels) == (ARCH, ("ant", "bee", "cow"))
    assert manifest.provenance.licence == "MIT"
    assert "by hand" in manifest.provenance.source
    assert "SHA-256" in manifest.provenance.source
    assert found.taken.startswith(f"taken from the published weights of {ARCH}: resize crop; bilinear; mean 0.485,")


def test_a_folder_of_timm_says_everything_itself(photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = trained(timm.create_model("test_resnet", num_classes=3))
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "label_names": ["ant", "bee", "cow"],
        "pretrained_cfg": {
            "input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "crop_pct": 0.9,
            "interpolation": "bilinear", "crop_mode": "center", "license": "apache-2.0", "tag": "x",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    found = import_checkpoint(Wish(folder, "hub"))
    assert "taken from config.json: size 64x64" in found.taken
    version = publish(Registry(tmp_path / "registry"), found.release)
    assert version.manifest.architecture.name == "timm/test_resnet"
    assert version.manifest.provenance.licence == "apache-2.0"
    expected = as_its_makers_would(network, photo, (64, 71), (0.5,) * 3, (0.25,) * 3)
    for engine in ("onnx", "torch"):
        assert np.abs(probabilities(version, photo, engine) - expected).max() < 0.01
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find_spec(name))
    assert load_classifier(version, EngineChoice("auto", "cpu")).engine.name == "onnx"
    with pytest.raises(EngineUnavailable, match=r"pip install 'hubel\[timm\]'"):
        load_classifier(version, EngineChoice("torch", "cpu"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"architectures": ["ResNetForImageClassification"], "architecture": None},
            ["transformers", "export it to ONNX"],
        ),
        ({"architecture": None}, ["config.json is not understood: architecture"]),
        ({"model_args": {"checkpoint_path": "evil.pth"}}, ["arguments of its own (checkpoint_path)", "ONNX"]),
        ({"pretrained_cfg": {"mean": "x"}}, ["the pretrained_cfg in", "config.json is not understood"]),
        ({"architecture": "hf-hub:somebody/network"}, ["no architecture 'timm/hf-hub:somebody/network'"]),
        ({}, ["has no weights: model.safetensors or pytorch_model.bin"]),
    ],
)
def test_a_folder_that_cannot_be_built_is_refused(
    change: dict[str, object], words: list[str], labels: str, tmp_path: Path
) -> None:
    config = {"architecture": "test_resnet", **change}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    if change:
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises((InvalidSource, UnknownArchitecture)) as caught:
        import_checkpoint(Wish(tmp_path, "hub", labels=labels))
    for word in words:
        assert word in str(caught.value)


class Payload:
    """What leaves a mark when a pickle of it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


def test_a_pickle_that_would_run_code_does_not_run_it(labels: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = saved(tmp_path / "evil.pth", {"state_dict": {"weight": torch.zeros(1)}, "payload": Payload(marker)})
    with pytest.raises(InvalidSource, match=r"holds more than tensors \(.*getattr\)") as caught:
        import_checkpoint(Wish(path, "evil", ARCH, labels))
    assert "torch.save(model.state_dict(), 'weights.pth')" in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have
    assert marker.exists()


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("features.0.bias"), ["missing: features.0.bias", ARCH]),
        (lambda tensors: {**tensors, "extra.weight": torch.zeros(1)}, ["unexpected: extra.weight"]),
        (
            lambda tensors: {**tensors, "features.0.weight": torch.zeros(1, 2)},
            ["of another shape: features.0.weight (1, 2) for (64, 3, 3, 3)"],
        ),
        (lambda _: {f"x{number}": torch.zeros(1) for number in range(9)}, ["x0, x1, x2, x3 and 5 more"]),
        (
            lambda tensors: {**tensors, "features.0.bias": torch.full((64,), torch.nan)},
            ["features.0.bias", "not finite"],
        ),
        (lambda tensors: {**tensors, "epoch": 3}, ["epoch is no tensor"]),
        (lambda _: [torch.zeros(1)], ["holds no state dict"]),
    ],
)
def test_weights_of_another_network_are_refused_by_name(
    network: nn.Module,
    labels: str,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], object],
    words: list[str],
) -> None:
    path = saved(tmp_path / "weights.pth", change(dict(network.state_dict())))
    with pytest.raises(InvalidSource) as caught:
        import_checkpoint(Wish(path, "mine", ARCH, labels, pixels=SMALL))
    for word in words:
        assert word in str(caught.value)


def test_labels_that_do_not_match_are_told_with_both_numbers(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    names = tmp_path / "labels.json"
    names.write_text(json.dumps(["a", "b", "c", "d"]))
    with pytest.raises(InvalidSource, match=r"has 3 outputs, and .*labels\.json names 4 labels"):
        import_checkpoint(Wish(path, "mine", ARCH, str(names)))
    with pytest.raises(InvalidSource, match="has 3 outputs, and imagenet names 1,000 labels"):
        import_checkpoint(Wish(path, "mine", ARCH, "imagenet"))
    with pytest.raises(InvalidSource, match=r"give --labels FILE"):
        import_checkpoint(Wish(path, "mine", ARCH))
    with pytest.raises(InvalidSource, match="does not say which network"):
        import_checkpoint(Wish(path, "mine"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.txt", "", "are 0"),
        ("labels.txt", "one\n", "are 1"),
        ("labels.txt", "one\n\ntwo\n", "line 2"),
        ("labels.json", '{"0": "a"}', "not a JSON list"),
        ("labels.json", "[", "not JSON"),
        ("labels.txt", b"\xff\xfe", "not UTF-8"),
        ("labels.txt", None, "cannot be read"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, name: str, content: str | bytes | None, words: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidSource, match=words):
        read_labels(str(path))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "missing.pth", "missing.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    if "missing" not in name:
        (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InvalidSource, match=f"{name} (is not a|cannot be read)|{name} is not a safetensors file"):
        read_state_dict(tmp_path / name)


def test_weights_older_than_torchvision_s_names_are_understood(labels: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = trained(torchvision.models.densenet121(num_classes=3))
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.") if "denselayer" in name else name: tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    path = saved(tmp_path / "densenet.pth", old)
    release = import_checkpoint(Wish(path, "dense", "densenet121", labels, pixels=SMALL)).release
    x = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(release.network.eval()(x), network(x))


def test_a_size_that_the_network_does_not_take_is_said(labels: str, network: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", network.state_dict())
    with pytest.raises(InvalidSource, match="does not take images of 8 x 8"):
        import_checkpoint(Wish(path, "mine", ARCH, labels, pixels=PixelWish(size=(8, 8))))


def test_what_is_left_open_is_filled_and_said() -> None:
    found, taken = settle(PixelWish(), USUAL, "here")
    assert (found, taken.startswith("taken from here: size 224x224; resize crop; short side 256;")) == (USUAL, True)
    found, taken = settle(PixelWish(size=(112, 112), mean=(0.0,) * 3, std=(1.0,) * 3), USUAL, "here")
    assert (found.short_side, found.mean, "mean" in taken) == (128, (0.0,) * 3, False)
    found, taken = settle(
        PixelWish((20, 10), None, "stretch", "bicubic", (0.1, 0.2, 0.3), (0.1, 0.2, 0.3)), USUAL, "here"
    )
    assert (found.shape, found.short_side, taken) == ((20, 10, 3), None, "")
    for wish, words in (
        (PixelWish(std=(58.4, 57.1, 57.4)), "std: .*scale 0 to 1"),
        (PixelWish(short_side=100), "short_side"),
        (PixelWish(mean=(0.5,)), "3 values in mean"),
        (PixelWish(resize="stretch", short_side=300), "no use for it"),
    ):
        with pytest.raises(InvalidSource, match=words):
            settle(wish, USUAL, "here")


def test_timm_s_own_words_become_ours() -> None:
    config = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert read_timm_config(config).short_side == 256
    assert read_timm_config({**config, "crop_pct": 1.0, "interpolation": "random"}).interpolation == "bicubic"
    assert read_timm_config({**config, "crop_mode": "squash"}).resize == "stretch"
    with pytest.raises(ValueError, match="input_size"):
        read_timm_config({})


def test_a_network_of_timm_is_built_with_timm_s_names() -> None:
    network = build_network("timm/test_resnet", 3, {})
    assert set(network.state_dict()) == set(timm.create_model("test_resnet", num_classes=3).state_dict())
    with pytest.raises(UnknownArchitecture, match="'timm/no_such_network'"):
        build_network("timm/no_such_network", 3, {})
    with pytest.raises(UnknownArchitecture, match="does not take"):
        build_network("timm/test_resnet", 3, {"checkpoint_path": "evil.pth"})
