"""EfficientNet-Lite: the EfficientNet family without squeeze-and-excitation, with ReLU6.

Source: Tan and Le, "EfficientNet", arXiv 1905.11946; the Lite variant as in
tensorflow/tpu `models/official/efficientnet/lite`. Two consequences of that origin are
kept: TensorFlow's SAME padding, which puts the odd pixel to the right and below, and a
batch norm epsilon of 1e-3.

Expected: Lite0 has 4,652,008 parameters with 1,000 classes; the published top-1 on
ImageNet's validation set is 75.1 %. Knows nothing of files or of preprocessing.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280


@dataclass(frozen=True)
class Stage:
    """A row of the paper's table: blocks that share kernel, expansion and output width."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


LITE0_STAGES = (
    Stage(blocks=1, kernel=3, stride=1, expansion=1, channels=16),
    Stage(blocks=2, kernel=3, stride=2, expansion=6, channels=24),
    Stage(blocks=2, kernel=5, stride=2, expansion=6, channels=40),
    Stage(blocks=3, kernel=3, stride=2, expansion=6, channels=80),
    Stage(blocks=3, kernel=5, stride=1, expansion=6, channels=112),
    Stage(blocks=4, kernel=5, stride=2, expansion=6, channels=192),
    Stage(blocks=1, kernel=3, stride=1, expansion=6, channels=320),
)


class SamePadConv2d(nn.Conv2d):
    """A convolution whose output has ceil(input / stride) rows and columns, as TensorFlow pads."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        before = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return super().forward(functional.pad(x, before) if any(before) else x)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> SamePadConv2d:
    return SamePadConv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Widen (1x1), filter each channel on its own, narrow (1x1); added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [_convolution(inputs, width, 1), _batch_norm(width), nn.ReLU6()]
        layers += [
            _convolution(width, width, kernel, stride, groups=width),
            _batch_norm(width),
            nn.ReLU6(),
            _convolution(width, outputs, 1),
            _batch_norm(outputs),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        narrowed: Tensor = self.layers(x)
        return x + narrowed if self.residual else narrowed


class EfficientNetLite(nn.Module):
    """Photos (N, 3, H, W), normalised, to logits (N, K)."""

    def __init__(self, stages: tuple[Stage, ...], classes: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(3, _STEM_CHANNELS, 3, stride=2),
            _batch_norm(_STEM_CHANNELS),
            nn.ReLU6(),
        )
        blocks: list[nn.Module] = []
        width = _STEM_CHANNELS
        for stage in stages:
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                blocks.append(InvertedResidual(width, stage.channels, stage.kernel, stride, stage.expansion))
                width = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            _convolution(width, _HEAD_CHANNELS, 1),
            _batch_norm(_HEAD_CHANNELS),
            nn.ReLU6(),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_HEAD_CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to logits (N, K)."""
        x = self.head(self.blocks(self.stem(x)))  # (N, 1280, ceil(H / 32), ceil(W / 32))
        x = x.mean(dim=(2, 3))  # (N, 1280): global average pooling
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


def efficientnet_lite0(classes: int, dropout: float = 0.2) -> EfficientNetLite:
    """Build EfficientNet-Lite0 for `classes` classes, with fresh weights."""
    return EfficientNetLite(LITE0_STAGES, classes, dropout)
