from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from model.preprocessing import Pixels
from training.cost import count_flops, measure_latency, race


class Clock:
    """Each run takes one second more than the last, and the warm-up none."""

    def __init__(self) -> None:
        self._times = self._run()

    def __call__(self) -> float:
        return next(self._times)

    @staticmethod
    def _run() -> Iterator[float]:
        now = 0.0
        for length in range(1, 100):
            yield now
            now += length
            yield now


def test_the_median_is_over_runs_that_fill_the_time_without_the_warm_up() -> None:
    shapes: list[tuple[int, ...]] = []

    def run(pixels: Pixels) -> None:
        shapes.append(pixels.shape)

    pixels = np.zeros((3, 4, 4, 1), dtype=np.uint8)
    (row,) = measure_latency(run, pixels, engine="onnx", threads=2, batches=(8,), seconds=15, clock=Clock())
    assert shapes == [(8, 4, 4, 1)] * 6  # the warm-up, then 1 + 2 + 3 + 4 + 5 seconds
    assert (row.engine, row.threads, row.batch) == ("onnx", 2, 8)
    assert row.median_ms == 3000
    assert row.images_per_second == pytest.approx(8 / 3)


def test_a_slow_network_is_run_three_times_all_the_same() -> None:
    runs: list[int] = []
    pixels = np.zeros((1, 4, 4, 1), dtype=np.uint8)
    rows = measure_latency(
        lambda batch: runs.append(len(batch)), pixels, engine="onnx", threads=1, seconds=0, clock=Clock()
    )
    assert [row.batch for row in rows] == [1, 8]
    assert runs == [1] * 4 + [8] * 4


@pytest.mark.parametrize("batch", [1, 3])
def test_flops_are_two_for_each_multiply_add_and_per_image(batch: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    flops = count_flops(network, torch.zeros(batch, 3, 6, 6))
    assert flops == 2 * (36 * 8 * 3 * 9) + 2 * (8 * 36 * 10)


def test_counting_leaves_every_module_in_its_mode() -> None:
    norm = nn.BatchNorm2d(2)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), norm)
    network.train()
    norm.eval()
    count_flops(network, torch.ones(2, 1, 5, 5))
    assert [module.training for module in network.modules()] == [True, True, False]
    assert norm.num_batches_tracked == 0


class Runner:
    """An engine that notes its runs; a run on one core takes as long as the clock says."""

    name, device = "fake", "cpu"

    def __init__(self, log: list[tuple["Runner", int, bool]], *, one_core: bool) -> None:
        self.one_core = one_core
        self._log = log

    def infer(self, pixels: Pixels, *, spread: bool = False) -> np.ndarray:
        self._log.append((self, len(pixels), spread))
        return np.zeros((len(pixels), 2), np.float32)

    def stop(self) -> None:
        """It never takes long."""

    def release(self) -> None:
        """It holds nothing."""


def test_two_engines_run_in_turns_and_each_as_it_would_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    log: list[tuple[Runner, int, bool]] = []
    one, all_cores = Runner(log, one_core=True), Runner(log, one_core=False)
    times = iter(np.arange(0, 1e6).tolist())  # every look at the clock is a second later
    found = race((one, all_cores), np.zeros((3, 4, 4, 1), np.uint8), batch=2, seconds=0, clock=lambda: next(times))
    order = [engine for engine, _, _ in log]
    assert order == [one, all_cores, *[one, all_cores, all_cores, one] * 2, one, all_cores]
    assert {(engine, count, spread) for engine, count, spread in log} == {(one, 2, False), (all_cores, 2, True)}
    assert (found.batch, found.first, found.second, found.ratio, found.rounds) == (2, 1, 1, 1, 5)


def test_an_engine_whose_runs_stay_on_one_core_has_as_many_at_once_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    log: list[tuple[Runner, int, bool]] = []
    one, other = Runner(log, one_core=True), Runner(log, one_core=False)
    race((one, other), np.zeros((1, 4, 4, 1), np.uint8), batch=1, seconds=0)
    runs = [engine for engine, _, _ in log]
    assert (runs.count(one), runs.count(other)) == (18, 6)
