import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from training import transfer
from training.data import Part
from training.errors import InvalidRecipe
from training.imagenet import published_network
from training.transfer import (
    cached_features,
    depth_rates,
    features,
    fit_head,
    load_backbone,
    preprocessing_of,
    set_head,
)

CPU = torch.device("cpu")


def blobs(classes: int, count: int = 90) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    targets = np.arange(count) % classes
    return (generator.normal(size=(count, 6)) + 2 * np.eye(classes, 6)[targets]).astype(np.float32), targets


@pytest.fixture(scope="module")
def backbone() -> transfer.Backbone:
    return load_backbone("efficientnet_lite0", 3, {}, "default", download=False)


@pytest.fixture(scope="module")
def photos() -> Part:
    frames = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    return Part(frames, np.arange(3), (224, 224), np.arange(3))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_last_layer_is_scikit_learns_logistic_regression(classes: int) -> None:
    given, targets = blobs(classes)
    weight, bias = fit_head(given, targets, classes, strength=0.5)
    assert weight.shape == (classes, 6)
    reference = LogisticRegression(C=2.0, max_iter=5000).fit(given.astype(np.float64), targets)
    logits = torch.from_numpy(given) @ weight.T + bias
    assert np.abs(logits.softmax(dim=1).numpy() - reference.predict_proba(given.astype(np.float64))).max() < 1e-4


def test_balanced_classes_move_the_border() -> None:
    given, targets = blobs(2)
    keep = np.concatenate([np.flatnonzero(targets == 0), np.flatnonzero(targets == 1)[:5]])
    found = [fit_head(given[keep], targets[keep], 2, 1.0, balanced=balanced)[1] for balanced in (False, True)]
    assert found[1][1] - found[1][0] > found[0][1] - found[0][0]


def test_a_backbone_has_the_published_weights_and_a_head_of_its_own(backbone: transfer.Backbone) -> None:
    published = published_network().state_dict()
    own = backbone.network.state_dict()
    assert own["classifier.weight"].shape == (3, 1280)
    assert all(torch.equal(own[name], value) for name, value in published.items() if "classifier" not in name)


def test_features_and_head_together_are_the_network(backbone: transfer.Backbone, photos: Part) -> None:
    given = features(backbone, photos, CPU)
    assert given.shape == (3, 1280)
    set_head(backbone, torch.rand(3, 1280) / 100, torch.rand(3))
    whole = PixelNetwork(backbone.network, backbone.preprocessing.mean, backbone.preprocessing.std).eval()
    with torch.inference_mode():
        logits = whole(torch.from_numpy(np.ascontiguousarray(photos.pixels)))
        alone = backbone.classifier(torch.from_numpy(given))
    assert (logits - alone).abs().max() < 1e-4


def test_features_are_computed_once(
    backbone: transfer.Backbone, photos: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compute(*_: object) -> np.ndarray:
        calls.append(1)
        return np.ones((3, 4), np.float32)

    monkeypatch.setattr(transfer, "features", compute)

    smaller = dataclasses.replace(photos, size=(112, 112))

    def ask(part: Part) -> np.ndarray:
        return cached_features(backbone, part, cache=tmp_path / "cache", device=CPU)

    assert np.array_equal(ask(photos), ask(photos))
    assert len(calls) == 1
    ask(smaller)
    assert len(calls) == 2
    for content in (b"cut short", b""):
        calls.clear()
        next((tmp_path / "cache").iterdir()).write_bytes(content)
        ask(photos), ask(smaller)
        assert len(calls) == 1
    calls.clear()
    with torch.no_grad():
        next(backbone.network.parameters()).add_(1)
    ask(photos)
    assert len(calls) == 1
    with torch.no_grad():
        next(backbone.network.parameters()).sub_(1)


def test_deeper_layers_have_smaller_rates() -> None:
    network = build_network("efficientnet_lite0", 3, {})
    rates = depth_rates(network, "classifier", 0.5)
    assert list(rates) == [name for name, _ in network.named_parameters()]
    assert rates["classifier.weight"] == rates["classifier.bias"] == 1
    body = [rate for name, rate in rates.items() if not name.startswith("classifier")]
    assert body == sorted(body)
    assert body[-1] == 0.5
    assert body[0] == 0.5**10


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = build_network("resnet18", 7, {}).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(trained, path) if suffix == ".safetensors" else torch.save(trained, path)
    own = load_backbone("resnet18", 2, {}, str(path), download=False)
    assert own.head == "fc"
    assert torch.equal(own.network.state_dict()["layer4.1.conv2.weight"], trained["layer4.1.conv2.weight"])


def test_weights_of_another_network_or_of_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(build_network("resnet18", 7, {}).state_dict(), path)
    with pytest.raises(InvalidRecipe, match="not those of efficientnet_lite0"):
        load_backbone("efficientnet_lite0", 2, {}, str(path), download=False)
    path.write_bytes(b"nothing")
    with pytest.raises(InvalidRecipe, match="cannot be read"):
        load_backbone("resnet18", 2, {}, str(path), download=False)
    with pytest.raises(InvalidRecipe, match="cannot be read"):
        load_backbone("resnet18", 2, {}, str(tmp_path / "missing.pth"), download=False)
    torch.save([1, 2], path)
    with pytest.raises(InvalidRecipe, match="not a state dict"):
        load_backbone("resnet18", 2, {}, str(path), download=False)


def test_weights_are_fetched_only_when_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InvalidRecipe, match="allow --download"):
        load_backbone("resnet18", 2, {}, "default", download=False)
    fetched = []

    def fetch(url: str, **_: object) -> dict[str, torch.Tensor]:
        fetched.append(url)
        return dict(build_network("resnet18", 1000, {}).state_dict())

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    assert load_backbone("resnet18", 2, {}, "default", download=True).head == "fc"
    assert len(fetched) == 1


def test_a_network_without_a_fully_connected_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="no fully connected last layer"):
        load_backbone("squeezenet1_1", 2, {}, "default", download=False)


def test_a_network_whose_last_layer_has_no_bias_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with pytest.raises(InvalidRecipe, match="no bias"):
        transfer._last_linear("maxvit_t", network)


def test_weights_from_another_framework_keep_its_normalisation() -> None:
    assert preprocessing_of("googlenet").mean == preprocessing_of("inception_v3").std == (0.5, 0.5, 0.5)


def test_a_networks_own_preprocessing_is_taken() -> None:
    resnet = preprocessing_of("resnet18")
    assert (resnet.height, resnet.short_side, resnet.interpolation) == (224, 256, "bilinear")
    assert resnet.mean == (0.485, 0.456, 0.406)
    with pytest.raises(InvalidRecipe, match="no published weights"):
        preprocessing_of("nonsense")


def test_every_network_of_torchvision_says_what_it_takes() -> None:
    from model.architectures.torchvision_networks import torchvision_names

    for name in torchvision_names():
        assert preprocessing_of(name).channels == 3


def test_the_head_is_the_last_fully_connected_layer() -> None:
    network = build_network("mobilenet_v3_small", 2, {})
    assert transfer._last_linear("mobilenet_v3_small", network) == "classifier.3"
    assert isinstance(network.get_submodule("classifier.3"), nn.Linear)
