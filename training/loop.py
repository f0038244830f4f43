"""The training loop and evaluation. They print nothing, write no file and know no registry.

Everything random in a step is drawn from a seed made of the run's seed, the step and the
process, so a run that goes on from a checkpoint repeats what it would have done unstopped:
on a CPU with the same number of threads, bit for bit.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from model.architectures.pixels import PixelNetwork
from training.augment import PRESETS, augment, mix
from training.config import Precision, TrainConfig
from training.data import Part
from training.distributed import Group
from training.errors import Diverged, Interrupted, InvalidRecipe
from training.schedule import cosine, one_cycle

_MOST_EVALUATED, _FEWEST_EVALUATED, _EVALUATED_PIXELS = 256, 8, 2**22  # images and pixels of a batch
_SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine}
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_EPOCH_STREAM, _STEP_STREAM = 0, 1

Tensors = list[Tensor] | tuple[Tensor, ...]
State = dict[str, Any]  # what torch.save stores and torch.load(weights_only=True) gives back


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to.

    `loss` is the mean over the training images as the loop saw them, augmented and smoothed;
    `validation_loss` the plain negative log-likelihood in nats; accuracies are 0 to 1.
    """

    epoch: int
    loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float


class Observer(Protocol):
    """Who is told how a run fares, keeps its checkpoints, and may ask it to stop."""

    checkpoint_seconds: float

    def on_step(self, epoch: int, done: int, steps: int) -> None:
        """Learn that `done` of an epoch's `steps` are done."""
        ...

    def on_epoch(self, result: EpochResult) -> None:
        """Learn what an epoch came to."""
        ...

    def on_checkpoint(self, state: State) -> None:
        """Keep what the run can go on from."""
        ...

    def stop_wanted(self) -> bool:
        """Tell whether the run should stop after this step."""
        ...


class Trainer:
    """A run in progress: the network, its average, the optimizer, and where it stands.

    Args:
        network: takes uint8 (N, H, W, C), gives logits (N, K); it is trained in place.
        config: the recipe.
        group: this process and its device.
        classes: images of each class in the training part, (K,).
        rates: each parameter's share of the learning rate by its name in the network behind the
            normalisation, for a network that is trained already: its batch norms then keep their
            mean and variance. None for one from scratch.
    """

    def __init__(
        self,
        network: PixelNetwork,
        config: TrainConfig,
        group: Group,
        classes: NDArray[np.int64],
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.config = config
        self.group = group
        self.precision = resolve_precision(config.precision, group.device)
        self.network = network.to(group.device).to(memory_format=torch.channels_last)
        self._wrapped = group.wrap(self.network)
        self._average = _averaged(self.network, config.average) if config.average else None
        self._optimizer = _optimizer(self.network, config, rates)
        self._scaler = torch.amp.GradScaler(group.device.type, enabled=self.precision == "fp16")
        self._class_weights = _class_weights(classes, config).to(group.device)
        self._freeze_statistics = rates is not None
        self._epoch = self._batch = 0
        self._total = torch.zeros((), device=group.device)
        self._seconds = 0.0  # of earlier processes, and of this one up to the last checkpoint
        self._history: list[EpochResult] = []
        self._best: State | None = None

    @property
    def history(self) -> tuple[EpochResult, ...]:
        """The epochs that are done."""
        return tuple(self._history)

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and published: the average where there is one."""
        return self.network if self._average is None else self._average.module

    def steps(self, train: Part) -> int:
        """Return the steps of an epoch."""
        return _Data(train, self.config, self.group).steps

    def run(self, train: Part, validation: Part, observer: Observer) -> None:
        """Train from where the run stands to its end, and leave the result in `measured`, in eval mode.

        Raises:
            InvalidRecipe: the batch cannot be divided over the processes.
            Interrupted: the observer wanted to stop; it has been given a checkpoint.
            Diverged: the loss is no longer a number.
        """
        data = _Data(train, self.config, self.group)
        clock = _Clock(self._seconds, observer.checkpoint_seconds)
        while self._epoch < self.config.epochs and not self._stopped_early():
            in_time = self._run_epoch(data, observer, clock)
            if self._batch == 0 and self._history:
                break  # the time was over before the epoch began
            self._finish_epoch(validation, observer, clock)
            self._keep(observer, clock)
            if not in_time:
                break
        if self._best is not None:
            self.measured.load_state_dict(self._best["weights"])
        self.measured.eval()

    def state(self) -> State:
        """Return all that the run needs to go on as if it had not stopped."""
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "total": self._total,
            "seconds": self._seconds,
            "network": self.network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "history": [dataclasses.asdict(result) for result in self._history],
            "best": self._best,
        }

    def restore(self, state: State) -> None:
        """Go on from where `state` was taken."""
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._epoch, self._batch, self._seconds = state["epoch"], state["batch"], state["seconds"]
        self._total = state["total"].to(self.group.device)
        self._history = [EpochResult(**values) for values in state["history"]]
        self._best = state["best"]

    def _run_epoch(self, data: "_Data", observer: Observer, clock: "_Clock") -> bool:
        """Do the steps of an epoch that are not done yet; False where the time budget ends it."""
        self._set_training()
        order = data.order(self._epoch)
        clock.begin_epoch()
        for batch in range(self._batch, data.steps):
            step = self._epoch * data.steps + batch
            elapsed = self.group.share(clock.elapsed()) if self.config.time_budget else 0.0
            progress = step / (self.config.epochs * data.steps)
            if self.config.time_budget:
                progress = max(progress, elapsed / self.config.time_budget)
            if progress >= 1 and step > 0:
                return False
            torch.manual_seed(_mixed(self.config.seed, _STEP_STREAM, step, self.group.rank))
            self._total += self._step(*data.batch(order, batch), data.part.size, progress)
            self._batch = batch + 1
            clock.images += data.batch_size
            observer.on_step(self._epoch + 1, self._batch, data.steps)
            if observer.stop_wanted():
                self._keep(observer, clock)
                raise Interrupted(f"stopped in epoch {self._epoch + 1} of {self.config.epochs}")
            if clock.checkpoint_due():
                self._keep(observer, clock)
        return True

    def _step(self, frames: Tensor, targets: Tensor, size: tuple[int, int], progress: float) -> Tensor:
        """Do one step on this process's share of a batch and return its mean loss, on the device."""
        config = self.config
        rate = _SCHEDULES[config.schedule](progress, config.learning_rate, config.warm_up)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        pixels = augment(frames, size, PRESETS[config.augment])
        if config.mix != "none":
            pixels, targets = mix(pixels, targets, config.mix, len(self._class_weights))
        self._optimizer.zero_grad()
        with torch.autocast(self.group.device.type, _TYPES[self.precision], enabled=self.precision != "fp32"):
            logits = self._wrapped(pixels)
            total = functional.cross_entropy(
                logits, targets, self._class_weights, reduction="sum", label_smoothing=config.label_smoothing
            )
        loss = total / len(targets)  # not over the sum of the weights, which would differ from batch to batch
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if config.clip_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.network)
        return loss.detach()

    def _finish_epoch(self, validation: Part, observer: Observer, clock: "_Clock") -> None:
        """Measure the network and make ready for the next epoch."""
        total = self._total
        if self.group.size > 1:
            distributed.all_reduce(total)
            total /= self.group.size
        loss = float(total) / max(self._batch, 1)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss of epoch {self._epoch + 1} is {loss}: the learning rate, {self.config.learning_rate:g}, is "
                "too large for this network and data; lower --learning-rate, or set --clip-norm 1"
            )
        rate, seconds = clock.end_epoch()
        measured = self._measure(validation) if self.group.leads else (0.0, 0.0)
        validation_loss, validation_accuracy = self.group.share(measured)
        self._epoch, self._batch, self._total = self._epoch + 1, 0, torch.zeros_like(self._total)
        result = EpochResult(
            epoch=self._epoch,
            loss=loss,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=max(group["lr"] for group in self._optimizer.param_groups),
            images_per_second=rate,
            seconds=seconds,
        )
        self._history.append(result)
        if self.config.patience and result == min(self._history, key=lambda one: one.validation_loss):
            weights = {name: value.detach().clone() for name, value in self.measured.state_dict().items()}
            self._best = {"epoch": self._epoch, "weights": weights}
        observer.on_epoch(result)

    def _measure(self, part: Part) -> tuple[float, float]:
        """Return the negative log-likelihood and the accuracy of the measured network."""
        self.measured.eval()
        logits = torch.from_numpy(predict(self.measured, part))
        targets = torch.from_numpy(part.targets)
        return float(functional.cross_entropy(logits, targets)), float((logits.argmax(1) == targets).float().mean())

    def _keep(self, observer: Observer, clock: "_Clock") -> None:
        self._seconds = clock.elapsed()
        clock.begin_checkpoint()
        observer.on_checkpoint(self.state())

    def _stopped_early(self) -> bool:
        if self._best is None or not self.config.patience:
            return False
        return self._epoch - int(self._best["epoch"]) >= self.config.patience

    def _set_training(self) -> None:
        self._wrapped.train()
        if self._freeze_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()


@torch.inference_mode()
def predict(network: nn.Module, part: Part) -> NDArray[np.float32]:
    """Return the logits (N, K) of a network in eval mode, in fp32, on the device that it is on."""
    device = next(network.parameters()).device
    chunks = []
    batch = min(max(_EVALUATED_PIXELS // (part.size[0] * part.size[1]), _FEWEST_EVALUATED), _MOST_EVALUATED)
    for start in range(0, len(part), batch):
        pixels = torch.from_numpy(np.ascontiguousarray(part.pixels[start : start + batch]))
        chunks.append(network(pixels.to(device)).float().cpu())
    return np.asarray(torch.cat(chunks).numpy())


def resolve_precision(wanted: Precision, device: torch.device) -> Precision:
    """Return the precision of the training steps on a device.

    "auto" is bf16 where it is computed in hardware (on a CPU by avx512_bf16 or amx_bf16), fp16
    on older GPUs, fp32 elsewhere. Evaluation and what is published are fp32 always.

    Raises:
        InvalidRecipe: fp16 on a CPU, where it gains nothing.
    """
    if device.type == "cpu":
        if wanted == "fp16":
            raise InvalidRecipe("--precision fp16 is for GPUs; on a CPU use bf16 or fp32")
        return wanted if wanted != "auto" else "bf16" if _cpu_has_bf16() else "fp32"
    return wanted if wanted != "auto" else "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class _Data:
    """The training part in the order of each epoch, and this process's share of each batch."""

    def __init__(self, part: Part, config: TrainConfig, group: Group) -> None:
        self.part = part
        self.seed = config.seed
        self.group = group
        self.batch_size = min(config.batch_size, len(part))
        if self.batch_size % group.size:
            raise InvalidRecipe(
                f"a batch of {self.batch_size} images cannot be divided over {group.size} processes; "
                "choose another --batch-size"
            )
        self.steps = len(part) // self.batch_size  # what is left over is another's turn in the next epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the images of an epoch, shuffled, (N,)."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, _EPOCH_STREAM, epoch))
        return np.asarray(torch.randperm(len(self.part), generator=generator).numpy())

    def batch(self, order: NDArray[np.int64], number: int) -> tuple[Tensor, Tensor]:
        """Return frames uint8 (n, S, S', C) and targets (n,) of this process, on its device."""
        start = number * self.batch_size
        chosen = order[start + self.group.rank : start + self.batch_size : self.group.size]
        frames, targets = torch.from_numpy(self.part.frames[chosen]), torch.from_numpy(self.part.targets[chosen])
        return frames.to(self.group.device, non_blocking=True), targets.to(self.group.device, non_blocking=True)


class _Clock:
    """How long the run, its epoch and its last checkpoint have been going on, in seconds."""

    def __init__(self, earlier: float, checkpoint_seconds: float) -> None:
        self._start = time.monotonic() - earlier
        self._checkpoint = self._epoch = time.monotonic()
        self._every = checkpoint_seconds
        self.images = 0

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def begin_epoch(self) -> None:
        self._epoch, self.images = time.monotonic(), 0

    def end_epoch(self) -> tuple[float, float]:
        """Return images per second and seconds of the epoch's steps."""
        seconds = time.monotonic() - self._epoch
        return self.images / max(seconds, 1e-9), seconds

    def begin_checkpoint(self) -> None:
        self._checkpoint = time.monotonic()

    def checkpoint_due(self) -> bool:
        return time.monotonic() - self._checkpoint >= self._every


def _mixed(*numbers: int) -> int:
    """Make one seed of several numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def _averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of weights and statistics that forgets its beginning.

    The decay of update n is at most (1 + n) / (10 + n), so that short runs are averaged too.
    """

    def average(averages: Tensors, values: Tensors, updates: Tensor | int) -> None:
        done = int(updates)
        weight = 1 - min(decay, (1 + done) / (10 + done))
        if averages[0].is_floating_point():  # tensors come in lists of one type
            torch._foreach_lerp_(averages, values, weight)
        else:  # batch norm's count of batches
            torch._foreach_copy_(averages, values)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _optimizer(network: nn.Module, config: TrainConfig, rates: Mapping[str, float] | None) -> torch.optim.Optimizer:
    """Group the parameters by their share of the rate, and by whether they decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        share = 1.0 if rates is None else rates[name.removeprefix("network.")]
        groups.setdefault((share, parameter.ndim > 1), []).append(parameter)
    described = [
        {"params": parameters, "share": share, "weight_decay": config.weight_decay if decays else 0.0}
        for (share, decays), parameters in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(described, lr=config.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(described, lr=config.learning_rate, fused=True)


def _class_weights(classes: NDArray[np.int64], config: TrainConfig) -> Tensor:
    """Return each class's weight in the loss, (K,); 1 on average over the images."""
    if config.class_weights == "none":
        return torch.ones(len(classes))
    return torch.from_numpy(classes.sum() / (len(classes) * np.maximum(classes, 1))).float()


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
