"""More than the service can do: who is answered, how soon the rest is refused, and what is left of it afterwards.

`make overload`, or `python -m benchmarks.overload --seconds 60`. Requests arrive at a rate of their own. First ten
times what an engine of known speed can do, with a second for each answer; then three times what the service reached
with imagenet when its clients waited. Ends with 1 where a bar is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.arrivals import Course, Plan, Sender
from benchmarks.bars import Bar, show
from benchmarks.load import Sample
from benchmarks.processes import MemoryWatch
from benchmarks.server import Server, serving
from benchmarks.stand_in import Behaviour
from model.registry import DEFAULT_ROOT, Registry
from service.bench.exchange import head_of
from service.bench.latencies import percentile
from tests.fakes import encode, noise, tiny_release
from training.publish import publish

OK, REFUSED = 200, (429, 503)
TIMEOUT_MS = 1000
SECONDS_PER_IMAGE = 0.01
RECOVERY_SECONDS = 2.0
CLOSED_LOOPS = (8, 16, 32)


@dataclass(frozen=True)
class Overload:
    """What was measured.

    Attributes:
        best_per_second: answers, with clients that wait for them.
        course: of too many requests, which wait for nothing.
        seconds: for how long they came.
        memory_growth: bytes, meanwhile.
        idle_before: seconds of one request alone.
        idle_after: likewise, when it was over.
    """

    best_per_second: float
    course: Course
    seconds: float
    memory_growth: int
    idle_before: float
    idle_after: float

    @property
    def answered(self) -> list[float]:
        """Seconds of the requests that were answered."""
        return [sample.seconds for sample in self.course.samples if sample.status == OK]

    @property
    def refused(self) -> list[float]:
        """Seconds of the requests that were not let in."""
        return [sample.seconds for sample in self.course.samples if sample.status in REFUSED]

    @property
    def goodput(self) -> float:
        """Share of the best that was kept up."""
        return answered_per_second(self.course.samples, self.seconds) / self.best_per_second

    def figures(self) -> list[Bar]:
        """What is only to be known."""
        statuses = Counter(sample.status for sample in self.course.samples)
        shares = ", ".join(f"{status}: {n / statuses.total():.1%}" for status, n in sorted(statuses.items()))
        offered = statuses.total() / self.seconds
        reasons = Counter(sample.body.decode() for sample in self.course.samples if not sample.status)
        return [
            Bar.figure("best with clients that wait", f"{self.best_per_second:.1f}/s"),
            Bar.figure("offered", f"{offered:.0f}/s, {offered / self.best_per_second:.1f} times that"),
            Bar.figure("ends, by status", shares),
            Bar.figure("answered, p50", f"{percentile(self.answered, 50) * 1000:.0f} ms"),
            Bar.figure(
                "sender", f"{self.course.cpu_share:.0%} of a core, late by {self.course.lag_p99 * 1000:.1f} ms at p99"
            ),
            Bar.figure("connections at the most", str(self.course.connections)),
            Bar.figure("broken", ", ".join(f"{count} {why}" for why, count in reasons.items()) or "none"),
        ]


def overload(
    server: Server, image: bytes, sender: Sender, *, times: float, seconds: float, closed_loop_seconds: float
) -> Overload:
    """Find out what a service can do, and send it `times` as much."""
    url = f"{server.url}/v1/predict?timeout_ms={TIMEOUT_MS}"
    best = max(
        answered_per_second(sender.ask(url, image, clients=clients, seconds=closed_loop_seconds), closed_loop_seconds)
        for clients in CLOSED_LOOPS
    )
    idle_before = alone(sender, url, image, closed_loop_seconds)
    plan = Plan(
        port=urlsplit(url).port or 0, requests=[head_of(url, image) + image], per_second=times * best, seconds=seconds
    )
    with MemoryWatch(server.workers) as memory:
        course = sender.send(plan).result()
    ended = time.monotonic()
    idle_after = alone(sender, url, image, 0.5)
    while idle_after > 1.5 * idle_before and time.monotonic() < ended + RECOVERY_SECONDS:
        idle_after = alone(sender, url, image, 0.5)
    return Overload(best, course, seconds, memory.growth, idle_before, idle_after)


def alone(sender: Sender, url: str, image: bytes, seconds: float) -> float:
    """Return the median time of one request after the other."""
    return statistics.median(sample.seconds for sample in sender.ask(url, image, clients=1, seconds=seconds))


def answered_per_second(samples: Sequence[Sample], seconds: float) -> float:
    """Return how many requests were answered in a second, of those answered before the time was over."""
    over = min(sample.asked for sample in samples) + seconds
    return sum(sample.status == OK and sample.asked + sample.seconds <= over for sample in samples) / seconds


@contextmanager
def stand_in_service(folder: Path, behaviour: Behaviour, **settings: Any) -> Iterator[Server]:
    """Serve a tiny model behind a stand-in for its engine."""
    registry = folder / "registry"
    publish(Registry(registry), tiny_release())
    variables: dict[str, Any] = {"HUBEL_LOG_LEVEL": "warning", **behaviour.variables, **settings}
    with serving(
        registry, folder / "server.log", module="benchmarks.stand_in", HUBEL_DEFAULT_MODEL="tiny", **variables
    ) as server:
        yield server


def with_stand_in(seconds: float, closed_loop_seconds: float, times: float = 10.0) -> list[Bar]:
    """Measure with an engine that takes 10 ms an image: what is lost is lost by the service."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Sender() as sender,
        stand_in_service(Path(folder), Behaviour(SECONDS_PER_IMAGE)) as server,
    ):
        found = overload(
            server, encode(noise()), sender, times=times, seconds=seconds, closed_loop_seconds=closed_loop_seconds
        )
    return [
        *found.figures(),
        Bar.at_most("answered, p99", percentile(found.answered, 99) * 1000, TIMEOUT_MS, " ms"),
        Bar.at_least("goodput, of the best", found.goodput * 100, 90, " %"),
        Bar.at_most("refused, p99", percentile(found.refused, 99) * 1000, 50, " ms"),
        Bar.at_most("broken or unanswered", sum(sample.status == 0 for sample in found.course.samples), 0),
        Bar.at_most("memory, growth", found.memory_growth / 1e6, 100, " MB"),
        Bar.at_most(
            f"alone, within {RECOVERY_SECONDS:.0f} s after", found.idle_after * 1000, 1500 * found.idle_before, " ms"
        ),
    ]


def with_engine(registry: Path, model: str, image: bytes, seconds: float, closed_loop_seconds: float) -> list[Bar]:
    """Measure with a real engine, which shares its cores with the decoding of what is refused, and with the sender."""
    with tempfile.TemporaryDirectory() as folder, Sender() as sender:
        log = Path(folder) / "server.log"
        with serving(registry, log, HUBEL_DEFAULT_MODEL=model, HUBEL_LOG_LEVEL="warning") as server:
            found = overload(server, image, sender, times=3, seconds=seconds, closed_loop_seconds=closed_loop_seconds)
    cores = len(os.sched_getaffinity(0))
    return [
        *found.figures(),
        Bar.figure("sender, of all cores", f"{found.course.cpu_share / cores:.0%}"),
        Bar.at_most("answered, p99", percentile(found.answered, 99) * 1000, TIMEOUT_MS, " ms"),
        Bar.at_least("goodput, of the best", found.goodput * 100, 75, " %"),
        Bar.at_most("broken or unanswered", sum(sample.status == 0 for sample in found.course.samples), 0),
        Bar.at_most("memory, growth", found.memory_growth / 1e6, 200, " MB"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(os.environ.get("HUBEL_REGISTRY", DEFAULT_ROOT)))
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--image", type=Path, default=Path(__file__).parent.parent / "docs" / "cat.jpg")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload, at most 600")
    arguments = parser.parse_args()
    seconds = min(arguments.seconds, 600.0)
    closed_loop_seconds = min(5.0, seconds / 2)
    kept = show("ten times what an engine of 100 images/s can do", with_stand_in(seconds, closed_loop_seconds))
    title = f"three times what {arguments.model} can do"
    image = arguments.image.read_bytes()
    kept &= show(title, with_engine(arguments.registry, arguments.model, image, seconds, closed_loop_seconds))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
