"""What a run trains, and what that came to: the records that the steps of a run hand on."""

from dataclasses import dataclass

from pydantic import JsonValue
from torch import nn

from model.manifest import Architecture
from model.preprocessing import Pixels, Preprocessing
from training.collection import PartName
from training.config import TrainConfig
from training.data import Part
from training.loop import EpochResult
from training.prepare import Prepared


@dataclass(frozen=True)
class Task:
    """What is trained on what, after every choice has been made."""

    arch: str
    preprocessing: Preprocessing
    config: TrainConfig
    prepared: Prepared
    parts: dict[PartName, Part]

    @property
    def classes(self) -> int:
        """K."""
        return len(self.prepared.collection.labels)


@dataclass(frozen=True)
class Trained:
    """What training came to: a network in eval mode on the CPU, and how it came about."""

    network: nn.Module
    architecture: Architecture
    recipe: dict[str, JsonValue]
    history: tuple[EpochResult, ...] = ()
    augmented: Pixels | None = None
    origin: str = "no other weights"
    licence: str = ""
