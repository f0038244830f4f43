"""A receptive field is what gradients reach, and no pixel more."""

import numpy as np
import pytest
import torch
from torch import nn

from model.explain.network import ExplainedNetwork
from model.explain.receptive_field import ONE_PIXEL, Box, ReceptiveField
from model.explain.window import Window
from model.registry import StoredVersion
from tests.explained import SIDE, EveryKind, explained

LINEAR = ("conv1", "conv2", "counting", "depthwise", "not_counting")  # max pooling lets one gradient through


def seen_by_gradient(network: nn.Module, name: str, y: int, x: int) -> Box:
    """The pixels that a value of a module depends on, its maximum poolings taken for averages."""
    results: dict[str, torch.Tensor] = {}
    hook = network.get_submodule(name).register_forward_hook(lambda _, __, result: results.update(found=result))
    image = torch.randn(1, 3, SIDE, SIDE, requires_grad=True)
    network(image)
    hook.remove()
    results["found"][0, :, y, x].sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    rows, columns = np.nonzero(image.grad[0].abs().sum(0).numpy())
    return Box(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 5)])
def test_fields_are_what_gradients_reach(place: tuple[int, int], tmp_path: object, tiny: StoredVersion) -> None:
    torch.manual_seed(0)
    network = EveryKind().eval()
    network.relu1 = nn.Identity()  # type: ignore[assignment]
    network.pool1 = nn.AvgPool2d(3, 2, 1, ceil_mode=True)  # type: ignore[assignment]
    layers = explained(network, tiny.folder, tiny).layers
    for name in LINEAR:
        field = layers.find(name).receptive_field
        assert field is not None
        told, seen = field.box(*place, SIDE, SIDE), seen_by_gradient(network, name, *place)
        for first, size, seen_first, seen_size in (
            (told.y, told.height, seen.y, seen.height),
            (told.x, told.width, seen.x, seen.width),
        ):
            # A dilated window may step over the rows at an edge that cuts it off.
            assert seen_first == first or seen_first > first == 0, name
            assert seen_first + seen_size == first + size or first + size == SIDE, name


class ChannelsLast(nn.Module):
    """Maps whose channels are last for a while, as those of networks from TensorFlow are, and then turned on a side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, (3, 5), 2, 1)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.turned = nn.Conv2d(6, 2, 3)
        self.classifier = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv1(x).permute(0, 2, 3, 1))
        x = nn.functional.pad(torch.cat([x, x * 2], dim=3), (0, 0, 2, 0, 1, 0))
        x = self.conv2(x.permute(0, 3, 1, 2))
        x = self.turned(torch.tanh(x).permute(0, 1, 3, 2))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("place", [(0, 0), (3, 4)])
def test_rows_and_columns_are_followed_where_they_change_places(place: tuple[int, int], tiny: StoredVersion) -> None:
    torch.manual_seed(0)
    network = ChannelsLast().eval()
    layers = explained(network, tiny.folder, tiny).layers
    field = layers.find("conv2").receptive_field
    assert field is not None
    assert field.box(*place, SIDE, SIDE) == seen_by_gradient(network, "conv2", *place)
    assert layers.find("turned").receptive_field is None


def test_layers_after_a_mean_see_everything(tiny: StoredVersion) -> None:
    layers = explained(EveryKind(), tiny.folder, tiny).layers
    assert layers.find("pool1").receptive_field is not None
    assert layers.find("gate").receptive_field is None
    assert layers.find("classifier").receptive_field is None


def test_the_field_of_a_pixel_is_cut_off_at_the_edges() -> None:
    field = ONE_PIXEL.through(Window((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)))
    assert field == ReceptiveField(3, 3, 2, 2, -1, -1)
    assert field.box(0, 1, 10, 10) == Box(1, 0, 3, 2)
    assert field.box(5, 5, 10, 10) == Box(9, 9, 1, 1)


def test_paths_of_different_length_are_joined() -> None:
    long = ONE_PIXEL.through(Window((3, 3), (1, 1), (1, 1, 1, 1), (2, 2)))
    assert ONE_PIXEL.joined(long) == ReceptiveField(5, 5, 1, 1, -1, -1)
    assert ONE_PIXEL.joined(ONE_PIXEL.through(Window((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)))) is None


def test_the_first_layer_s_field_is_one_pixel(tiny: StoredVersion) -> None:
    layers = ExplainedNetwork(tiny).layers
    assert layers.find("input").receptive_field == ONE_PIXEL
    assert layers.find("normalize#2").receptive_field == ONE_PIXEL
