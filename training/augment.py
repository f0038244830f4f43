"""Changes to training images that leave their class as it is, by preset.

All work on a batch at once, with random numbers of their own for every image, on the device
that the batch is on. The randomness is torch's global generator: whoever seeds it repeats
the changes. The classes' targets are touched by `training.loop` only (mixup, cutmix).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from training.config import AugmentName


@dataclass(frozen=True)
class Preset:
    """How far the changes go.

    Attributes:
        flip: half of the images are mirrored.
        turn: largest angle, degrees.
        view: smallest and largest side of what is seen, 1 being what the served network sees.
        squash: largest change of width against height, a fraction.
        shift: largest move, a fraction of the frame's side.
        roam: a view that is smaller than the frame may lie anywhere in it.
        colour: largest change of brightness, contrast and saturation, a fraction.
        trivial: one operation of TrivialAugment for every image.
        erase: the share of images that get a rectangle of noise, of 2 to 20 % of their area.
        outside: what comes in from beyond the frame.
    """

    flip: bool = False
    turn: float = 0.0
    view: tuple[float, float] = (1.0, 1.0)
    squash: float = 0.0
    shift: float = 0.0
    roam: bool = False
    colour: float = 0.0
    trivial: bool = False
    erase: float = 0.0
    outside: Literal["zeros", "reflection"] = "reflection"


PRESETS: dict[AugmentName, Preset] = {
    "none": Preset(),
    "light": Preset(flip=True, view=(0.9, 1.1), squash=0.1, shift=0.08, erase=0.25, outside="zeros"),
    "photo": Preset(flip=True, turn=10, view=(0.6, 1.1), squash=0.2, roam=True, colour=0.2, trivial=True, erase=0.25),
    "digits": Preset(turn=12, view=(0.88, 1.12), squash=0.1, shift=0.08, outside="zeros"),
}


def augment(frames: Tensor, size: tuple[int, int], preset: Preset) -> Tensor:
    """Change each image of a batch by its own random amounts.

    Args:
        frames: uint8 (N, S, S', C): the images with the margin that evaluation cuts off.
        size: (H, W) that the network takes, at most (S, S').
        preset: how far to go.

    Returns:
        uint8 (N, H, W, C).
    """
    images = frames.permute(0, 3, 1, 2)  # (N, C, S, S')
    if preset == PRESETS["none"]:
        return centre(frames, size)
    if preset.trivial:
        trivial = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
        images = torch.stack([trivial(image) for image in images])
    changed = _move(images.float(), size, preset)  # (N, C, H, W)
    if preset.colour:
        changed = _recolour(changed, preset.colour)
    if preset.erase:
        changed = _erase(changed, preset.erase)
    return changed.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def centre(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the part (N, H, W, C) of frames (N, S, S', C) that evaluation and serving see."""
    top, left = (frames.shape[1] - size[0]) // 2, (frames.shape[2] - size[1]) // 2
    return frames[:, top : top + size[0], left : left + size[1]]


def _uniform(count: int, device: torch.device) -> Tensor:
    """Return (N,) numbers from -1 to 1."""
    return torch.rand(count, device=device) * 2 - 1


def _move(images: Tensor, size: tuple[int, int], preset: Preset) -> Tensor:
    """Mirror, turn, squash, scale and shift in one resampling: (N, C, S, S') to (N, C, H, W)."""
    count, channels, device = len(images), images.shape[1], images.device
    angle = _uniform(count, device) * math.radians(preset.turn)
    low, high = preset.view
    scale = (low + high) / 2 + _uniform(count, device) * (high - low) / 2
    aspect = torch.exp(_uniform(count, device) * math.log1p(preset.squash) / 2)
    wide, high_side = scale * aspect * size[1] / images.shape[3], scale / aspect * size[0] / images.shape[2]
    mirror = torch.where(_uniform(count, device) < 0, -1.0, 1.0) if preset.flip else torch.ones(count, device=device)
    moves = []
    for side in (wide, high_side):
        room = (1 - side).clamp(min=0) if preset.roam else 0.0
        moves.append(_uniform(count, device) * (2 * preset.shift + room))
    theta = torch.stack(
        [
            torch.stack([mirror * angle.cos() * wide, -angle.sin() * high_side, moves[0]], dim=1),
            torch.stack([mirror * angle.sin() * wide, angle.cos() * high_side, moves[1]], dim=1),
        ],
        dim=1,
    )  # (N, 2, 3)
    grid = functional.affine_grid(theta, [count, channels, *size], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode=preset.outside, align_corners=False)


def _recolour(images: Tensor, amount: float) -> Tensor:
    """Change brightness, contrast and, of colour images, saturation."""
    shape = (len(images), 1, 1, 1)
    factors = [1 + amount * _uniform(len(images), images.device).view(shape) for _ in range(3)]
    images = images * factors[0]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factors[1]
    if images.shape[1] == 1:
        return images
    gray = images.mean(dim=1, keepdim=True)
    return gray + (images - gray) * factors[2]


def _erase(images: Tensor, share: float) -> Tensor:
    """Put noise into a rectangle of some images.

    Source: Zhong et al., "Random Erasing Data Augmentation", arXiv 1708.04896.
    """
    count, _, height, width = images.shape
    device = images.device
    area = 0.02 + 0.18 * torch.rand(count, device=device)
    aspect = torch.exp(_uniform(count, device) * math.log(3) / 2)
    chosen = torch.rand(count, device=device) < share
    inside = chosen[:, None, None, None]
    for axis, length, part in ((2, height, (area * aspect).sqrt()), (3, width, (area / aspect).sqrt())):
        start = torch.rand(count, device=device) * (1 - part) * length
        place = torch.arange(length, device=device) + 0.5
        within = (place >= start[:, None]) & (place < (start + part * length)[:, None])  # (N, length)
        inside = inside & (within[:, None, :, None] if axis == 2 else within[:, None, None, :])  # noqa: PLR2004
    return torch.where(inside, torch.rand_like(images) * 255, images)


def mix(pixels: Tensor, targets: Tensor, kind: Literal["mixup", "cutmix"], classes: int) -> tuple[Tensor, Tensor]:
    """Blend each image with its neighbour in the batch, or put a part of the neighbour into it.

    Args:
        pixels: uint8 (N, H, W, C).
        targets: class indices (N,).
        kind: "mixup" (arXiv 1710.09412, alpha 0.2) or "cutmix" (arXiv 1905.04899, alpha 1).
        classes: K.

    Returns:
        uint8 (N, H, W, C), and the targets' shares of the classes (N, K).
    """
    blend = v2.MixUp(alpha=0.2, num_classes=classes) if kind == "mixup" else v2.CutMix(num_classes=classes)
    mixed, shares = blend(pixels.permute(0, 3, 1, 2).float(), targets)
    return mixed.round_().to(torch.uint8).permute(0, 2, 3, 1), shares
