"""Publishing: a network in memory becomes a version in the registry, checked before it exists."""

import dataclasses
import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import nn

from model.architectures.pixels import PixelNetwork
from model.checkpoint import CARD, REPORT, WEIGHTS, Golden, read_golden, write_golden
from model.classifier import check_golden
from model.engines.onnx import OnnxEngine
from model.engines.torch import TorchEngine
from model.manifest import Architecture, Calibration, Manifest, Provenance
from model.preprocessing import Pixels, Preprocessing
from model.registry import Registry, StoredVersion
from training.card import write_card
from training.cost import measure_latency
from training.export import count_parameters, export_network
from training.report import Fact, Report, write_report
from training.versions import versions


@dataclass(frozen=True)
class Release:
    """All that a new version is made of.

    `network` takes normalised (N, C, H, W); `golden` are a few real inputs, uint8 (N, H, W, C).
    `report` is what hubel has measured, without the engines' latencies; None where it has not.
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
    facts: tuple[Fact, ...] = ()
    report: Report | None = None


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
            versions=versions(),
        ),
    )
    with registry.staging(release.name) as folder:
        save_file({key: value.contiguous() for key, value in release.network.state_dict().items()}, folder / WEIGHTS)
        pixels = torch.from_numpy(release.golden)
        export_network(network, pixels, folder)
        with torch.inference_mode():
            logits = np.asarray(network(pixels).numpy())
        write_golden(folder, Golden(release.golden, logits))
        threads = torch.get_num_threads()
        engines = (OnnxEngine(folder, threads), TorchEngine(folder, manifest, "cpu", threads))
        golden = read_golden(folder)
        difference = max(check_golden(engine, golden, manifest) for engine in engines)
        report = release.report
        if report is not None:
            latencies = [
                row
                for engine in engines
                for row in measure_latency(engine.infer, release.golden, engine=engine.name, threads=threads)
            ]
            write_report(folder / REPORT, dataclasses.replace(report, latencies=latencies))
        card = write_card(
            manifest,
            title=release.title,
            difference=difference,
            evaluation=report.test if report else None,
            facts=release.facts,
            warnings=report.warnings if report else (),
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        return registry.publish(folder, manifest, alias)
