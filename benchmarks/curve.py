"""How an engine's time and memory grow with the batch, and the service with the cores that it may use."""

import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.crew import together
from benchmarks.processes import peak_bytes
from benchmarks.server import pinned, serving
from benchmarks.workloads import Workload
from benchmarks.wrk import load
from model.checkpoint import read_golden
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.registry import Registry
from model.types import ModelRef

BATCHES = tuple(2**power for power in range(7))
SECONDS = 0.4  # for each size
_FEWEST_RUNS = 3
_CONNECTIONS = 32


@dataclass(frozen=True)
class Cost:
    """What a batch costs.

    Attributes:
        batch: images in it.
        threads: that compute it.
        seconds: the median.
        peak_bytes: the most that the process has held, up to this size.
    """

    batch: int
    threads: int
    seconds: float
    peak_bytes: int


def cost_curve(workload: Workload) -> list[Cost]:
    """Measure batches of 1 to 64 on one thread and on one for each core, in a process each."""
    cores = len(os.sched_getaffinity(0))
    return [
        cost
        for threads in dict.fromkeys((1, cores))
        for cost in together(1, _costs, None, workload.registry, workload.model, threads)[0]
    ]


def scaling(workload: Workload, log: Path, seconds: int) -> dict[int, float]:
    """Return the requests per second of a service that may use one core, two, ... of this process's cores."""
    cores = sorted(os.sched_getaffinity(0))
    found = {}
    for count in range(1, len(cores) + 1):
        with ExitStack() as stack:
            with pinned(cores[:count]):  # wrk uses all of them
                server = stack.enter_context(
                    serving(workload.registry, log, workers=count, HUBEL_DEFAULT_MODEL=workload.model, HUBEL_PRELOAD="")
                )
            for each in (1, seconds):  # the first one warms up
                asked = load(
                    f"{server.url}/v1/predict",
                    workload.bodies,
                    _CONNECTIONS,
                    each,
                    content_type=workload.content_type,
                )
                found[count] = asked.requests_per_second
    return found


def _costs(registry: Path, model: str, threads: int) -> list[Cost]:
    version = Registry(registry).version(ModelRef.parse(model))
    golden = read_golden(version.folder).pixels
    classifier = load_classifier(version, EngineChoice(device="cpu", threads=threads))
    costs = []
    for batch in BATCHES:
        pixels = golden[np.arange(batch) % len(golden)]
        times: list[float] = []
        while len(times) <= _FEWEST_RUNS or sum(times[1:]) < SECONDS:  # the first one warms up
            started = time.perf_counter()
            classifier.classify(pixels, spread=threads > 1)
            times.append(time.perf_counter() - started)
        costs.append(Cost(batch, threads, statistics.median(times[1:]), peak_bytes(os.getpid())))
    return costs
