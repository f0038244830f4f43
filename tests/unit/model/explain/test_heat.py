"""Heat maps: exact where they say so, of the class that is asked for, and painted where the network has looked."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.engines.base import Logits
from model.errors import NoSuchPart, NotExplainable
from model.explain.class_activation import class_activation, has_class_activation
from model.explain.gradients import GradientNetwork
from model.explain.heat_colours import Crop, paint_heat, paint_over
from model.explain.network import ExplainedNetwork
from model.explain.occlusion import occlude
from model.preprocessing import ImageFacts, ImageLimits, Pixels, Preprocessing, prepare_image
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.explained import Averaging, NoMaps, explained, random_pixels

PHOTOS = 20


@pytest.fixture
def averaging(tiny: StoredVersion) -> ExplainedNetwork:
    torch.manual_seed(3)
    return explained(Averaging(), tiny.folder, tiny)


def go_on() -> None:
    """Let an occlusion take its time."""


def test_a_class_s_map_is_the_weighed_sum_of_the_last_maps(averaging: ExplainedNetwork) -> None:
    pixels = random_pixels()
    found = averaging.activations(pixels, ["relu", "classifier"])
    weights = averaging.layers.constants["network.classifier.weight"]
    for index in range(3):
        heat = class_activation(averaging, pixels, str(index))
        assert (heat.index, heat.layer, heat.method) == (index, "relu", "cam")
        expected = np.maximum(np.einsum("c,chw->hw", weights[index], found["relu"]), 0)
        np.testing.assert_allclose(heat.values, expected, rtol=1e-5, atol=1e-7)
        assert heat.probability == pytest.approx(float(averaging.probabilities(found["classifier"][None])[0, index]))


def test_a_sum_that_is_not_of_means_is_not_taken_for_one(averaging: ExplainedNetwork) -> None:
    constants = dict(averaging.layers.constants)
    constants["network.classifier.weight"] = constants["network.classifier.weight"] * 2
    averaging.layers.constants = constants
    with pytest.raises(NotExplainable, match="does not end in global average pooling"):
        class_activation(averaging, random_pixels(), None)


def test_a_network_that_does_not_average_says_what_works(tiny: StoredVersion) -> None:
    network = ExplainedNetwork(tiny)
    assert not has_class_activation(network.layers)
    with pytest.raises(NotExplainable, match=r"tiny:1 does not end.* these work: occlusion, and with torch gradcam"):
        class_activation(network, random_pixels(12), None)


def test_a_network_without_convolutions_says_what_works(tiny: StoredVersion) -> None:
    network = explained(NoMaps(), tiny.folder, tiny)
    assert network.layers.filters() is None
    with pytest.raises(NotExplainable, match=r"these work: occlusion$"):
        class_activation(network, random_pixels(), None)
    with pytest.raises(NotExplainable, match=r"no convolutions.*method=occlusion works"):
        GradientNetwork(network)
    assert occlude(network, random_pixels(), None, 3, go_on).values.shape == (3, 3)


@pytest.mark.parametrize("name", ["torch", "captum"])
def test_without_torch_it_is_said_what_to_install(
    name: str, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else sys)
    with pytest.raises(NotExplainable, match=r"pip install 'hubel\[torch\]'.*cam.*occlusion"):
        GradientNetwork(ExplainedNetwork(tiny))


def test_gradients_weigh_the_maps_before_the_last_pooling(tiny: StoredVersion) -> None:
    network = ExplainedNetwork(tiny)
    heat = GradientNetwork(network).grad_cam(random_pixels(12), "bee")
    assert (heat.layer, heat.index, heat.values.shape) == ("relu2", 1, (6, 6))
    assert heat.values.min() >= 0
    (logits,) = network.activations(random_pixels(12), ["classifier"]).values()
    assert heat.probability == pytest.approx(float(network.probabilities(logits[None])[0, 1]), abs=1e-5)


def test_a_version_of_a_graph_alone_has_no_gradients(tiny: StoredVersion) -> None:
    network = ExplainedNetwork(tiny)
    architecture = network.manifest.architecture.model_copy(update={"name": "onnx"})
    network.manifest = network.manifest.model_copy(update={"architecture": architecture})
    with pytest.raises(NotExplainable, match=r"imported as a graph.*occlusion"):
        GradientNetwork(network)


class Corner(ExplainedNetwork):
    """A network that looks at the left upper corner, whose brightness speaks for the first class."""

    def infer(self, pixels: Pixels) -> Logits:
        seen = pixels[:, :6, :6].mean(axis=(1, 2, 3)) / 255
        return np.stack([4 * seen, np.ones_like(seen), np.zeros_like(seen)], axis=1).astype(np.float32)


def test_covering_what_counts_lowers_the_probability(tiny: StoredVersion) -> None:
    network = Corner(tiny)
    heat = occlude(network, np.full((12, 12, 3), 255, np.uint8), None, 4, go_on)
    assert (heat.index, heat.layer) == (0, None)
    assert heat.values[0, 0] == heat.values.max()
    assert heat.values[0, 0] > 0.05
    assert np.abs(heat.values[3:, :]).max() == 0
    other = occlude(network, np.full((12, 12, 3), 255, np.uint8), "bee", 4, go_on)
    assert other.values[0, 0] < 0


def test_an_occlusion_can_be_stopped_between_windows(tiny: StoredVersion) -> None:
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        occlude(Corner(tiny), random_pixels(12), None, 6, stop)


@pytest.mark.parametrize(("text", "index"), [("bee", 1), ("BEE", 1), ("2", 2), (None, 1)])
def test_classes_are_named_by_label_or_index(text: str | None, index: int, tiny: StoredVersion) -> None:
    assert ExplainedNetwork(tiny).class_index(text, np.array([0, 5, 1], np.float32)) == index


@pytest.mark.parametrize("text", ["3", "-1", "wasp", "", "9" * 30])
def test_classes_that_are_not_there_are_refused_with_those_that_are(text: str, tiny: StoredVersion) -> None:
    with pytest.raises(NoSuchPart, match=r"'ant', 'bee', 'cow' are the first, or an index from 0 to 2"):
        ExplainedNetwork(tiny).class_index(text, np.zeros(3, np.float32))


def test_the_photo_is_painted_where_the_network_has_looked() -> None:
    preprocessing = Preprocessing(
        mode="RGB", height=4, width=4, resize="crop", short_side=8, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    facts = ImageFacts(80, 40, "PNG", ())
    crop = Crop.of(preprocessing, facts)
    assert crop == Crop(30, 10, 20, 20)
    photo = np.full((20, 40, 3), 100, np.uint8)
    painted = paint_over(photo, np.array([[0, 0], [0, 5]], np.float32), crop, facts)
    assert (painted[:5] == 50).all()
    assert (painted[6, 16] == 100).all()
    assert painted[14, 24].max() > 200


def test_a_map_of_nothing_paints_nothing() -> None:
    for values in (np.zeros((2, 2), np.float32), np.full((2, 2), -1, np.float32)):
        assert paint_heat(values, (8, 8)).max() <= 4
    assert paint_heat(np.ones((1, 1), np.float32), (3, 3)).min() > 150


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_the_exact_map_is_that_of_the_gradients(
    data: Path, default_registry: Path, record_property: Callable[[str, object], None]
) -> None:
    version = Registry(default_registry).version(ModelRef.parse("imagenet"))
    network = ExplainedNetwork(version)
    by_gradients = GradientNetwork(network)
    found = []
    for path in sorted((data / "imagenet-sample").glob("*.JPEG"))[::25][:PHOTOS]:
        pixels = prepare_image(path.read_bytes(), version.manifest.preprocessing, ImageLimits()).pixels
        exact, expected = class_activation(network, pixels, None), by_gradients.grad_cam(pixels, None)
        assert exact.index == expected.index
        assert exact.values.max() > 0
        assert expected.values.max() > 0
        found.append(correlation(exact.values, expected.values))
    assert len(found) == PHOTOS
    record_property("correlation", min(found))
    assert min(found) > 0.999
