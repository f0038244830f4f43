"""Throughput and latency of the service beside what its engine does in a plain loop, in one run.

`make bench`, or `python -m benchmarks.serving --image photo.jpg --model imagenet`. Needs wrk
and a filled registry. The floor is the best of one process with all cores and one process per core, each
decoding and classifying the same file again and again; the service's figures are given as a
share of it. The machine's speed drifts: compare within a run, not between runs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.server import serving
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.preprocessing import ImageLimits
from model.registry import DEFAULT_ROOT, Registry
from model.types import ModelRef

HERE = Path(__file__).parent
CONNECTIONS = (1, 8, 32)
FLOOR_SECONDS = 4.0


@dataclass(frozen=True)
class Load:
    """What wrk saw: connections, requests per second, latencies in milliseconds, answers that were not 200."""

    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def floor(registry: Path, model: str, image: Path) -> float:
    """Return images per second of a plain loop, the best way of dividing the cores."""
    cores = len(os.sched_getaffinity(0))
    return max(_loops(registry, model, image, 1, cores), _loops(registry, model, image, cores, 1))


def load(url: str, image: Path, connections: int, seconds: int) -> Load:
    """Ask the service with wrk, after a second of warming up."""
    command = ["wrk", "-t1", f"-c{connections}", "--latency", "-s", str(HERE / "post.lua"), url]
    environment = {**os.environ, "IMAGE": str(image)}
    subprocess.run([*command, "-d1s"], env=environment, capture_output=True, check=True)
    text = subprocess.run(
        [*command, f"-d{seconds}s"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    failed = sum(
        int(count) for count in re.findall(r"(?:Non-2xx or 3xx responses: |timeout |read |write |connect )(\d+)", text)
    )
    return Load(
        connections,
        _number(r"Requests/sec:\s+([\d.]+)", text),
        _milliseconds("50%", text),
        _milliseconds("99%", text),
        failed,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(os.environ.get("HUBEL_REGISTRY", DEFAULT_ROOT)))
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--image", type=Path, default=HERE.parent / "docs" / "cat.jpg")
    parser.add_argument("--seconds", type=int, default=8, help="of load at each number of connections, at most 60")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    best = floor(arguments.registry, arguments.model, arguments.image)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with serving(arguments.registry, results / "server.log", HUBEL_DEFAULT_MODEL=arguments.model) as server:
        url = f"{server.url}/v1/models/{arguments.model}/predict"
        loads = [load(url, arguments.image, connections, min(arguments.seconds, 60)) for connections in CONNECTIONS]
        resident = server.status("VmHWM")
    table = Table("connections", "requests/s", "of the plain loop", "p50 ms", "p99 ms", "failed")
    for row in loads:
        share = f"{row.requests_per_second / best:.0%}"
        table.add_row(
            str(row.connections),
            f"{row.requests_per_second:.0f}",
            share,
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            str(row.failed),
        )
    console = Console()
    console.print(f"{arguments.model}, {arguments.image.name}: a plain loop does {best:.0f} images/s")
    console.print(table)
    console.print(f"ready after {server.seconds_to_ready:.2f} s, {resident // 1024} MB resident at the most")
    record = {
        "model": arguments.model,
        "image": arguments.image.name,
        "plain_loop": best,
        "loads": [asdict(row) for row in loads],
    }
    (results / "serving.json").write_text(json.dumps(record, indent=1) + "\n")


def _loops(registry: Path, model: str, image: Path, processes: int, threads: int) -> float:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(_loop, *zip(*[(registry, model, image, threads)] * processes, strict=True)))


def _loop(registry: Path, model: str, image: Path, threads: int) -> float:
    classifier = load_classifier(
        Registry(registry).version(ModelRef.parse(model)), EngineChoice(device="cpu", threads=threads)
    )
    data, limits = image.read_bytes(), ImageLimits()
    done, started = 0, time.perf_counter()
    while time.perf_counter() < started + FLOOR_SECONDS:
        classifier.classify(np.stack([classifier.prepare(data, limits).pixels]), spread=threads > 1)
        done += 1
    return done / (time.perf_counter() - started)


def _number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"wrk did not print {pattern!r}:\n{text}")
    return float(match[1])


def _milliseconds(percentile: str, text: str) -> float:
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    match = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)\b", text)
    if match is None:
        raise ValueError(f"wrk did not print {percentile}:\n{text}")
    return float(match[1]) * unit[match[2]]


if __name__ == "__main__":
    main()
