"""A value taken apart adds up to what the layer itself has, whatever its window is."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model.checkpoint import read_golden
from model.errors import NoSuchPart, NotExplainable
from model.explain.layers import Layer
from model.explain.network import ExplainedNetwork
from model.explain.neuron import Neuron, take_apart
from model.preprocessing import Pixels
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.explained import EveryKind, explained, random_pixels

CLOSE = 1e-5


@pytest.fixture(scope="module")
def every_kind(
    tmp_path_factory: pytest.TempPathFactory, published_tiny: Path
) -> tuple[ExplainedNetwork, dict[str, np.ndarray]]:
    """The network of every kind; and what torch has as the results of its modules."""
    torch.manual_seed(1)
    network = EveryKind()
    tiny = Registry(published_tiny).version(ModelRef.parse("tiny"))
    exported = explained(network, tmp_path_factory.mktemp("every"), tiny)
    results: dict[str, np.ndarray] = {}

    def note(name: str) -> object:
        def hook(_: nn.Module, __: object, result: torch.Tensor) -> None:
            results[name] = result[0].numpy()

        return hook

    for name, module in network.named_children():
        module.register_forward_hook(note(name))  # type: ignore[arg-type]
    preprocessing = exported.manifest.preprocessing
    channels = (random_pixels() / 255 - preprocessing.mean) / preprocessing.std
    with torch.inference_mode():
        network(torch.tensor(channels, dtype=torch.float32).permute(2, 0, 1)[None])
    return exported, results


def places(layer: Layer, count: int = 10) -> list[tuple[int, int, int]]:
    """Places of a layer: its corners first, where padding is, then random ones."""
    generator = np.random.default_rng(len(layer.name))
    sizes = (*layer.shape, 1, 1)[:3]
    corners = [(0, 0, 0), tuple(size - 1 for size in sizes)]
    found = [*corners, *(tuple(int(generator.integers(size)) for size in sizes) for _ in range(count))]
    return [(channel, y, x) for channel, y, x in found]


def check_sums(neuron: Neuron, layer: Layer) -> None:
    """Every part adds up to the next, and to what the network has."""
    for part in neuron.inputs:
        if part.products is not None:
            assert part.kernel is not None
            assert math.isclose(math.fsum(map(math.fsum, part.products)), part.sum, abs_tol=1e-9)
            for values, weights, products in zip(part.patch, part.kernel, part.products, strict=True):
                for value, weight, product in zip(values, weights, products, strict=True):
                    assert value is not None
                    assert value * weight == product
    parts = [part.sum for part in neuron.inputs] + [term.product for term in neuron.terms if term.product is not None]
    if parts:
        assert math.isclose(math.fsum(parts) + neuron.rest.sum, neuron.sum, abs_tol=1e-9)
    if layer.kind not in ("relu", "relu6", "tanh", "sigmoid"):
        assert neuron.sum + neuron.bias == neuron.value
    assert abs(neuron.value - neuron.computed) < CLOSE


def take_all_apart(network: ExplainedNetwork, pixels: Pixels, most: int = 64) -> set[str]:
    """Take values of every layer apart that can be; return the kinds."""
    kinds = set()
    for layer in network.layers.layers.values():
        if layer.neuron:
            kinds.add(layer.kind)
            direct = network.activations(pixels, [layer.name])[layer.name]
            for place in places(layer):
                neuron = take_apart(network, pixels, layer.name, place, most)
                check_sums(neuron, layer)
                assert abs(neuron.value - float(direct[place[: direct.ndim]])) < CLOSE
                if neuron.after is not None:
                    (after,) = network.activations(pixels, [neuron.after.layer]).values()
                    assert neuron.after.value == float(after[place[: direct.ndim]])
    return kinds


def test_every_layer_of_the_digits_adds_up(default_registry: Path) -> None:
    version = Registry(default_registry).version(ModelRef.parse("digits"))
    network = ExplainedNetwork(version)
    for image in read_golden(version.folder).pixels[:3]:
        kinds = take_all_apart(network, image)
    assert kinds >= {"convolution", "relu", "max_pool", "fully_connected"}
    conv = take_apart(network, image, "conv1", (3, 5, 5))
    assert conv.folded == ("batch_norm",)
    assert conv.after is not None
    assert conv.after.value == max(conv.computed, 0)


@pytest.mark.parametrize("most", [1, 64])
def test_every_window_adds_up(most: int, every_kind: tuple[ExplainedNetwork, dict[str, np.ndarray]]) -> None:
    kinds = take_all_apart(every_kind[0], random_pixels(), most)
    assert kinds >= {"convolution", "max_pool", "average_pool", "global_average_pool", "global_max_pool"}
    assert kinds >= {"fully_connected", "relu", "relu6", "tanh", "sigmoid", "add", "multiply", "subtract"}


@pytest.mark.parametrize(
    "name",
    ["conv1", "pool1", "conv2", "counting", "depthwise", "not_counting", "dilated", "greatest", "hidden", "relu6"],
)
def test_a_value_is_the_one_that_torch_has(
    name: str, every_kind: tuple[ExplainedNetwork, dict[str, np.ndarray]]
) -> None:
    network, results = every_kind
    layer = network.layers.find(name)
    for place in places(layer):
        expected = results[name][place[: results[name].ndim]]
        assert abs(take_apart(network, random_pixels(), name, place).value - expected) < CLOSE, place


def test_the_patch_lies_where_the_window_says(every_kind: tuple[ExplainedNetwork, dict[str, np.ndarray]]) -> None:
    network, _ = every_kind
    (before,) = network.activations(random_pixels(), ["normalize#2"]).values()
    neuron = take_apart(network, random_pixels(), "conv1", (1, 0, 3))
    window = neuron.window
    assert window is not None
    assert (window.layer, window.dilation) == ("normalize#2", (2, 1))
    assert (window.y, window.x, window.height, window.width) == (-1, 0, 3, 5)
    for part in neuron.inputs:
        for i, row in enumerate(part.patch):
            for j, value in enumerate(row):
                y, x = window.y + i * window.dilation[0], window.x + j * window.dilation[1]
                inside = 0 <= y < window.layer_height and 0 <= x < window.layer_width
                assert value == (before[part.channel, y, x] if inside else 0)


def test_a_group_s_filter_sees_the_channels_of_its_group(
    every_kind: tuple[ExplainedNetwork, dict[str, np.ndarray]],
) -> None:
    for channel, seen in ((2, [0, 1]), (3, [2, 3])):
        neuron = take_apart(every_kind[0], random_pixels(), "conv2", (channel, 1, 1))
        assert [part.channel for part in neuron.inputs] == seen


def test_padding_is_no_candidate_for_the_largest(every_kind: tuple[ExplainedNetwork, dict[str, np.ndarray]]) -> None:
    neuron = take_apart(every_kind[0], random_pixels(), "dilated", (0, 0, 0))
    (part,) = neuron.inputs
    assert part.patch[0] == [None, None]
    assert neuron.picked == (1, 1)
    assert part.patch[1][1] == neuron.value


def test_what_is_not_listed_is_counted_and_summed(tiny: StoredVersion) -> None:
    network, pixels = ExplainedNetwork(tiny), random_pixels(12)
    whole = take_apart(network, pixels, "fc1", (2, 0, 0), 512)
    part = take_apart(network, pixels, "fc1", (2, 0, 0), 3)
    assert (len(part.terms), part.rest.count) == (3, len(whole.terms) - 3)
    largest = sorted((abs(term.product or 0) for term in whole.terms), reverse=True)[:3]
    assert sorted((abs(term.product or 0) for term in part.terms), reverse=True) == largest
    assert part.value == whole.value


@pytest.mark.parametrize(
    ("name", "place", "words"),
    [
        ("conv9", (0, 0, 0), "there are conv2, conv1"),
        ("conv1", (4, 0, 0), "4x12x12 values: channel is 4, and may be 0 to 3"),
        ("conv1", (0, 12, 0), "y is 12, and may be 0 to 11"),
        ("conv1", (0, 0, -1), "x is -1"),
        ("fc1", (0, 1, 0), "y is 1, and may be 0 to 0"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    name: str, place: tuple[int, int, int], words: str, tiny: StoredVersion
) -> None:
    with pytest.raises(NoSuchPart, match=words):
        take_apart(ExplainedNetwork(tiny), random_pixels(12), name, place)


def test_a_layer_that_computes_nothing_names_the_kinds_that_do(tiny: StoredVersion) -> None:
    with pytest.raises(NotExplainable, match=r"kind flatten.*convolution, fully_connected"):
        take_apart(ExplainedNetwork(tiny), random_pixels(12), "flatten", (0, 0, 0))
