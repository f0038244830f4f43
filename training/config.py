"""What a training run is told, in one frozen record that the published version keeps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a run: AdamW under a one-cycle schedule.

    `learning_rate` is the peak of the cycle; `warm_up` the fraction of all steps that lead up to it.
    """

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    warm_up: float = 0.25
    label_smoothing: float = 0.05
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size are at least 1")
