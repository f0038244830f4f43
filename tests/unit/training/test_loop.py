import dataclasses
import itertools
import math
import time

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch.nn import functional

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from training import loop as loop_module
from training.config import Precision, TrainConfig
from training.data import Part
from training.distributed import Group
from training.errors import Diverged, Interrupted, InvalidRecipe
from training.loop import EpochResult, State, Trainer, predict, resolve_precision

CPU = Group(torch.device("cpu"))
SHORT = TrainConfig(epochs=4, batch_size=16, learning_rate=0.01, precision="fp32")


def bright_or_dark(count: int, seed: int = 0) -> Part:
    """Images that are told apart by their brightness."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 2, count)
    pixels = generator.integers(0, 100, (count, 14, 14, 1)) + 120 * targets[:, None, None, None]
    return Part(pixels.astype(np.uint8), targets, (12, 12), np.arange(count))


LEARN, CHECK = bright_or_dark(168), bright_or_dark(40, seed=1)


class Watcher:
    """An observer that keeps all it is told, and stops a run when it is told to."""

    def __init__(self, stop_after: int = -1, checkpoint_seconds: float = math.inf) -> None:
        self.checkpoint_seconds = checkpoint_seconds
        self.stop_after = stop_after
        self.steps = 0
        self.results: list[EpochResult] = []
        self.states: list[State] = []

    def on_step(self, epoch: int, done: int, steps: int) -> None:
        self.steps += 1

    def on_epoch(self, result: EpochResult) -> None:
        self.results.append(result)

    def on_checkpoint(self, state: State) -> None:
        self.states.append(state)

    def stop_wanted(self) -> bool:
        return self.steps == self.stop_after


def trainer_of(config: TrainConfig, seed: int = 0, dropout: float = 0.25) -> Trainer:
    torch.manual_seed(seed)
    arguments: dict[str, JsonValue] = {"height": 12, "width": 12, "stages": [[4]], "hidden": [8], "dropout": dropout}
    network = PixelNetwork(build_network("classic", 2, arguments), (0.5,), (0.25,))
    return Trainer(network, config, CPU, np.bincount(LEARN.targets))


def run(config: TrainConfig, seed: int = 0) -> tuple[Trainer, Watcher]:
    trainer, watcher = trainer_of(config, seed), Watcher()
    trainer.run(LEARN, CHECK, watcher)
    return trainer, watcher


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in trainer.measured.state_dict().values()])


def test_the_loop_learns_and_tells_of_every_step_and_epoch() -> None:
    trainer, watcher = run(SHORT)
    assert watcher.steps == 4 * 10  # eight images are left over in each epoch
    assert [result.epoch for result in watcher.results] == [1, 2, 3, 4]
    assert list(trainer.history) == watcher.results
    first, last = watcher.results[0], watcher.results[-1]
    assert last.loss < first.loss
    right = predict(trainer.measured, CHECK).argmax(axis=1) == CHECK.targets
    assert last.validation_accuracy == pytest.approx(right.mean())
    assert right.mean() > 0.95
    likelihood = functional.cross_entropy(
        torch.from_numpy(predict(trainer.measured, CHECK)), torch.from_numpy(CHECK.targets)
    )
    assert last.validation_loss == pytest.approx(float(likelihood))
    assert last.images_per_second > 0
    assert not trainer.measured.training


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "schedule": "cosine"},
        {"augment": "digits", "clip_norm": 1.0},
        {"augment": "light", "mix": "mixup"},
        {"mix": "cutmix"},
        {"average": 0.0, "label_smoothing": 0.0},
        {"class_weights": "balanced"},
        {"precision": "bf16"},
    ],
)
def test_every_setting_learns(changes: dict[str, object]) -> None:
    _, watcher = run(dataclasses.replace(SHORT, epochs=6, **changes))  # type: ignore[arg-type]
    assert watcher.results[-1].validation_accuracy > 0.9


def test_a_seed_repeats_its_run_bit_for_bit_whatever_was_drawn_before() -> None:
    config = dataclasses.replace(SHORT, augment="digits", mix="mixup")
    first = weights(run(config)[0])
    torch.rand(100)
    assert torch.equal(first, weights(run(config)[0]))
    assert not torch.equal(first, weights(run(dataclasses.replace(config, seed=1))[0]))


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bf16", "augment": "light"}, {"optimizer": "sgd", "patience": 2}]
)
@pytest.mark.parametrize("stop_after", [1, 10, 23, 39])
def test_a_stopped_run_goes_on_to_the_same_bits(stop_after: int, changes: dict[str, object]) -> None:
    config = dataclasses.replace(SHORT, **changes)  # type: ignore[arg-type]
    whole, _ = run(config)
    stopped, watcher = trainer_of(config), Watcher(stop_after)
    with pytest.raises(Interrupted):
        stopped.run(LEARN, CHECK, watcher)
    resumed = trainer_of(config, seed=9)
    resumed.restore(watcher.states[-1])
    resumed.run(LEARN, CHECK, Watcher())
    assert torch.equal(weights(whole), weights(resumed))
    same = [dataclasses.replace(result, images_per_second=0, seconds=0) for result in resumed.history]
    assert same == [dataclasses.replace(result, images_per_second=0, seconds=0) for result in whole.history]


def test_a_checkpoint_is_kept_after_every_epoch_and_when_it_is_time() -> None:
    assert len(run(SHORT)[1].states) == 4
    often = Watcher(checkpoint_seconds=0)
    trainer_of(SHORT).run(LEARN, CHECK, often)
    assert len(often.states) == 44


def test_what_is_measured_is_the_average_of_the_weights() -> None:
    trainer, _ = run(SHORT)
    assert trainer.measured is not trainer.network
    own = predict(trainer.network.eval(), CHECK)
    assert np.abs(own - predict(trainer.measured, CHECK)).max() > 1e-4
    plain, _ = run(dataclasses.replace(SHORT, average=0.0))
    assert plain.measured is plain.network


def test_a_run_without_progress_stops_and_takes_its_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.9, 0.5, 0.6, 0.7, 0.1])
    trainer, watcher = trainer_of(dataclasses.replace(SHORT, epochs=5, patience=2)), Watcher()
    kept: list[torch.Tensor] = []

    def measure(_self: Trainer, _part: Part) -> tuple[float, float]:
        kept.append(weights(trainer))
        return next(losses), 0.5

    monkeypatch.setattr(Trainer, "_measure", measure)
    trainer.run(LEARN, CHECK, watcher)
    assert len(watcher.results) == 4
    assert torch.equal(weights(trainer), kept[1])


def test_a_time_budget_ends_the_run_with_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) * 0.5)
    _, watcher = run(dataclasses.replace(SHORT, epochs=1000, time_budget=40.0))
    assert 1 <= len(watcher.results) < 10
    assert watcher.results[-1].learning_rate < 0.001


def test_a_loss_that_is_no_number_ends_the_run_with_advice() -> None:
    with pytest.raises(Diverged, match="lower --learning-rate"):
        run(dataclasses.replace(SHORT, learning_rate=100.0, optimizer="sgd", weight_decay=10.0, epochs=20))


def test_a_batch_that_is_larger_than_the_data_is_the_data() -> None:
    _, watcher = run(dataclasses.replace(SHORT, batch_size=1000))
    assert watcher.steps == 4


def test_a_backbone_keeps_its_statistics_and_its_deeper_layers_move_less() -> None:
    torch.manual_seed(0)
    arguments: dict[str, JsonValue] = {"height": 12, "width": 12, "stages": [[4]], "hidden": [8]}
    network = build_network("classic", 2, arguments)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rates = {name: 1.0 if name.startswith("classifier") else 0.0 for name, _ in network.named_parameters()}
    trainer = Trainer(PixelNetwork(network, (0.5,), (0.25,)), SHORT, CPU, np.bincount(LEARN.targets), rates)
    trainer.run(LEARN, CHECK, Watcher())
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_a_time_budget_shorter_than_a_step_still_does_one() -> None:
    _, watcher = run(dataclasses.replace(SHORT, time_budget=1e-9))
    assert watcher.steps == 1
    assert watcher.results[0].loss > 0


def test_class_weights_balance_the_loss() -> None:
    config = dataclasses.replace(SHORT, class_weights="balanced")
    assert loop_module._class_weights(np.array([30, 10]), config).tolist() == pytest.approx([2 / 3, 2.0])


def test_prediction_does_not_depend_on_the_other_images() -> None:
    trainer, _ = run(SHORT)
    whole = predict(trainer.measured, CHECK)
    one = dataclasses.replace(CHECK, frames=CHECK.frames[7:8], targets=CHECK.targets[7:8])
    assert np.abs(whole[7] - predict(trainer.measured, one)[0]).max() < 1e-5


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="cannot be divided over 3 processes"):
        loop_module._Data(LEARN, SHORT, Group(torch.device("cpu"), rank=1, size=3))


def test_shares_of_a_batch_make_the_batch() -> None:
    whole = loop_module._Data(LEARN, SHORT, CPU)
    halves = [loop_module._Data(LEARN, SHORT, Group(torch.device("cpu"), rank, 2)) for rank in (0, 1)]
    order = whole.order(3)
    frames = [data.batch(order, 2)[0] for data in halves]
    assert torch.equal(torch.stack(frames, dim=1).flatten(0, 1), whole.batch(order, 2)[0])


def test_fp16_is_for_gpus_and_what_is_asked_for_is_taken() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(InvalidRecipe, match="fp16 is for GPUs"):
        resolve_precision("fp16", cpu)
    assert resolve_precision("fp32", cpu) == "fp32"
    assert resolve_precision("auto", cpu) in ("bf16", "fp32")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"label_smoothing": 1.0}, {"seed": -1}])
def test_a_recipe_out_of_bounds_names_setting_value_and_bounds(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidRecipe, match=rf"{next(iter(wrong))} is .*; it lies from"):
        TrainConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_in_every_precision_and_goes_on_where_it_stopped(precision: Precision) -> None:
    config = dataclasses.replace(SHORT, precision=precision, clip_norm=1.0, augment="light", mix="cutmix", epochs=6)
    gpu = Group(torch.device("cuda"))
    torch.manual_seed(0)
    arguments: dict[str, JsonValue] = {"height": 12, "width": 12, "stages": [[4]], "hidden": [8]}

    def trainer() -> Trainer:
        network = PixelNetwork(build_network("classic", 2, arguments), (0.5,), (0.25,))
        return Trainer(network, config, gpu, np.bincount(LEARN.targets))

    stopped, watcher = trainer(), Watcher(stop_after=15)
    with pytest.raises(Interrupted):
        stopped.run(LEARN, CHECK, watcher)
    resumed = trainer()
    resumed.restore(watcher.states[-1])
    resumed.run(LEARN, CHECK, Watcher())
    assert resumed.history[-1].validation_accuracy > 0.9
