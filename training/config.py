"""What a training run is told, in one frozen record that the published version keeps."""

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from training.errors import InvalidRecipe

AugmentName = Literal["none", "light", "photo", "digits"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a run.

    Attributes:
        epochs: passes over the training part.
        batch_size: images of a step, over all processes.
        optimizer: "adamw", or "sgd" with Nesterov momentum 0.9.
        learning_rate: the peak of the schedule.
        schedule: "one_cycle", or "cosine" after a linear warm-up.
        warm_up: the fraction of the run that leads up to the peak.
        weight_decay: of the weights; biases and batch norm have none.
        label_smoothing: the share of each target that is spread over all classes.
        class_weights: "balanced" lets every class count the same in the loss.
        augment: a preset of `training.augment`.
        mix: blends or patches pairs of images and their targets.
        average: largest decay of the exponential moving average of the weights, which is what
            is measured and published; 0 for none.
        clip_norm: largest norm of the gradient; 0 for none.
        patience: epochs without a better validation loss after which the run stops and takes
            the best epoch's weights; 0 never stops early.
        time_budget: seconds that the loop may take; the schedule fits itself to it. 0 for no bound.
        precision: of the training steps; "auto" is bf16 where the processor computes in it.
        seed: of the split, the first weights and everything random in the loop.
    """

    epochs: int = 24
    batch_size: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 4e-3
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warm_up: float = 0.2
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    class_weights: Literal["none", "balanced"] = "none"
    augment: AugmentName = "none"
    mix: Literal["none", "mixup", "cutmix"] = "none"
    average: float = 0.999
    clip_norm: float = 0.0
    patience: int = 0
    time_budget: float = 0.0
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise InvalidRecipe(f"{name} {value!r} is not known; it is one of {', '.join(get_args(kind))}")
        bounds: dict[str, tuple[float, float]] = {
            "epochs": (1, 100_000),
            "batch_size": (1, 65_536),
            "learning_rate": (1e-9, 100),
            "warm_up": (0, 1),
            "weight_decay": (0, 10),
            "label_smoothing": (0, 0.999),
            "average": (0, 0.999999),
            "clip_norm": (0, float("inf")),
            "patience": (0, 100_000),
            "time_budget": (0, float("inf")),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidRecipe(f"{name} is {value:g}; it lies from {low:g} to {high:g}")
