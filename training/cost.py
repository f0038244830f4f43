"""What an answer costs: its time on this machine, and its arithmetic.

Measures whatever it is given to run; knows no engine and no registry.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.preprocessing import Pixels

_FEWEST_RUNS = 3


@dataclass(frozen=True)
class Latency:
    """The median time that one batch takes, and the images per second that this comes to."""

    engine: str
    threads: int
    batch: int
    median_ms: float
    images_per_second: float


def measure_latency(
    run: Callable[[Pixels], object],
    pixels: Pixels,
    *,
    engine: str,
    threads: int,
    batches: Sequence[int] = (1, 8),
    seconds: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Time `run` on batches of each size, for about `seconds` each and three times at least.

    The first run of each size is a warm-up and is left out.

    Args:
        run: what is timed, for example an engine's `infer`.
        pixels: uint8 (N, H, W, C), N at least 1; they are repeated where a batch is larger.
        engine: what to call it in the result.
        threads: how many threads it uses, for the result; nothing is set.
        batches: the sizes.
        seconds: how long each size is timed.
        clock: seconds that only grow.
    """
    rows = []
    for batch in batches:
        median = _median_time(run, pixels[np.arange(batch) % len(pixels)], seconds, clock)
        rows.append(Latency(engine, threads, batch, median_ms=1000 * median, images_per_second=batch / median))
    return rows


def _median_time(run: Callable[[Pixels], object], pixels: Pixels, seconds: float, clock: Callable[[], float]) -> float:
    run(pixels)
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or sum(times) < seconds:
        start = clock()
        run(pixels)
        times.append(clock() - start)
    return statistics.median(times)


def count_flops(network: nn.Module, example: torch.Tensor) -> int:
    """Return the floating-point operations per image of a forward pass; a multiply-add counts as 2.

    Counts convolutions and matrix products, in which nearly all of the work lies. The network is
    run in eval mode and left in the modes that its modules were in.

    Args:
        network: the network.
        example: a batch of what it takes, N first.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(example)
    finally:
        for module, training in modes:
            module.training = training
    return int(counter.get_total_flops()) // len(example)
