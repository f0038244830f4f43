"""`hubel train digits`: the classic CNN on real handwriting that a package ships."""

from collections.abc import Callable
from dataclasses import asdict

import torch

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from model.manifest import Architecture, Calibration
from training.config import TrainConfig
from training.data import load_digits
from training.loop import EpochResult, accuracy, train
from training.publish import Release

_GOLDEN_IMAGES = 8


def train_digits(name: str, config: TrainConfig, on_epoch: Callable[[EpochResult], None]) -> Release:
    """Train on the digits and measure the result on the held-out test part, once."""
    data = load_digits(config.seed)
    torch.manual_seed(config.seed)
    network = build_network("classic", len(data.labels), {})
    pixel_network = PixelNetwork(network, data.preprocessing.mean, data.preprocessing.std)
    train(pixel_network, data.train, data.validation, config, on_epoch)
    return Release(
        name=name,
        title="Handwritten digits",
        network=network,
        architecture=Architecture(name="classic"),
        labels=data.labels,
        preprocessing=data.preprocessing,
        calibration=Calibration(note="No temperature has been fitted."),
        golden=data.test.pixels[:: len(data.test) // _GOLDEN_IMAGES][:_GOLDEN_IMAGES],
        source="hubel train digits",
        licence=data.licence,
        data=f"{data.source}; {len(data.train)} to train, {len(data.validation)} to validate, {len(data.test)} to test",
        metrics={
            "test_accuracy": accuracy(pixel_network, data.test),
            "validation_accuracy": accuracy(pixel_network, data.validation),
        },
        recipe=asdict(config),
        seed=config.seed,
    )
