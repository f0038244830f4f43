"""Publishing: a network in memory becomes a version in the registry, checked before it exists."""

import datetime as dt
import importlib.metadata
import platform
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import nn

from model.architectures.pixels import PixelNetwork
from model.checkpoint import CARD, WEIGHTS, Golden, read_golden, write_golden
from model.classifier import check_golden
from model.engines.onnx import OnnxEngine
from model.manifest import Architecture, Calibration, Manifest, Provenance
from model.preprocessing import Pixels, Preprocessing
from model.registry import Registry, StoredVersion
from training.export import count_parameters, export_network

_PACKAGES = ("hubel", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "pillow", "numpy")


@dataclass(frozen=True)
class Release:
    """All that a new version is made of.

    `network` takes normalised (N, C, H, W); `golden` are a few real inputs, uint8 (N, H, W, C).
    """

    name: str
    title: str
    network: nn.Module
    architecture: Architecture
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    calibration: Calibration
    golden: Pixels
    source: str
    licence: str
    data: str
    metrics: dict[str, float]
    recipe: dict[str, JsonValue] = field(default_factory=dict)
    seed: int | None = None


def publish(registry: Registry, release: Release, alias: str | None = None) -> StoredVersion:
    """Write every file of a version, compare the engines' answers, and make it the next version.

    Raises:
        GoldenMismatch: the exported network does not answer as the torch network does.
        RegistryUnavailable: the registry cannot be written.
    """
    network = PixelNetwork(release.network, release.preprocessing.mean, release.preprocessing.std).cpu().eval()
    manifest = Manifest(
        name=release.name,
        architecture=release.architecture,
        labels=release.labels,
        preprocessing=release.preprocessing,
        calibration=release.calibration,
        engines=("onnx", "torch"),
        parameters=count_parameters(release.network),
        metrics=release.metrics,
        provenance=Provenance(
            created=dt.datetime.now(dt.UTC).replace(microsecond=0),
            source=release.source,
            licence=release.licence,
            seed=release.seed,
            data=release.data,
            recipe=release.recipe,
            versions=_versions(),
        ),
    )
    with registry.staging(release.name) as folder:
        save_file({key: value.contiguous() for key, value in release.network.state_dict().items()}, folder / WEIGHTS)
        pixels = torch.from_numpy(release.golden)
        export_network(network, pixels, folder)
        with torch.inference_mode():
            logits = np.asarray(network(pixels).numpy())
        write_golden(folder, Golden(release.golden, logits))
        difference = check_golden(OnnxEngine(folder, threads=1), read_golden(folder), manifest)
        (folder / CARD).write_text(_card(release, manifest, difference), encoding="utf-8")
        return registry.publish(folder, manifest, alias)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _card(release: Release, manifest: Manifest, difference: float) -> str:
    """Write what a reader should know before using the version."""
    shape = "x".join(map(str, release.preprocessing.shape))
    calibration = manifest.calibration
    rows = [
        ("architecture", f"{release.architecture.name}, {manifest.parameters:,} parameters"),
        ("input", f"{shape} (H x W x C), resize '{release.preprocessing.resize}'"),
        ("classes", str(len(release.labels))),
        ("data", release.data),
        ("source", release.source),
        ("licence", release.licence),
        ("calibrated", f"{'yes' if calibration.calibrated else 'no'}. {calibration.note}".strip()),
        ("ONNX Runtime against torch", f"largest difference of a probability {difference:.1e}"),
        *((name.replace("_", " "), f"{value:.4f}") for name, value in release.metrics.items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {release.title}\n\n| | |\n| --- | --- |\n{table}\n"
