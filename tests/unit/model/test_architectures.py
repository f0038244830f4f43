import math

import pytest
import torch
from pydantic import JsonValue
from torch import nn

from model.architectures.catalog import build_network
from model.architectures.classic import SumPool2d
from model.architectures.efficientnet_lite import SamePadConv2d
from model.architectures.pixels import PixelNetwork
from model.errors import UnknownArchitecture


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_efficientnet_lite0_has_its_published_size() -> None:
    network = build_network("efficientnet_lite0", 1000, {}).eval()
    assert parameters(network) == 4_652_008
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_classic_has_its_stated_size() -> None:
    network = build_network("classic", 10, {}).eval()
    assert parameters(network) == 426_234
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("side", "stride", "kernel"), [(224, 2, 3), (7, 2, 5), (14, 1, 5), (9, 2, 3), (8, 1, 1)])
def test_same_padding_puts_the_odd_pixel_right_and_below(side: int, stride: int, kernel: int) -> None:
    convolution = SamePadConv2d(1, 1, kernel, stride=stride, bias=False)
    nn.init.ones_(convolution.weight)
    result = convolution(torch.ones(1, 1, side, side))[0, 0]
    out = math.ceil(side / stride)
    assert result.shape == (out, out)
    missing = max((out - 1) * stride + kernel - side, 0)
    assert result[0, 0] == (kernel - missing // 2) ** 2
    assert result[-1, -1] == (kernel - (missing - missing // 2)) ** 2


@pytest.mark.parametrize(("padding", "side"), [("narrow", 24), ("same", 28), ("wide", 32)])
def test_padding_is_narrow_same_or_wide(padding: str, side: int) -> None:
    network = build_network("classic", 3, {"padding": padding, "kernel": 5, "stages": [[4]]})
    convolution = network.get_submodule("conv1")
    assert convolution(torch.zeros(1, 1, 28, 28)).shape == (1, 4, side, side)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize("pooling", ["max", "average", "sum"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_every_kind_of_classic_network_answers(pooling: str, activation: str, batch_norm: bool) -> None:
    config: dict[str, JsonValue] = {
        "pooling": pooling,
        "activation": activation,
        "batch_norm": batch_norm,
        "stages": [[3], [4]],
        "stride": 1,
    }
    network = build_network("classic", 5, config).eval()
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 5)


def test_sum_pooling_sums() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert SumPool2d(2)(x).tolist() == [[[[10, 18], [42, 50]]]]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet"])
def test_torchvision_networks_are_built_by_name(name: str) -> None:
    network = build_network(name, 7, {}).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("resnet", {}, "there is no architecture 'resnet'"),
        ("deeplabv3_resnet50", {}, "there is no architecture"),
        ("classic", {"filters": 3}, "filters"),
        ("classic", {"stages": [[4], [4], [4], [4], [4], [4]]}, "nothing of a 28 x 28 image is left"),
        ("resnet18", {"dropout": 0.5}, "dropout"),
    ],
)
def test_what_cannot_be_built_is_explained(name: str, config: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(UnknownArchitecture, match=message):
        build_network(name, 3, config)


def test_normalisation_is_the_network_s_first_operation() -> None:
    network = PixelNetwork(nn.Flatten(), mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 1.0))
    pixels = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    assert torch.allclose(network(pixels), torch.tensor([[1.0, -0.5, 0.2]]))
