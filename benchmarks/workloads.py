"""What the service is measured with: images, the model that they are for, and how they are sent."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from PIL import Image, ImageDraw
from pydantic import JsonValue

from model.engines.selection import is_installed
from model.errors import ModelError
from model.manifest import Architecture, Calibration, Precision
from model.preprocessing import Preprocessing
from model.registry import Registry
from model.types import PRODUCTION, ModelRef

CAT = Path(__file__).parent.parent / "docs" / "cat.jpg"
DIGITS = "digit-reader"
IMAGES_IN_ONE_REQUEST = 32
_TOLD = 500  # characters of what went wrong
# conv 32, conv 64, pool, conv 128, pool, fc 256, fc 10
_DIGIT_CONFIG: dict[str, JsonValue] = {
    "stages": [[32, 64], [128]], "hidden": [256], "batch_norm": False, "dropout": 0.0, "padding": "same",
}  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What is sent.

    Attributes:
        name: of the workload.
        about: what it is, in words.
        registry: where its model is.
        model: its name.
        images: the files, in turns.
        bodies: of the requests, in turns, as files.
        content_type: of the bodies.
        images_per_request: in each body.
    """

    name: str
    about: str
    registry: Path
    model: str
    images: tuple[Path, ...]
    bodies: tuple[Path, ...]
    content_type: str = "application/octet-stream"
    images_per_request: int = 1


class Missing(Exception):
    """A workload cannot be made here; the text says what it lacks."""


def make(name: str, registry: Path, data: Path, folder: Path) -> Workload:
    """Make a workload of a name of `MAKERS`.

    Args:
        name: of the workload.
        registry: where `imagenet` is.
        data: the folder of photos.
        folder: for what is made.

    Raises:
        Missing: it lacks something here.
    """
    return MAKERS[name](registry, data, folder)


def _photo(registry: Path, data: Path, folder: Path) -> Workload:
    _check_imagenet(registry)
    found = data / "imagenet-sample" / "n03670208_limousine.JPEG"
    image = found if found.exists() else CAT
    about = f"EfficientNet-Lite0, {_describe(image)}"
    return Workload("photo", about, registry, "imagenet", (image,), (image,))


def _phone(registry: Path, data: Path, folder: Path) -> Workload:
    _check_imagenet(registry)
    images = tuple(sorted((data / "phone").glob("*.jpg")))
    if not images:
        raise Missing(f"{data / 'phone'} has no photos; --data names the folder of test data")
    return Workload(
        "phone", f"EfficientNet-Lite0, {len(images)} photos of phones", registry, "imagenet", images, images
    )


def _digit(registry: Path, data: Path, folder: Path) -> Workload:
    if not is_installed("torch"):
        raise Missing("its network is made with torch, which is not installed: pip install 'hubel[torch]'")
    image = folder / "digit.png"
    drawn = Image.new("L", (112, 112))
    ImageDraw.Draw(drawn).line([(30, 25), (80, 25), (45, 90)], fill=255, width=12, joint="curve")
    drawn.resize((28, 28), Image.Resampling.BOX).save(image)
    publish_digit_reader(folder / "registry", np.asarray(Image.open(image)))
    about = f"conv 32, 64, pool, conv 128, pool, fc 256, 10 with random weights, {_describe(image)}"
    return Workload("digit", about, folder / "registry", DIGITS, (image,), (image,))


def _many(registry: Path, data: Path, folder: Path) -> Workload:
    photo = _photo(registry, data, folder)
    (image,) = photo.images
    form = [("images", (str(number), image.read_bytes())) for number in range(IMAGES_IN_ONE_REQUEST)]
    request = httpx.Request("POST", "http://hubel", files=form)
    body = folder / "many.form"
    body.write_bytes(request.read())
    about = f"EfficientNet-Lite0, {IMAGES_IN_ONE_REQUEST} times {_describe(image)} in one form"
    content_type = request.headers["content-type"]
    return Workload("many", about, registry, "imagenet", (image,), (body,), content_type, IMAGES_IN_ONE_REQUEST)


def _reduced(precision: Precision, registry: Path, data: Path, folder: Path) -> Workload:
    """The photo for `imagenet` in a reduced precision, which is made for the run as a user would."""
    photo = _photo(registry, data, folder)
    labelled = data / "imagenet-sample" / "labels.csv"
    if not is_installed("torch"):
        raise Missing("versions are reduced with torch, which is not installed: pip install 'hubel[torch]'")
    if not labelled.exists():
        raise Missing(f"{labelled} is not there, on which the reduced version would be measured")
    root = folder / precision
    shutil.copytree(registry / photo.model, root / photo.model)
    options = ["--label-column", "class_name", f"--{precision}", "--alias", PRODUCTION, "--max-drop", "4", "--json"]
    made = subprocess.run(
        [sys.executable, "-m", "hubel", "optimize", photo.model, labelled, *options, "--registry", root],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Missing(f"hubel optimize --{precision} failed: {made.stderr[-_TOLD:].strip()}")
    about = f"{photo.about}, in {precision}: {_accuracy(made.stdout)}"
    return Workload(precision, about, root, photo.model, photo.images, photo.bodies)


def _accuracy(figures: str) -> str:
    """Say what a reduced version costs, from what `hubel optimize --json` prints."""
    found = json.loads(figures)
    reduced, whole = (found[which]["accuracy"]["top1"] for which in ("reduced", "fp32"))
    return f"top-1 {reduced:.1%}, of fp32 {whole:.1%}, the same first class {found['agreement']['value']:.1%}"


MAKERS: dict[str, Callable[[Path, Path, Path], Workload]] = {
    "photo": _photo,
    "bf16": partial(_reduced, "bf16"),
    "int8": partial(_reduced, "int8"),
    "phone": _phone,
    "digit": _digit,
    "many": _many,
}


def publish_digit_reader(root: Path, example: "np.ndarray") -> None:
    """Publish the network that other services were measured with, with random weights; `example` is uint8 (28, 28)."""
    import torch

    from model.architectures.catalog import build_network
    from training.publish import Release, publish

    torch.manual_seed(0)
    publish(
        Registry(root),
        Release(
            name=DIGITS,
            title="A digit reader of random weights",
            network=build_network("classic", 10, _DIGIT_CONFIG),
            architecture=Architecture(name="classic", config=_DIGIT_CONFIG),
            labels=tuple(map(str, range(10))),
            preprocessing=Preprocessing(mode="L", height=28, width=28, resize="stretch", mean=(0.5,), std=(0.5,)),
            calibration=Calibration(),
            golden=example[None, :, :, None].copy(),
            source="benchmarks",
            licence="none",
            data="none",
            metrics={},
        ),
    )


def _check_imagenet(registry: Path) -> None:
    try:
        Registry(registry).version(ModelRef.parse("imagenet"))
    except ModelError as error:
        raise Missing(f"{error}; hubel setup makes it") from error


def _describe(image: Path) -> str:
    with Image.open(image) as opened:
        width, height = opened.size
    return f"{opened.format} of {width} x {height}, {image.stat().st_size:,} bytes"
