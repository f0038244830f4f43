"""What it takes to have the service at all: time to start, memory, files."""

import importlib.metadata
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Memory, peak_bytes
from benchmarks.server import serving

LOCK = Path(__file__).parent.parent / "requirements-serve.lock"


@dataclass(frozen=True)
class Footprint:
    """What `hubel serve` takes.

    Attributes:
        seconds_to_ready: from the start of the process to the first 200 of /readyz.
        ready: memory then.
        answered: memory after one answer.
        peak_bytes: the most that its processes have held, added up.
        installed_bytes: of the packages that it serves with, which the image has beside Python.
    """

    seconds_to_ready: float
    ready: Memory
    answered: Memory
    peak_bytes: int
    installed_bytes: int


def measure(registry: Path, image: Path, log: Path, workers: int) -> Footprint:
    """Start the service as a user would, with every model of the registry, and ask it once."""
    with serving(registry, log, workers=workers) as server:
        ready = Memory.of(server.processes)
        server.post("/v1/predict", image.read_bytes()).raise_for_status()
        answered = Memory.of(server.processes)
        peak = sum(map(peak_bytes, server.processes))
    return Footprint(server.seconds_to_ready, ready, answered, peak, installed_bytes())


def installed_bytes() -> int:
    """Return the size of the files of every package that `requirements-serve.lock` pins, as far as it is installed."""
    total = 0
    for name in re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), re.MULTILINE):
        with suppress(importlib.metadata.PackageNotFoundError):
            for file in importlib.metadata.files(name) or []:
                with suppress(OSError):
                    total += Path(str(file.locate())).stat().st_size
    return total
