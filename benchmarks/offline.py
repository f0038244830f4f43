"""What an engine does in a plain loop: decode, preprocess, forward, nobody to answer. The limit for any service."""

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.crew import begin_together, together
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.preprocessing import ImageLimits
from model.registry import Registry
from model.types import ModelRef

BATCHES = (1, 8)


@dataclass(frozen=True)
class Loop:
    """What one process did.

    Attributes:
        images: in all.
        seconds: that it took.
        decode_seconds: of one core's time, for all images: to decode and bring to the network's size.
        forward_seconds: likewise, to probabilities, on however many threads.
    """

    images: int
    seconds: float
    decode_seconds: float
    forward_seconds: float


@dataclass(frozen=True)
class Limit:
    """The best way of dividing the cores, and the others.

    Attributes:
        images_per_second: of the best.
        how: the best is.
        all_ways: images per second of each.
        decode_ms: core-milliseconds of an image, in the best.
        forward_ms: likewise.
    """

    images_per_second: float
    how: str
    all_ways: dict[str, float]
    decode_ms: float
    forward_ms: float

    @property
    def image_ms(self) -> float:
        """Core-milliseconds of an image."""
        return self.decode_ms + self.forward_ms


@cache
def own_limit(registry: Path, model: str, images: tuple[Path, ...], seconds: float) -> Limit:
    """Measure this project's engine on images in turns, each way for some seconds; once for the same."""
    cores = len(os.sched_getaffinity(0))
    ways: dict[str, list[Loop]] = {}
    for processes, threads in dict.fromkeys([(1, cores), (cores, 1)]):
        found = together(processes, _own_loops, None, registry, model, images, threads, seconds)
        for number, batch in enumerate(BATCHES):
            ways[f"{processes} x {threads} threads, batch {batch}"] = [loops[number] for loops in found]
    rates = {how: sum(loop.images / loop.seconds for loop in loops) for how, loops in ways.items()}
    how = max(rates, key=rates.__getitem__)
    done = sum(loop.images for loop in ways[how])
    decode, forward = (
        1000 * sum(getattr(loop, f"{stage}_seconds") for loop in ways[how]) / done for stage in ("decode", "forward")
    )
    return Limit(rates[how], how, rates, decode, forward)


def _own_loops(registry: Path, model: str, images: Sequence[Path], threads: int, seconds: float) -> list[Loop]:
    version = Registry(registry).version(ModelRef.parse(model))
    classifier = load_classifier(version, EngineChoice(device="cpu", threads=threads))
    limits = ImageLimits()
    loops = []
    for batch in BATCHES:
        turns = itertools.cycle([path.read_bytes() for path in images])
        pixels = np.stack([classifier.prepare(next(turns), limits).pixels for _ in range(batch)])
        classifier.classify(pixels, spread=threads > 1)
        begin_together()
        done, decode, forward = 0, 0.0, 0.0
        started = time.perf_counter()
        while time.perf_counter() < started + seconds:
            began = time.process_time()
            pixels = np.stack([classifier.prepare(next(turns), limits).pixels for _ in range(batch)])
            decoded = time.process_time()
            classifier.classify(pixels, spread=threads > 1)
            decode, forward = decode + decoded - began, forward + time.process_time() - decoded
            done += batch
        loops.append(Loop(done, time.perf_counter() - started, decode, forward))
    return loops
