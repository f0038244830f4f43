import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from tests.children import FORKS
from training.config import TrainConfig
from training.data import Part
from training.distributed import Group, joined
from training.errors import InvalidRecipe
from training.loop import EpochResult, State, Trainer

CPU = torch.device("cpu")
DEADLINE_SECONDS = 60.0


class Silent:
    """An observer that does nothing."""

    checkpoint_seconds = math.inf

    def on_step(self, epoch: int, done: int, steps: int) -> None: ...

    def on_epoch(self, result: EpochResult) -> None: ...

    def on_checkpoint(self, state: State) -> None: ...

    def stop_wanted(self) -> bool:
        return False


def noise(count: int) -> Part:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 12, 12, 1), dtype=np.uint8)
    return Part(pixels, generator.integers(0, 3, count), (12, 12), np.arange(count))


def trained(group: Group) -> tuple[dict[str, Tensor], tuple[EpochResult, ...]]:
    """Do 20 steps of what does not depend on how a batch is divided: no batch norm, nothing random."""
    part = noise(80)
    config = TrainConfig(epochs=4, batch_size=16, optimizer="sgd", learning_rate=0.05, average=0, precision="fp32")
    torch.manual_seed(0)
    network = build_network(
        "classic", 3, {"height": 12, "width": 12, "stages": [[4], [8]], "batch_norm": False, "dropout": 0.0}
    )
    trainer = Trainer(PixelNetwork(network, (0.5,), (0.25,)), config, group, np.bincount(part.targets))
    trainer.run(part, noise(20), Silent())
    return {name: value.clone() for name, value in trainer.measured.state_dict().items()}, trainer.history


@contextmanager
def gloo(rank: int, meeting: Path) -> Iterator[Group]:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        yield Group(CPU, rank, 2)
    finally:
        distributed.destroy_process_group()


def train_in_two(rank: int, folder: Path) -> None:
    with gloo(rank, folder / "meeting") as group:
        weights, history = trained(group)
    losses = [[result.loss, result.validation_loss] for result in history]
    torch.save({"weights": weights, "losses": losses}, folder / f"result-{rank}")


def share_in_two(rank: int, folder: Path) -> None:
    with gloo(rank, folder / "meeting") as group:
        given = group.share({"threads": 4, "names": ("a", "b")} if group.leads else None)
    assert given == {"threads": 4, "names": ("a", "b")}


def in_two_processes(work: Callable[[int, Path], None], folder: Path) -> list[int | None]:
    """Return the exit codes."""
    processes = [FORKS.Process(target=work, args=(rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_SECONDS)
    return [process.exitcode for process in processes]


@pytest.mark.extra
def test_two_processes_reach_the_weights_of_one_on_the_same_batches(tmp_path: Path) -> None:
    assert in_two_processes(train_in_two, tmp_path) == [0, 0]
    alone, history = trained(Group(CPU))
    first, second = (torch.load(tmp_path / f"result-{rank}", weights_only=True) for rank in (0, 1))
    for name, value in alone.items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-5)
    expected = [[result.loss, result.validation_loss] for result in history]
    assert first["losses"] == pytest.approx(np.asarray(expected), abs=1e-5)
    assert second["losses"] == first["losses"]


def test_all_processes_have_what_the_first_one_shares(tmp_path: Path) -> None:
    assert in_two_processes(share_in_two, tmp_path) == [0, 0]


def test_one_process_joins_nobody() -> None:
    with joined("cpu", {}) as group:
        assert group == Group(CPU)
        assert group.leads
        assert group.share("mine") == "mine"
    assert not distributed.is_initialized()


@pytest.mark.parametrize("device", ["tpu", "", "CPU"])
def test_a_device_that_is_not_known_is_named(device: str) -> None:
    with pytest.raises(InvalidRecipe, match=f"'{device}' is not known"), joined(device, {}):
        pass
