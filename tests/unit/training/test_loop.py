import numpy as np
import pytest
import torch
from pydantic import JsonValue

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from training.augment import shake
from training.config import TrainConfig
from training.data import Part, split
from training.loop import EpochResult, accuracy, predict, train


def bright_or_dark(count: int = 200) -> Part:
    """Images that are told apart by their brightness."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, count)
    pixels = generator.integers(0, 100, (count, 12, 12, 1)) + 120 * targets[:, None, None, None]
    return Part(pixels.astype(np.uint8), targets)


def run(seed: int, *, augment: bool = False) -> tuple[PixelNetwork, list[EpochResult], Part]:
    torch.manual_seed(seed)
    config: dict[str, JsonValue] = {"height": 12, "width": 12, "stages": [[4]], "hidden": [8]}
    network = PixelNetwork(build_network("classic", 2, config), (0.5,), (0.25,))
    learn, check = split(bright_or_dark(), (0.8, 0.2), seed=0)
    epochs: list[EpochResult] = []
    train(network, learn, check, TrainConfig(epochs=4, batch_size=16, augment=augment, seed=seed), epochs.append)
    return network, epochs, check


def test_the_loop_learns_and_tells_of_every_epoch() -> None:
    network, epochs, check = run(seed=0)
    assert [result.epoch for result in epochs] == [1, 2, 3, 4]
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].validation_accuracy == accuracy(network, check) > 0.95
    assert not network.training


def test_a_seed_repeats_its_run_bit_for_bit() -> None:
    weights = [torch.cat([p.flatten() for p in run(seed, augment=True)[0].parameters()]) for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_prediction_does_not_depend_on_the_other_images() -> None:
    network, _, check = run(seed=0)
    whole = predict(network, check)
    alone = predict(network, Part(check.pixels[7:8], check.targets[7:8]))
    assert np.abs(whole[7] - alone[0]).max() < 1e-5


def test_shaking_moves_an_image_but_keeps_its_form() -> None:
    pixels = torch.zeros((64, 28, 28, 1), dtype=torch.uint8)
    pixels[:, 10:18, 10:18] = 200
    shaken = shake(pixels, torch.Generator().manual_seed(0))
    assert shaken.shape == pixels.shape
    assert shaken.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in shaken}) == 64
    light = shaken.float().sum(dim=(1, 2, 3)) / pixels.float().sum(dim=(1, 2, 3))
    assert light.min() > 0.7
    assert light.max() < 1.4


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}])
def test_a_recipe_without_steps_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TrainConfig(**wrong)  # type: ignore[arg-type]
