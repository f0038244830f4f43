"""Everything that can go wrong at once, under load: every request must come to an end that can be told why.

`make chaos`, or `python -m benchmarks.chaos --seconds 300`. Two workers serve two versions of a tiny model that answer
differently, behind engines that fail and hang to order. Meanwhile workers are killed, the registry is moved away,
versions are promoted, and clients vanish. A 200 must be the right answer of the version that it names; anything else
must be a problem that this request may meet; a connection may break only where a worker ended a moment ago. Ends
with 1 where a bar is missed. What happens when is drawn from --seed.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from benchmarks.abandon import vanish
from benchmarks.arrivals import Plan, Sender
from benchmarks.bars import Bar, show
from benchmarks.load import Sample
from benchmarks.processes import metric
from benchmarks.server import Server, serving
from benchmarks.stand_in import HANG, HANG_UNTIL_STOPPED, RAISE, Behaviour
from model.registry import Registry
from model.types import ModelRef
from service.bench.exchange import head_of
from service.bench.latencies import percentile
from tests.fakes import encode, noise, tiny_release
from training.publish import publish

PER_SECOND = 80.0
WORKERS = 2
VERSIONS = (1, 2)
READY_SECONDS = 30.0
GOOD_PERCENT = 95.0
NEAR_SECONDS = 1.0  # an end is noticed late, and a request that was sent after it may still have met it
ENGINE_TIMEOUT_MS = 1000
STOP_SECONDS = 5.0  # that the service gives an engine which was asked to stop
ROUNDING = 1e-4  # of a probability, in batches of different sizes
BUSY = frozenset({503, 504})  # at any time: a full queue, a worker that ends, an engine that hangs


@dataclass(frozen=True)
class Kind:
    """A request, how often it comes, the statuses it may end with beside BUSY, and its own answers by version."""

    name: str
    path: str
    body: bytes
    weight: float
    statuses: frozenset[int]
    answers: Mapping[int, Any] = field(default_factory=dict)

    def is_right(self, sample: Sample) -> bool:
        """Whether an end may be this request's."""
        try:
            told = json.loads(sample.body)
            if sample.status == httpx.codes.OK:
                return sample.status in self.statuses and same(told["results"], self.answers[told["version"]])
            return sample.status in self.statuses | BUSY and told["status"] == sample.status
        except (ValueError, KeyError):
            return False


def same(results: Any, own: Any) -> bool:
    """Whether answers are the same but for rounding in batches of different sizes."""
    pairs = zip(results[0]["predictions"], own[0]["predictions"], strict=True)
    return all(a["label"] == b["label"] and abs(a["probability"] - b["probability"]) < ROUNDING for a, b in pairs)


class Mischief:
    """What is done to the service, and when (monotonic seconds) workers ended for it."""

    def __init__(self, server: Server, root: Path, image: bytes, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.ends: list[float] = []
        self.kinds: set[str] = set()
        self._server = server
        self._root = root
        self._image = image
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, seconds: float) -> None:
        """Begin, and do each of these things a few times in `seconds`."""
        unit = seconds / 30
        plan = (
            (4 * unit, self.kill_a_worker),
            (9 * unit, self.hang_an_engine),
            (8 * unit, self.take_the_registry_away),
            (unit, self.promote),
            (3 * unit, self.vanish),
        )
        self.kinds = {do.__name__ for _, do in plan}
        for pause, do in plan:
            self._threads.append(threading.Thread(target=self._repeat, args=(do, pause, self._chance.random())))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def near(self, sample: Sample) -> bool:
        """Whether a worker ended while a request was under way, or shortly before or after."""
        first, last = sample.asked - NEAR_SECONDS, sample.asked + sample.seconds + NEAR_SECONDS
        return any(first <= end <= last for end in self.ends)

    def kill_a_worker(self) -> None:
        """End a serving process at once."""
        self.ends.append(time.monotonic())
        with suppress(ProcessLookupError):
            os.kill(self._chance.choice(self._server.workers), signal.SIGKILL)

    def hang_an_engine(self) -> None:
        """Let an engine do something that takes a minute and cannot be stopped: its process must be replaced."""
        before = set(self._server.workers)
        with suppress(httpx.HTTPError):
            httpx.post(self._server.url + "/v1/predict", content=picture(HANG), timeout=STOP_SECONDS + 5)
        deadline = time.monotonic() + STOP_SECONDS + 5
        while before <= set(self._server.workers):
            if time.monotonic() > deadline:
                raise TimeoutError("no process was replaced")
            time.sleep(0.02)
        self.ends.append(time.monotonic())

    def take_the_registry_away(self) -> None:
        """Move the registry to where nobody finds it, for two looks at it."""
        away = self._root.with_name("away")
        self._root.rename(away)
        self._over.wait(2.5)
        away.rename(self._root)

    def promote(self) -> None:
        """Let the other version answer."""
        version = VERSIONS[self.done["promote"] % 2]
        Registry(self._root).promote(ModelRef("tiny", version=version))

    def vanish(self) -> None:
        """Let clients begin a request and go away."""
        url = self._server.url + "/v1/predict"
        start = head_of(url, self._image) + self._image[:1000]
        vanish(urlsplit(url).port or 0, [start], 50, 200.0, self._chance.randrange(1000))

    def _repeat(self, do: Callable[[], None], pause: float, first: float) -> None:
        chance = random.Random(first)
        wait = first * pause
        while not self._over.wait(wait):
            try:
                do()
                self.done[do.__name__] += 1
            except Exception as error:  # the registry may be away
                self.done[f"{do.__name__}: {type(error).__name__}"] += 1
            wait = chance.uniform(0.7, 1.3) * pause


def picture(colour: tuple[int, int, int]) -> bytes:
    """Return an image of one colour, which a stand-in may take as an order."""
    return encode(Image.new("RGB", (24, 24), colour))


def kinds(server: Server) -> list[Kind]:
    """Return what is asked, with the answers that each version gives by itself."""
    found = []
    good = frozenset({200})
    for seed in range(4):
        image = encode(noise(seed=seed))
        answers = {
            number: server.post(f"/v1/models/tiny:{number}/predict", image).json()["results"] for number in VERSIONS
        }
        found.append(Kind("an image", "/v1/predict", image, 0.2, good, answers))
        only = {1: answers[1]}
        found.append(Kind("an image for a version", "/v1/models/tiny:1/predict", image, 0.02, good, only))
    broken = encode(noise(300, 300))[:-20_000]
    return [
        *found,
        Kind("no image", "/v1/predict", b"nothing of the kind", 0.04, frozenset({415, 422})),
        Kind("a damaged image", "/v1/predict", broken, 0.04, frozenset({415, 422})),
        Kind("a model that is not there", "/v1/models/lion/predict", found[0].body, 0.02, frozenset({404})),
        Kind("an engine's fault", "/v1/predict", picture(RAISE), 0.01, frozenset({500})),
        Kind("an engine that is stopped", "/v1/predict", picture(HANG_UNTIL_STOPPED), 0.0005, frozenset({500})),
    ]


def chaos(seconds: float, seed: int, per_second: float = PER_SECOND) -> list[Bar]:
    """Serve, make mischief, and judge every end."""
    with tempfile.TemporaryDirectory() as folder, Sender() as sender:
        root = Path(folder) / "registry"
        for version in VERSIONS:
            publish(Registry(root), tiny_release(version))
        with serving(
            root,
            Path(folder) / "server.log",
            module="benchmarks.stand_in",
            workers=WORKERS,
            HUBEL_DEFAULT_MODEL="tiny",
            HUBEL_PRELOAD="tiny:1,tiny:2",
            HUBEL_LOG_LEVEL="error",
            HUBEL_ENGINE_TIMEOUT_MS=str(ENGINE_TIMEOUT_MS),
            **Behaviour(0.005, obeys=True).variables,
        ) as server:
            asked = kinds(server)
            mischief = Mischief(server, root, asked[0].body, seed)
            course = sender.send(plan_of(asked, server, per_second, seconds, seed))
            mischief.start(seconds)
            samples = course.result().samples
            mischief.stop()
            ready_after = seconds_to_ready(server)
            waiting = metric(server.get("/metrics").text, "hubel_queue_length")
    return judge(samples, asked, mischief, ready_after, waiting)


def plan_of(asked: Sequence[Kind], server: Server, per_second: float, seconds: float, seed: int) -> Plan:
    """Return how the requests arrive."""
    return Plan(
        port=urlsplit(server.url).port or 0,
        requests=[head_of(server.url + kind.path, kind.body) + kind.body for kind in asked],
        weights=[kind.weight for kind in asked],
        per_second=per_second,
        seconds=seconds,
        keep_bodies=True,
        seed=seed,
    )


def seconds_to_ready(server: Server) -> float:
    """Return how long it takes, now, until every worker is ready."""
    started = time.monotonic()
    while time.monotonic() < started + READY_SECONDS:
        with suppress(httpx.HTTPError):
            told = server.get("/v1/models").json()["workers"]
            if len(told) == WORKERS and all(worker["ready"] for worker in told):
                return time.monotonic() - started
        time.sleep(0.05)
    return float("inf")


def judge(
    samples: Sequence[Sample], asked: Sequence[Kind], mischief: Mischief, ready_after: float, waiting: float
) -> list[Bar]:
    """Return what became of the requests."""
    broken = [sample for sample in samples if sample.status == 0]
    unexplained = [sample for sample in broken if not mischief.near(sample)]
    wrong = [sample for sample in samples if sample.status and not asked[sample.kind].is_right(sample)]
    good = [sample for sample in samples if sample.status == httpx.codes.OK]
    should = [sample for sample in samples if httpx.codes.OK in asked[sample.kind].statuses]
    for sample in [*wrong, *unexplained][:5]:
        print(f"{asked[sample.kind].name}: {sample.status} after {sample.seconds:.2f} s: {sample.body[:300]!r}")
    statuses = Counter(sample.status for sample in samples)
    return [
        Bar.figure("requests", f"{len(samples)}"),
        Bar.figure("ends, by status (0: broken)", ", ".join(f"{s}: {n}" for s, n in sorted(statuses.items()))),
        Bar.figure("mischief", ", ".join(f"{n} {what}" for what, n in sorted(mischief.done.items()))),
        Bar.at_least(
            "kinds of mischief that were done", len(mischief.done.keys() & mischief.kinds), len(mischief.kinds)
        ),
        Bar.at_most("hanging engines whose process was not replaced", mischief.done["hang_an_engine: TimeoutError"], 0),
        Bar.at_least("good images answered", 100 * len(good) / len(should), GOOD_PERCENT, " %"),
        Bar.figure("of those, p50 and p99", " and ".join(f"{milliseconds(good, p):.0f} ms" for p in (50, 99))),
        Bar.at_most("wrong answers", len(wrong), 0),
        Bar.figure("connections that broke as a worker ended", str(len(broken) - len(unexplained))),
        Bar.at_most("connections that broke without a reason", len(unexplained), 0),
        Bar.at_most("all workers ready again", ready_after, READY_SECONDS, " s"),
        Bar.at_most("images left in the queue", waiting, 0),
    ]


def milliseconds(samples: Sequence[Sample], percent: float) -> float:
    """Return what that share of the requests took at the most."""
    return percentile([sample.seconds for sample in samples], percent) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="of load, at most 1,800")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seconds = min(arguments.seconds, 1800.0)
    sys.exit(not show(f"{seconds:.0f} s of mischief, seed {arguments.seed}", chaos(seconds, arguments.seed)))


if __name__ == "__main__":
    main()
