"""The training loop and evaluation. They print nothing, write no file and know no registry."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from training.augment import shake
from training.config import TrainConfig
from training.data import Part
from training.schedule import one_cycle

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to: mean training loss, and accuracy on the validation part, 0 to 1."""

    epoch: int
    loss: float
    validation_accuracy: float


def train(
    network: nn.Module,
    data: Part,
    validation: Part,
    config: TrainConfig,
    on_epoch: Callable[[EpochResult], None],
) -> None:
    """Train a network that takes uint8 (N, H, W, C) in place, on the CPU; it is left in eval mode."""
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    pixels, targets = torch.from_numpy(data.pixels), torch.from_numpy(data.targets)
    per_epoch = -(-len(data) // config.batch_size)
    for epoch in range(config.epochs):
        network.train()
        total = torch.zeros(())
        order = torch.randperm(len(data), generator=generator)
        for number, chosen in enumerate(torch.split(order, config.batch_size)):
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(
                    epoch * per_epoch + number, config.epochs * per_epoch, config.learning_rate, config.warm_up
                )
            batch = shake(pixels[chosen], generator) if config.augment else pixels[chosen]
            loss = functional.cross_entropy(network(batch), targets[chosen], label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(chosen)
        network.eval()
        on_epoch(EpochResult(epoch + 1, float(total) / len(data), accuracy(network, validation)))


@torch.inference_mode()
def predict(network: nn.Module, part: Part) -> NDArray[np.float32]:
    """Return the logits (N, K) of a network in eval mode."""
    batches = torch.split(torch.from_numpy(part.pixels), _EVALUATION_BATCH)
    return np.asarray(torch.cat([network(batch) for batch in batches]).numpy())


def accuracy(network: nn.Module, part: Part) -> float:
    """Return the fraction of a part whose most probable class is the right one."""
    return float((predict(network, part).argmax(axis=1) == part.targets).mean())
