"""What is done around a CUDA device, with the CPU in its place; `test_engines.py` has what only a device can show."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from model.engines.base import Logits
from model.engines.cuda import LARGEST, GraphedNetwork, padded


def first_values(pixels: Tensor) -> Tensor:
    """A network whose logits for an image are its first values."""
    return pixels.flatten(1)[:, :3].float()


class OnTheCpu(GraphedNetwork):
    """Records nothing, and runs the network again at every replay; notes which sizes were recorded."""

    def _start(self) -> None:
        self.recorded: list[int] = []

    def _pinned(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.uint8)

    def _record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded.append(len(run()))
        return run

    def _run(self, run: Callable[[], Tensor]) -> Logits:
        return np.array(run().numpy(), dtype=np.float32)


class Unrecordable(OnTheCpu):
    def _record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self.recorded:
            raise RuntimeError("operation not permitted when stream is capturing")
        return super()._record(run)


def images(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


def on_the_cpu(kind: type[OnTheCpu] = OnTheCpu) -> OnTheCpu:
    return kind(first_values, torch.device("cpu"))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (200, 256)])
def test_batches_are_filled_up_to_powers_of_two(count: int, size: int) -> None:
    assert padded(count) == size


def test_every_batch_has_its_own_logits_whatever_was_there_before() -> None:
    network = on_the_cpu()
    for count in (8, 3, 1, 5, 2, 7, LARGEST + 1, 4):
        pixels = images(count, seed=count)
        assert np.array_equal(network.infer(pixels), pixels.reshape(count, -1)[:, :3])


def test_the_largest_size_records_the_smaller_ones_and_each_once() -> None:
    network = on_the_cpu()
    for count in (1, 5, 8, 2, 3):
        network.infer(images(count))
    assert network.recorded == [1, 8, 4, 2]


def test_pixels_that_may_not_be_written_are_read() -> None:
    pixels = images(2)
    pixels.flags.writeable = False
    assert np.array_equal(on_the_cpu().infer(pixels), pixels.reshape(2, -1)[:, :3])


def test_a_network_that_cannot_be_recorded_runs_without_graphs(caplog: pytest.LogCaptureFixture) -> None:
    network = on_the_cpu(Unrecordable)
    for count in (2, 1, 4):
        pixels = images(count)
        assert np.array_equal(network.infer(pixels), pixels.reshape(count, -1)[:, :3])
    assert network.recorded == [2]
    assert caplog.text.count("runs the network without graphs, which it cannot record: operation not permitted") == 1
