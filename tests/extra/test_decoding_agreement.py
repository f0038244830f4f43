"""The quick way to a network's pixels names the class that the slow way names, over all real photos.

The slow way is Pillow's alone: the whole photo is decoded and then resampled once, as the manifest says.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.preprocessing import ImageLimits
from model.registry import Registry
from model.types import ModelRef
from tests.fakes import encode

AGREEMENT = 0.995
PARTS = {"imagenet-sample": 500, "cats-dogs": 210, "flowers": 200, "phone": 5}


def test_top_1_is_that_of_pillow_alone(default_registry: Path, data: Path) -> None:
    version = Registry(default_registry).version(ModelRef("imagenet", version=1))
    classifier = load_classifier(version, EngineChoice(threads=1, measure=False))
    same, differences = list[bool](), list[float]()
    for path in photos(data):
        content = path.read_bytes()
        quick = classifier.prepare(content, ImageLimits()).pixels
        slow = classifier.prepare(reference(content), ImageLimits()).pixels
        differences.append(float(np.abs(quick.astype(int) - slow).mean()))
        first, second = classifier.classify(np.stack([quick, slow])).argmax(axis=1)
        same.append(bool(first == second))
    print(f"top-1 equal on {np.mean(same):.2%} of {len(same)}; mean difference of a pixel {np.mean(differences):.2f}")
    assert len(same) == sum(PARTS.values())
    assert np.mean(same) >= AGREEMENT
    assert max(differences) < 6
    assert np.mean(differences) < 0.1


def photos(data: Path) -> Iterator[Path]:
    """Give every photo of the test data that shows what it is meant to."""
    for part in PARTS:
        yield from sorted(path for path in (data / part).rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})


def reference(content: bytes) -> bytes:
    """Decode a photo whole by Pillow and turn it upright, as a file that leaves the decoder nothing to spare."""
    with Image.open(io.BytesIO(content)) as opened:
        return encode(ImageOps.exif_transpose(opened).convert("RGB"), "BMP")
