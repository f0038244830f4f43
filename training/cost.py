"""What an answer costs: its time on this machine, and its arithmetic.

Measures whatever it is given to run; knows no runtime and no registry.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.engines.base import Engine
from model.preprocessing import Pixels

_ROUNDS = 5
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


@dataclass(frozen=True)
class Race:
    """Images per second of two engines that ran in turns, with all cores at work.

    Attributes:
        batch: images in a run.
        first: the median over the rounds, of the first engine.
        second: and of the second.
        ratio: the median of the second engine's rate divided by that of the first in the same round.
        rounds: how many there were.
    """

    batch: int
    first: float
    second: float
    ratio: float
    rounds: int


def race(
    engines: tuple[Engine, Engine],
    pixels: Pixels,
    *,
    batch: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Race:
    """Measure two engines in turns, the order changing with every round, so that a slower machine slows both.

    An engine whose runs stay on one core has as many at a time as there are cores, as under load; another one has
    one run at a time, on all cores. What a first run costs is left out.

    Args:
        engines: the two.
        pixels: uint8 (N, H, W, C), N at least 1; they are repeated where a batch is larger.
        batch: images in a run.
        seconds: how long both together are measured, in five rounds; a turn is one run on every core at the least.
        clock: seconds that only grow.
    """
    images = pixels[np.arange(batch) % len(pixels)]
    for engine in engines:
        _images_per_second(engine, images, 0, clock)
    rates: tuple[list[float], list[float]] = ([], [])
    for number in range(_ROUNDS):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            rates[side].append(_images_per_second(engines[side], images, seconds / (2 * _ROUNDS), clock))
    first, second = map(statistics.median, rates)
    ratio = statistics.median(after / before for before, after in zip(*rates, strict=True))
    return Race(batch, first, second, ratio, rounds=_ROUNDS)


def _images_per_second(engine: Engine, images: Pixels, seconds: float, clock: Callable[[], float]) -> float:
    """Run an engine for so long, and once on every core at the least."""
    streams = (os.cpu_count() or 1) if engine.one_core else 1

    def run(_: int) -> float:
        start, runs = clock(), 0
        while not runs or clock() - start < seconds:
            engine.infer(images, spread=not engine.one_core)
            runs += 1
        return runs * len(images) / (clock() - start)

    if streams == 1:
        return run(0)
    with ThreadPoolExecutor(streams) as pool:
        return sum(pool.map(run, range(streams)))


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
