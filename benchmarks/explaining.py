"""Predictions beside a client that explains without a pause: what they take with it and without, and what it gets.

`python -m benchmarks.explaining`, two and a half minutes on an otherwise idle machine. Turns with and without
the client follow each other, so that what else the machine does falls on both. Ends with 1 where a bar is missed.
"""

import argparse
import http.client
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.arrivals import Plan, Sender
from benchmarks.bars import Bar, show
from benchmarks.server import Server, serving
from model.registry import DEFAULT_ROOT
from service.bench.exchange import head_of
from service.bench.latencies import percentile

OK = 200
TURNS = 4  # of each kind
LAYER = "stem.0"
# What somebody at the page asks for, one after the other: a layer, where the pointer is, why.
QUESTIONS = (
    ("one layer, p50", f"activations?layers={LAYER}", 300.0),
    ("one neuron, p50", f"neuron?layer={LAYER}&channel=3&y=40&x=50", 1000.0),
    ("cam, p50", "explain?method=cam", 1000.0),
    ("input and logits, p50", "activations?layers=input,classifier", 1000.0),
    ("occlusion, p50", "explain?method=occlusion", 1000.0),
)
Found = dict[str, list[float]]


def explain_on(url: str, image: bytes, seconds: float) -> Found:
    """Ask one question after the other; return the seconds of each that was answered, by question."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    found: Found = defaultdict(list)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _, question, _ in QUESTIONS:
            began = time.monotonic()
            connection.request("POST", f"/v1/models/imagenet/{question}", image)
            answer = connection.getresponse()
            answer.read()
            if answer.status == OK:
                found[question].append(time.monotonic() - began)
            if time.monotonic() > until:
                break
    return dict(found)


def beside(server: Server, image: bytes, per_second: float, seconds: float) -> tuple[list[Bar], Found]:
    """Measure predictions that arrive by chance, and a lone client's, without and with the one that explains."""
    url = server.url + "/v1/predict"
    taken: dict[tuple[str, bool], list[float]] = defaultdict(list)
    explained: Found = defaultdict(list)
    with Sender() as sender, Sender() as explaining:
        for turn in range(2 * TURNS):
            busy = turn % 2 == 1
            for load in ("arriving", "alone"):
                asked: Future[Found] | None = None
                if busy:
                    asked = explaining.run(explain_on, server.url, image, seconds + 1)
                    time.sleep(0.5)
                if load == "arriving":
                    port = urlsplit(url).port or 0
                    requests = [head_of(url, image) + image]
                    course = sender.send(Plan(port, requests, per_second, seconds, seed=turn // 2)).result()
                    samples = course.samples
                else:
                    samples = sender.ask(url, image, clients=1, seconds=seconds)
                taken[load, busy] += [sample.seconds for sample in samples if sample.status == OK]
                for question, times in (asked.result() if asked else {}).items():
                    explained[question] += times
    bars = []
    for load in ("arriving", "alone"):
        p50s, p99s = ([percentile(taken[load, busy], at) * 1000 for busy in (False, True)] for at in (50, 99))
        bars.append(Bar.figure(f"{load}, p50 without and with", f"{p50s[0]:.1f} ms, {p50s[1]:.1f} ms"))
        bars.append(Bar.figure(f"{load}, p99 without", f"{p99s[0]:.1f} ms, of {len(taken[load, False])}"))
        bars.append(Bar.at_most(f"{load}, p99 with", p99s[1], 1.5 * p99s[0], " ms"))
    return bars, dict(explained)


def undisturbed(server: Server, image: bytes) -> list[Bar]:
    """Measure the explanations where nobody else asks."""
    began = time.monotonic()
    server.post(f"/v1/models/imagenet/{QUESTIONS[0][1]}", image)
    first = time.monotonic() - began
    found = explain_on(server.url, image, 8.0)
    return [
        *(
            Bar.at_most(name, statistics.median(found[question]) * 1000, most, " ms")
            for name, question, most in QUESTIONS
        ),
        Bar.figure("the first, which begins the process", f"{first * 1000:.0f} ms"),
    ]


def measure(registry: Path, image: bytes, per_second: float, seconds: float) -> list[Bar]:
    """Measure all of it on one service."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with serving(registry, log, HUBEL_DEFAULT_MODEL="imagenet", HUBEL_LOG_LEVEL="warning") as server:
            before = server.status("VmRSS")
            alone = undisturbed(server, image)
            bars, explained = beside(server, image, per_second, seconds)
            growth = server.status("VmRSS") - before
    answered: Sequence[float] = [each for times in explained.values() for each in times]
    return [
        *alone,
        *bars,
        Bar.figure("explained beside predictions", f"{len(answered)}, p50 {statistics.median(answered) * 1000:.0f} ms"),
        Bar.figure("the serving process's memory, growth", f"{growth / 1000:.0f} MB"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(os.environ.get("HUBEL_REGISTRY", DEFAULT_ROOT)))
    parser.add_argument("--image", type=Path, default=Path(__file__).parent.parent / "docs" / "cat.jpg")
    parser.add_argument("--per-second", type=float, default=30.0, help="predictions that arrive, at most 1,000")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn, at most 120")
    arguments = parser.parse_args()
    per_second, seconds = min(arguments.per_second, 1000.0), min(arguments.seconds, 120.0)
    image = arguments.image.read_bytes()
    title = f"predictions, {per_second:g} a second or one by one, beside a client that explains"
    sys.exit(not show(title, measure(arguments.registry, image, per_second, seconds)))


if __name__ == "__main__":
    main()
