"""The first operation of every served network: uint8 pixels to normalised channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """uint8 (N, H, W, C) to float32 (N, C, H, W) with the given mean and deviation taken out.

    `mean` and `std` are per channel on the scale 0 to 1. They are not part of the weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = torch.tensor([1 / (255 * value) for value in std]).view(1, -1, 1, 1)
        shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)]).view(1, -1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels to normalised channels."""
        channels = pixels.permute(0, 3, 1, 2).float()
        return channels * self.scale - self.shift


class PixelNetwork(nn.Module):
    """A network with its normalisation in front: uint8 (N, H, W, C) to logits (N, K)."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels to logits."""
        logits: Tensor = self.network(self.normalize(pixels))
        return logits
