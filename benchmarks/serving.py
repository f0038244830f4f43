"""How fast the service is, beside what its own engine and torch do in a plain loop, and where the time goes. One run.

`make bench`, or `python -m benchmarks.serving --workload photo --workload digit --seconds 8`. Needs wrk and a filled
registry. The machine's speed drifts, and others may use it: compare within a run, not between runs. What each figure
means, and figures: `benchmarks/serving.md`. Nothing here is a bar that can be missed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import footprint
from benchmarks.curve import Cost, cost_curve, scaling
from benchmarks.eager import EagerLimit, eager_limit
from benchmarks.footprint import Footprint
from benchmarks.metered import VARIABLE
from benchmarks.offline import Limit, own_limit
from benchmarks.processes import Memory, Neighbours
from benchmarks.server import serving
from benchmarks.stages import STAGES, Profile, Reading, measure_json
from benchmarks.workloads import CAT, MAKERS, Missing, Workload, make
from benchmarks.wrk import Load, load
from model.registry import DEFAULT_ROOT
from service.settings import Settings

HERE = Path(__file__).parent
CONNECTIONS = (1, 8, 32, 64)
CURVES = ("photo", "digit")  # the others have the same networks
_EDGE_SECONDS = 0.3  # of a load, at its beginning and its end, that the stages leave out
_CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Measured:
    """A load, and what it cost."""

    load: Load
    profile: Profile


@dataclass
class Served:
    """A workload on a service with some workers: each load, and the memory afterwards."""

    workers: int
    loads: list[Measured] = field(default_factory=list)
    memory: Memory | None = None


@dataclass
class Result:
    """Everything of one workload; `others_cores` is how many cores others used during what is named."""

    workload: Workload
    own: Limit = field(init=False)
    eager: EagerLimit | None = None
    served: list[Served] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    by_cores: dict[int, float] = field(default_factory=dict)
    others_cores: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def beside(self, what: str) -> Iterator[None]:
        """Note how many cores others use meanwhile."""
        with Neighbours() as neighbours:
            yield
        if neighbours.seconds > 1.0:  # else it was not measured again
            self.others_cores[what] = neighbours.cores


def serve_and_ask(workload: Workload, connections: Sequence[int], workers: int, seconds: int, folder: Path) -> Served:
    """Ask a service with different numbers of connections, after a second of warming up each."""
    served, meters = Served(workers), folder / f"meters-{workload.name}-{workers}"
    meters.mkdir()
    places = Settings.model_fields["max_queue_size"].default // workload.images_per_request
    with serving(
        workload.registry,
        folder / "server.log",
        workers=workers,
        module="benchmarks.metered",
        HUBEL_DEFAULT_MODEL=workload.model,
        HUBEL_PRELOAD="",
        **{VARIABLE: str(meters)},
    ) as server:
        url = f"{server.url}/v1/predict"
        answer = server.post("/v1/predict", workload.images[0].read_bytes()).raise_for_status()
        json_ms = measure_json(answer.content) * workload.images_per_request
        for count in connections:
            if count > places:
                continue  # the queue does not take so many images
            load(url, workload.bodies, count, 1, content_type=workload.content_type)
            readings: list[Reading] = []

            def look(wrk: int, readings: list[Reading] = readings) -> None:
                for pause in (_EDGE_SECONDS, seconds - 2 * _EDGE_SECONDS):
                    time.sleep(pause)
                    readings.append(Reading.of(server, meters, wrk))

            found = load(url, workload.bodies, count, seconds, content_type=workload.content_type, look=look)
            profile = Profile.between(*readings, json_ms=json_ms, images_per_request=workload.images_per_request)
            served.loads.append(Measured(found, profile))
        served.memory = Memory.of(server.processes)
    return served


def measure(workload: Workload, arguments: argparse.Namespace, folder: Path) -> Result:
    """Measure one workload in every way."""
    result = Result(workload)
    looped = (workload.registry, workload.model, workload.images, arguments.seconds / 2)
    with result.beside("plain loop"):
        result.own = own_limit(*looped)
    with result.beside("torch eager"):
        result.eager = eager_limit(*looped)
    for workers in arguments.workers:
        result.served.append(serve_and_ask(workload, arguments.connections, workers, arguments.seconds, folder))
    if workload.name in CURVES:
        with result.beside("engine alone"):
            result.costs = cost_curve(workload)
        with result.beside("by cores"):
            result.by_cores = scaling(workload, folder / "server.log", arguments.seconds)
    return result


def show(console: Console, result: Result) -> None:
    """Print the tables of one workload."""
    workload, own, eager = result.workload, result.own, result.eager
    console.rule(f"{workload.name}: {workload.about}", align="left")
    ways = ", ".join(f"{how}: {rate:,.0f}" for how, rate in own.all_ways.items())
    console.print(f"plain loop: {own.images_per_second:,.0f} images/s ({ways})")
    if eager is None:
        console.print("torch eager: not measured, since torch is not installed: pip install 'hubel[torch]'")
    else:
        sizes = ", ".join(f"batch {batch}: {rate:,.1f}" for batch, rate in eager.by_batch.items())
        console.print(f"torch eager, {eager.malloc}: {eager.images_per_second:,.1f} images/s ({sizes})")
        console.print(
            f"until the pixels are there: {own.decode_ms:.2f} core-ms an image, torch eager with Pillow "
            f"{eager.decode_ms:.2f}, which is {eager.decode_ms / own.decode_ms:.1f} times as long"
        )
    for served in result.served:
        for table in (_loads(result, served), _stages(result, served), _clocks(served)):
            console.print(table)
    if result.costs:
        console.print(_costs(result.costs))
    if result.by_cores:
        rates = ", ".join(f"{count}: {rate:,.0f} requests/s" for count, rate in result.by_cores.items())
        console.print(f"by the cores that the service may use: {rates}")
    others = ", ".join(f"{what}: {cores:.2f}" for what, cores in result.others_cores.items())
    if others:
        console.print(f"cores that others used meanwhile: {others}")


def _loads(result: Result, served: Served) -> Table:
    table = _table(
        f"{served.workers} worker(s); memory afterwards: {_memory(served.memory)}",
        ("connections", "requests/s", "of the loop", "of torch eager", "p50 ms", "p99 ms", "failed"),
    )
    for load_ in (measured.load for measured in served.loads):
        images = load_.requests_per_second * result.workload.images_per_request
        table.add_row(
            str(load_.connections),
            f"{load_.requests_per_second:,.1f}",
            f"{images / result.own.images_per_second:.0%}",
            f"{images / result.eager.images_per_second:.2f} x" if result.eager else "",
            f"{load_.p50_ms:,.1f}",
            f"{load_.p99_ms:,.1f}",
            str(load_.failed),
        )
    return table


def _stages(result: Result, served: Served) -> Table:
    own, eager, images = result.own, result.eager, result.workload.images_per_request
    table = _table(
        f"core-milliseconds of a request (the loop's image: decode {own.decode_ms:.2f}, forward {own.forward_ms:.2f}"
        + (f"; torch eager's: {eager.image_ms:.2f})" if eager else ")"),
        (
            "connections",
            "HTTP",
            "JSON",
            "decode",
            "forward",
            "in all",
            "of the loop",
            "of torch eager",
            "wrk",
            "others",
        ),
    )
    for measured in served.loads:
        found = measured.profile
        times = (found.http_ms, found.json_ms, found.decode_ms, found.forward_ms, found.service_ms)
        table.add_row(
            str(measured.load.connections),
            *(f"{milliseconds:.3f}" for milliseconds in times),
            f"{own.image_ms * images / found.service_ms:.0%}",
            f"{eager.image_ms * images / found.service_ms:.2f} x" if eager else "",
            f"{found.generator_ms:.3f}",
            f"{found.others_cores:.2f} cores",
        )
    return table


def _clocks(served: Served) -> Table:
    table = _table(
        "the service's clocks, milliseconds an image", ("connections", *STAGES, "images in a batch, in the mean")
    )
    for measured in served.loads:
        found = measured.profile
        times = (f"{milliseconds:.2f}" for milliseconds in found.clocks_ms.values())
        table.add_row(str(measured.load.connections), *times, f"{found.images_per_batch:.1f}")
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _costs(costs: Sequence[Cost]) -> Table:
    table = _table("the engine alone", ("threads", "batch", "ms a batch", "ms an image", "images/s", "peak memory, MB"))
    for cost in costs:
        table.add_row(
            str(cost.threads),
            str(cost.batch),
            f"{cost.seconds * 1000:,.2f}",
            f"{cost.seconds * 1000 / cost.batch:,.2f}",
            f"{cost.batch / cost.seconds:,.0f}",
            f"{cost.peak_bytes / 1e6:,.0f}",
        )
    return table


def show_footprint(console: Console, found: Footprint) -> None:
    """Print what it takes to have the service."""
    console.rule("hubel serve, as it is", align="left")
    console.print(
        f"ready after {found.seconds_to_ready:.2f} s; memory then {_memory(found.ready)}, after an answer "
        f"{_memory(found.answered)}, at the most {found.peak_bytes / 1e6:,.0f} MB; "
        f"{found.installed_bytes / 1e6:,.0f} MB of packages"
    )


def _memory(memory: Memory | None) -> str:
    return "" if memory is None else f"{memory.resident / 1e6:,.0f} MB RSS, {memory.proportional / 1e6:,.0f} MB PSS"


def main() -> None:
    """Measure, print, and write `results/serving.json`."""
    arguments = _arguments()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    console = Console(width=None if sys.stdout.isatty() else 140)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    started = time.monotonic()
    record: dict[str, Any] = {"cores": _CORES, "load_before": os.getloadavg(), "workloads": {}, "skipped": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.workload:
            try:
                workload = make(name, arguments.registry, arguments.data, Path(folder))
            except Missing as missing:
                console.print(f"{name} is left out: {missing}")
                record["skipped"][name] = str(missing)
                continue
            result = measure(workload, arguments, Path(folder))
            show(console, result)
            record["workloads"][name] = asdict(result)
            if "footprint" not in record and workload.model == "imagenet":
                found = footprint.measure(arguments.registry, CAT, Path(folder) / "server.log", arguments.workers[0])
                show_footprint(console, found)
                record["footprint"] = asdict(found)
    record["seconds"] = time.monotonic() - started
    (results / "serving.json").write_text(json.dumps(record, indent=1, default=str) + "\n")
    console.print(f"{record['seconds']:.0f} s; {_CORES} cores; {results / 'serving.json'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(os.environ.get("HUBEL_REGISTRY", DEFAULT_ROOT)))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the photos")
    parser.add_argument("--workload", action="append", choices=MAKERS, help="all by default")
    parser.add_argument("--seconds", type=int, default=3, choices=range(1, 61), metavar="1-60", help="of each load")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--workers", type=int, nargs="+", default=[Settings().with_processes().processes])
    arguments = parser.parse_args()
    arguments.workload = arguments.workload or list(MAKERS)
    return arguments


if __name__ == "__main__":
    main()
