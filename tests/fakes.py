"""Small stand-ins: a network that is published in seconds, an engine that does as it is told, images."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue

from model.architectures.catalog import build_network
from model.engines.base import Logits
from model.manifest import Architecture, Calibration
from model.preprocessing import Pixels, Preprocessing
from service.admission import Admission
from service.costs import CostCurve
from service.deadline import Deadline
from training.evaluation import evaluate
from training.publish import Release
from training.report import Report

TINY_LABELS = ("ant", "bee", "cow")
TINY_PREPROCESSING = Preprocessing(mode="RGB", height=12, width=12, resize="stretch", mean=(0.5,) * 3, std=(0.5,) * 3)
TINY_CONFIG: dict[str, JsonValue] = {"height": 12, "width": 12, "channels": 3, "stages": [[4], [4]], "hidden": [8]}


def tiny_release(seed: int = 0) -> Release:
    """A classic CNN of random weights on 12 x 12 colour images."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    return Release(
        name="tiny",
        title="A tiny network of random weights",
        network=build_network("classic", len(TINY_LABELS), TINY_CONFIG),
        architecture=Architecture(name="classic", config=TINY_CONFIG),
        labels=TINY_LABELS,
        preprocessing=TINY_PREPROCESSING,
        calibration=Calibration(),
        golden=generator.integers(0, 256, (4, 12, 12, 3), dtype=np.uint8),
        source="tests",
        licence="none",
        data="none",
        metrics={},
    )


def reported_release() -> Release:
    """The tiny network with a report on twelve images of which it gets some right."""
    logits = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    report = Report(title="tiny", test=evaluate(logits, np.arange(12) % 3, TINY_LABELS, 1.0), parameters=100)
    return dataclasses.replace(tiny_release(), report=report, facts=(("fingerprint of the data", "f00"),))


class FakeEngine:
    """An engine whose logits for an image are its first pixels; it notes the batches it saw."""

    name = "fake"
    device = "cpu"
    one_core = False

    def __init__(self, classes: int = 3) -> None:
        self.classes = classes
        self.batches: list[int] = []

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        self.batches.append(len(pixels))
        return pixels.reshape(len(pixels), -1)[:, : self.classes].astype(np.float32)

    def stop(self) -> None:
        """It never takes long."""

    def release(self) -> None:
        """It holds nothing."""


def noise(width: int = 40, height: int = 30, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """An image in which no part looks like another."""
    generator = np.random.default_rng(seed)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,), "CMYK": (4,)}[mode]
    return Image.frombytes(mode, (width, height), generator.bytes(width * height * int(np.prod(channels))))


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """An image's file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def encode_frames(frames: Sequence[Image.Image], image_format: str) -> bytes:
    """An animation's file."""
    return encode(frames[0], image_format, save_all=True, append_images=list(frames[1:]))


def write_photos(
    folder: Path,
    classes: Sequence[str] = ("blue", "green", "red"),
    *,
    count: int = 20,
    side: int = 24,
    seed: int = 0,
    suffix: str = "png",
    same: bool = False,
) -> list[Path]:
    """Class folders of coloured noise; the colour tells the class. `same` is quick: all files are the first one."""
    generator = np.random.default_rng(seed)
    paths: list[Path] = []
    for target, label in enumerate(classes):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            if same and paths:
                paths.append(folder / label / f"{seed}-{number:02}.{suffix}")
                paths[-1].hardlink_to(paths[0])
                continue
            pixels = generator.integers(0, 120, (side, side, 3))
            pixels[..., 2 - target % 3] += 100
            paths.append(folder / label / f"{seed}-{number:02}.{suffix}")
            Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    return paths


@contextmanager
def held_places(admission: Admission, count: int, deadline: Deadline) -> Iterator[float]:
    """Hold places in a queue; yields since when."""
    since = admission.admit(count, deadline)
    try:
        yield since
    finally:
        admission.release(count)


class AsLargeAsCanBe(CostCurve):
    """Costs by which larger batches are always better."""

    def batch_size(self, most: int) -> int:
        return most
