"""A finished run put into words: the release that is published, with its report and its facts."""

import platform
from pathlib import Path

import numpy as np
import torch

from model.architectures.pixels import PixelNetwork
from training.cost import count_flops
from training.data import PARTS, Part
from training.export import count_parameters
from training.publish import Release
from training.report import Fact, Report
from training.study import Study
from training.task import Task, Trained
from training.versions import versions

_GOLDEN_IMAGES = 8


def make_release(name: str, task: Task, trained: Trained, study: Study) -> Release:
    """Gather what a version of a trained network is made of."""
    collection, test = task.prepared.collection, task.parts["test"]
    golden = golden_images(test)
    pixel_network = PixelNetwork(trained.network, task.preprocessing.mean, task.preprocessing.std)
    title = f"{name}: {len(collection.labels)} classes, {task.arch}"
    facts = _facts(task)
    report = Report(
        title=title,
        test=study.test,
        validation=study.validation,
        parameters=count_parameters(trained.network),
        flops=count_flops(pixel_network, torch.from_numpy(golden)),
        history=trained.history,
        mistakes=study.mistakes,
        filters=study.filters,
        augmented=trained.augmented,
        facts=(*_making(task, trained), *facts),
        warnings=task.prepared.warnings,
    )
    return Release(
        name=name,
        title=title,
        network=trained.network,
        architecture=trained.architecture,
        labels=collection.labels,
        preprocessing=task.preprocessing,
        calibration=study.calibration,
        golden=golden,
        source=f"hubel train; {trained.origin}",
        licence="; ".join(
            filter(None, (f"data: {collection.licence}", trained.licence and f"weights: {trained.licence}"))
        ),
        data=f"{collection.origin}; {_describe_split(task)}",
        metrics=study.metrics,
        recipe=trained.recipe,
        seed=task.config.seed,
        facts=facts,
        report=report,
    )


def golden_images(part: Part) -> np.ndarray:
    """Return a few images from all over a part, uint8 (n, H, W, C) with n of at least 2."""
    places = np.linspace(0, len(part) - 1, max(2, min(_GOLDEN_IMAGES, len(part)))).astype(int)
    return np.ascontiguousarray(part.pixels[places])


def _facts(task: Task) -> tuple[Fact, ...]:
    """Return what the manifest has no place for."""
    prepared = task.prepared
    return (
        ("fingerprint of the data", prepared.fingerprint),
        ("duplicates", prepared.leakage.record),
        ("machine", _machine()),
    )


def _making(task: Task, trained: Trained) -> list[Fact]:
    """Return what stands in the manifest too."""
    return [
        ("data", task.prepared.collection.origin),
        ("split", _describe_split(task)),
        ("weights", trained.origin),
        ("seed", str(task.config.seed)),
        *((name.replace("_", " "), str(value)) for name, value in trained.recipe.items() if name != "seed"),
        ("versions", ", ".join(f"{package} {version}" for package, version in versions().items())),
    ]


def _describe_split(task: Task) -> str:
    counts = ", ".join(f"{len(task.parts[part]):,} {part}" for part in PARTS)
    given = task.prepared.collection.parts
    made = [part for part in PARTS if not (given == part).any()]
    if not made:
        return f"{counts}, as its owner divided it"
    who = "all parts" if len(made) == len(PARTS) else f"{' and '.join(made)} part"
    return f"{counts}; {who} drawn at random within each class, copies kept together, seed {task.config.seed}"


def _machine() -> str:
    """Name the processor and the number of threads."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {torch.get_num_threads()} threads" + (
        f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    )
