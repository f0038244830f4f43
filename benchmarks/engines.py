"""How fast the engines run versions on this machine, side by side in one process, and how far their answers are off.

`python -m benchmarks.engines imagenet digits --precision fp32 --precision bf16`. Without a precision
it is that of the version; another one shows what the version would do. Compare within a run, not between runs.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model.checkpoint import read_golden
from model.classifier import softmax
from model.engines.base import Engine
from model.engines.measuring import measure
from model.engines.selection import Candidate, is_installed, open_engine
from model.registry import DEFAULT_ROOT, Registry, StoredVersion
from model.types import ModelRef

_ENGINES = {"fp32": ("onnx", "openvino", "torch"), "bf16": ("openvino", "torch"), "int8": ("onnx", "openvino")}


def open_all(version: StoredVersion, precisions: list[str], threads: int) -> dict[str, Engine]:
    """Open a version in every precision on every engine that is installed and has it."""
    engines: dict[str, Engine] = {}
    for precision in precisions:
        manifest = version.manifest.model_copy(update={"precision": precision})
        opened = StoredVersion(version.name, version.number, version.folder, manifest)
        for name in filter(is_installed, _ENGINES[precision]):
            engines[f"{name} {precision}"] = open_engine(opened, Candidate(name, "cpu"), threads)
    return engines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["imagenet"])
    parser.add_argument("--registry", type=Path, default=Path(os.environ.get("HUBEL_REGISTRY", DEFAULT_ROOT)))
    parser.add_argument("--precision", action="append", choices=list(_ENGINES))
    parser.add_argument("--rounds", type=int, default=20, help="of each engine, 0.35 s each, at most 200")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    registry = Registry(arguments.registry)
    for model in arguments.models:
        version = registry.version(ModelRef.parse(model))
        engines = open_all(version, arguments.precision or [version.manifest.precision], threads)
        golden = read_golden(version.folder)
        temperature = version.manifest.calibration.temperature
        expected = softmax(golden.logits, temperature)
        table = Table("engine", f"images/s on {threads} cores", "one image alone, ms", "from the golden outputs")
        for speed in measure(engines, golden.pixels, threads, rounds=min(arguments.rounds, 200)):
            answers = softmax(engines[speed.engine].infer(golden.pixels), temperature)
            table.add_row(
                speed.engine,
                f"{speed.images_per_second:.0f}",
                f"{speed.alone_ms:.2f}",
                f"{np.abs(answers - expected).max():.1e}",
            )
        Console().print(f"{version}", table)


if __name__ == "__main__":
    main()
