"""Changes to training images that leave their class as it is."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def shake(
    pixels: Tensor, generator: torch.Generator, *, turn: float = 12.0, zoom: float = 0.12, shift: float = 0.08
) -> Tensor:
    """Turn, scale and move each image of a batch by its own random amounts.

    Args:
        pixels: uint8 (N, H, W, C).
        generator: where the randomness comes from.
        turn: largest angle, degrees.
        zoom: largest change of size, a fraction.
        shift: largest move, a fraction of the side.

    Returns:
        uint8 (N, H, W, C); what comes in from outside is black.
    """
    count = len(pixels)
    draws = torch.rand((4, count), generator=generator) * 2 - 1
    angle = draws[0] * math.radians(turn)
    size = 1 + draws[1] * zoom
    theta = torch.stack(
        [
            torch.stack([angle.cos() / size, -angle.sin() / size, draws[2] * 2 * shift], dim=1),
            torch.stack([angle.sin() / size, angle.cos() / size, draws[3] * 2 * shift], dim=1),
        ],
        dim=1,
    )  # (N, 2, 3)
    images = pixels.permute(0, 3, 1, 2).float()  # (N, C, H, W)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    shaken = functional.grid_sample(images, grid, align_corners=False)
    return shaken.round().to(torch.uint8).permute(0, 2, 3, 1)
