"""A quarter of an hour at four fifths of what the service can do: does anything grow, is anything left, does any fail?

`make soak`, or `python -m benchmarks.soak --seconds 900`. Every minute, clients who wait find out for some seconds what
the service can do now, since other work on the machine comes and goes; then requests arrive by themselves at 80 % of
that. Where the machine slows down within the minute, that may be more than the service can do: it then refuses, and
says so. Ends with 1 where a bar is missed.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.arrivals import Course, Plan, Sender
from benchmarks.bars import Bar, show
from benchmarks.overload import OK, REFUSED, answered_per_second
from benchmarks.processes import resident_bytes, settled_descriptors
from benchmarks.server import serving
from model.registry import DEFAULT_ROOT
from service.bench.exchange import head_of
from service.bench.latencies import percentile

SHARE = 0.8
CLIENTS = 16
MINUTE = 60.0
WARM_UP_SHARE = 0.2  # of the time, in which memory may find its level
SLOPE_MB_PER_MINUTE = 1.0
REFUSED_SHARE = 0.01


@dataclass(frozen=True)
class Reading:
    """The memory of a process, bytes, at a moment, monotonic seconds."""

    at: float
    resident: int


class Readings:
    """Looks at a process again and again until it is closed."""

    def __init__(self, pid: int, every_seconds: float) -> None:
        self.taken: list[Reading] = []
        self._pid = pid
        self._every = every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Readings":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def slope(self) -> float:
        """Return by how many MB a minute the memory grew after the warm-up, by least squares."""
        settled = self.taken[int(len(self.taken) * WARM_UP_SHARE) :]
        minutes = [reading.at / MINUTE for reading in settled]
        return float(np.polyfit(minutes, [reading.resident / 1e6 for reading in settled], 1)[0])

    def _look(self) -> None:
        while not self._over.wait(self._every):
            self.taken.append(Reading(time.monotonic(), resident_bytes(self._pid)))


def soak(registry: Path, model: str, image: bytes, seconds: float, closed_loop_seconds: float) -> list[Bar]:
    """Serve, find the rate and keep it up again and again, and look at the process meanwhile."""
    bests: list[float] = []
    courses: list[Course] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Sender() as sender,
        serving(registry, Path(folder) / "server.log", HUBEL_DEFAULT_MODEL=model, HUBEL_LOG_LEVEL="warning") as server,
    ):
        url = server.url + "/v1/predict"
        sender.ask(url, image, clients=CLIENTS, seconds=2)
        (pid,) = server.workers
        descriptors = settled_descriptors(pid, 0)
        over = time.monotonic() + seconds
        with Readings(pid, min(5.0, seconds / 20)) as readings:
            while (left := over - time.monotonic()) > closed_loop_seconds:
                waited_for = sender.ask(url, image, clients=CLIENTS, seconds=closed_loop_seconds)
                bests.append(answered_per_second(waited_for, closed_loop_seconds))
                plan = Plan(
                    port=urlsplit(url).port or 0,
                    requests=[head_of(url, image) + image],
                    per_second=SHARE * bests[-1],
                    seconds=min(MINUTE, left) - closed_loop_seconds,
                )
                courses.append(sender.send(plan).result())
        forgotten = settled_descriptors(pid, descriptors) - descriptors
    samples = [sample for course in courses for sample in course.samples]
    statuses = Counter(sample.status for sample in samples if sample.status != OK)
    refused = sum(statuses[status] for status in REFUSED)
    lags = [course.lag_p99 * 1000 for course in courses]
    p99s = [percentile([sample.seconds for sample in course.samples], 99) * 1000 for course in courses]
    return [
        Bar.figure("best with clients that wait", f"{min(bests):.0f} to {max(bests):.0f}/s"),
        Bar.figure("requests", f"{len(samples)} in {seconds / MINUTE:.1f} minutes"),
        Bar.figure("p99 by minute", ", ".join(f"{p99:.0f}" for p99 in p99s) + " ms"),
        Bar.figure("sender", f"{courses[-1].cpu_share:.0%} of a core, late by {max(lags):.1f} ms at p99"),
        Bar.figure("memory at the end", f"{readings.taken[-1].resident / 1e6:.0f} MB"),
        Bar.at_most("memory, slope", readings.slope(), SLOPE_MB_PER_MINUTE, " MB/min"),
        Bar.at_most("descriptors left", forgotten, 0),
        Bar.figure("ends that are not 200", ", ".join(f"{status}: {n}" for status, n in statuses.items()) or "none"),
        Bar.at_most("refused, of all", refused / len(samples), REFUSED_SHARE),
        Bar.at_most("requests that failed otherwise", statuses.total() - refused, 0),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(os.environ.get("HUBEL_REGISTRY", DEFAULT_ROOT)))
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--image", type=Path, default=Path(__file__).parent.parent / "docs" / "cat.jpg")
    parser.add_argument("--seconds", type=float, default=900.0, help="of load, at most 7,200")
    arguments = parser.parse_args()
    seconds = min(arguments.seconds, 7200.0)
    found = soak(arguments.registry, arguments.model, arguments.image.read_bytes(), seconds, min(8.0, seconds))
    sys.exit(not show(f"{arguments.model} at {SHARE:.0%} of what it can do", found))


if __name__ == "__main__":
    main()
