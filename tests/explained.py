"""Small networks of random weights, exported as published versions are, to be looked into."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.architectures.pixels import PixelNetwork
from model.checkpoint import digest_files
from model.explain.network import ExplainedNetwork
from model.preprocessing import Pixels, Preprocessing
from model.registry import StoredVersion
from training.export import export_network

SIDE = 24
PREPROCESSING = Preprocessing(
    mode="RGB", height=SIDE, width=SIDE, resize="stretch", mean=(0.5,) * 3, std=(0.5, 0.4, 0.3)
)


class EveryKind(nn.Module):
    """Every kind of window: strides, dilation, groups, uneven padding, and every pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 3), dilation=(2, 1))
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.conv2 = nn.Conv2d(4, 6, 3, padding="same", groups=2, bias=False)
        self.tanh = nn.Tanh()
        self.counting = nn.AvgPool2d(3, 2, 1, count_include_pad=True)
        self.depthwise = nn.Conv2d(6, 6, 2, padding=1, groups=6)
        self.not_counting = nn.AvgPool2d(3, 1, 1, count_include_pad=False, ceil_mode=True)
        self.dilated = nn.MaxPool2d(2, 1, 1, dilation=2)
        self.gate = nn.Sigmoid()
        self.greatest = nn.AdaptiveMaxPool2d(1)
        self.hidden = nn.Linear(12, 5)
        self.relu6 = nn.ReLU6()
        self.classifier = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tanh(self.conv2(self.pool1(self.relu1(self.conv1(x)))))
        x = self.not_counting(self.depthwise(self.counting(x)))
        x = self.dilated(x) + 1 - x[..., :1, :1]
        x = x * self.gate(x.mean((2, 3), keepdim=True))
        x = torch.cat([x.mean((2, 3), keepdim=True), self.greatest(x)], 1).flatten(1)
        logits: Tensor = self.classifier(self.relu6(self.hidden(x)))
        return logits


class Averaging(nn.Module):
    """Ends as class activation maps ask for; the average is torch's module for it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.average(torch.relu(self.features(x))).flatten(1))
        return logits


class NoMaps(nn.Module):
    """A network without convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * SIDE * SIDE, 4)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.relu(self.hidden(x.flatten(1))))
        return logits


def explained(network: nn.Module, folder: Path, like: StoredVersion) -> ExplainedNetwork:
    """Export a network into `folder`, as a version like another one with three classes."""
    whole = PixelNetwork(network.eval(), PREPROCESSING.mean, PREPROCESSING.std).eval()
    export_network(whole, torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8), folder)
    manifest = like.manifest.model_copy(update={"preprocessing": PREPROCESSING, "files": digest_files(folder)})
    return ExplainedNetwork(dataclasses.replace(like, folder=folder, manifest=manifest))


def random_pixels(side: int = SIDE, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)
