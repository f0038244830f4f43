"""What a user asks of `hubel train`, in one frozen record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

MAX_UNREADABLE = 0.1


@dataclass(frozen=True)
class Job:
    """What is trained on what.

    Attributes:
        data: a name or a path, as `training.sources.open` takes it.
        arch: an architecture; None chooses by the images.
        arch_config: its arguments.
        weights: what a backbone starts from: "default", "none" or a file.
        fine_tune: epochs in which all layers of a backbone are trained, after its new last layer.
        size: the side of the network's input, pixels; None leaves it to the data or the weights.
        told: fields of the recipe that the user has set.
        root: where a named data set lies.
        download: whether data and weights may be fetched.
        label_column: of a table.
        max_unreadable: the share of the images that may be unreadable, 0 to 1.
        allow_leakage: whether parts may share images.
        resume: go on with the stopped run in the run's folder.
    """

    data: str
    arch: str | None = None
    arch_config: Mapping[str, JsonValue] = field(default_factory=dict)
    weights: str = "default"
    fine_tune: int = 0
    size: int | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None
    download: bool = False
    label_column: str | None = None
    max_unreadable: float = MAX_UNREADABLE
    allow_leakage: bool = False
    resume: bool = False
