from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.architectures.catalog import build_network
from model.preprocessing import Preprocessing
from training.collection import ArrayImages, Collection
from training.data import Part, load_part
from training.study import first_filters, study

GRAY = Preprocessing(mode="L", height=4, width=4, resize="stretch", mean=(0.0,), std=(1.0,))


class Brightness(nn.Module):
    """Logits that are far too sure: 60 times the difference of the mean from a half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(60.0))

    def forward(self, x: Tensor) -> Tensor:
        bright = (x.mean(dim=(1, 2, 3)) - 0.5) * self.scale
        return torch.stack([-bright, bright], dim=1)


@pytest.fixture
def collection() -> Collection:
    generator = np.random.default_rng(0)
    level = generator.uniform(0.3, 0.7, 600)
    targets = (generator.uniform(size=600) < 1 / (1 + np.exp(-20 * (level - 0.5)))).astype(np.int64)
    pixels = np.broadcast_to((level * 255).astype(np.uint8)[:, None, None, None], (600, 4, 4, 1)).copy()
    labels = ("dark", "bright")
    return Collection("gray", "a test", "none", labels, ArrayImages(pixels), targets, np.array([""] * 600))


def part(collection: Collection, start: int, end: int) -> Part:
    return load_part(collection, np.arange(start, end), GRAY, Path())


def test_the_temperature_comes_from_the_validation_part_and_the_figures_from_the_test_part(
    collection: Collection,
) -> None:
    found = study(Brightness(), GRAY, collection, part(collection, 0, 300), part(collection, 300, 600))
    assert found.calibration.calibrated
    assert found.calibration.temperature == pytest.approx(6, rel=0.3)  # the logits' difference is 120 times, not 20
    assert "300 validation images" in found.calibration.note
    assert (found.validation.images, found.test.images) == (300, 300)
    assert found.test.calibrated.ece < found.test.uncalibrated.ece
    other = study(Brightness(), GRAY, collection, part(collection, 0, 300), part(collection, 300, 400))
    assert other.calibration.temperature == found.calibration.temperature
    assert found.metrics["test_accuracy"] == found.test.top1
    assert found.metrics["validation_accuracy"] == found.validation.top1
    assert not any("top" in name for name in found.metrics)  # among 2 classes the right one always is


def test_mistakes_are_shown_with_names_from_the_collection_most_certain_first(collection: Collection) -> None:
    test = part(collection, 300, 600)
    found = study(Brightness(), GRAY, collection, part(collection, 0, 300), test).mistakes
    assert len(found) == 24
    assert [mistake.probability for mistake in found] == sorted((m.probability for m in found), reverse=True)
    for mistake in found:
        index = int(mistake.name.removeprefix("image "))
        assert 300 <= index < 600
        assert collection.labels[collection.targets[index]] == mistake.truth != mistake.predicted
        assert np.array_equal(mistake.pixels, test.pixels[index - 300])


def test_filters_are_those_of_the_first_convolution_where_they_can_be_drawn() -> None:
    network = build_network("classic", 3, {"channels": 3})
    filters = first_filters(network)
    assert filters is not None
    assert filters.shape == (16, 3, 3, 3)
    assert first_filters(Brightness()) is None
    assert first_filters(nn.Conv2d(8, 2, 3)) is None
