"""Canary and shadow on a real server: shares that are what they say, and callers that notice nothing."""

import dataclasses
import json
import re
import statistics
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from benchmarks.load import ask_at, ask_for
from benchmarks.server import Server, serving
from model.architectures.catalog import build_network
from model.manifest import Architecture
from model.registry import Registry
from model.state import Canary, Shadow, Traffic
from service.bench.latencies import percentile
from tests.extra.test_swaps import registry, seconds_of
from tests.fakes import TINY_PREPROCESSING, encode, noise, tiny_release
from training.publish import Release, publish

__all__ = ["registry"]

REQUESTS = 10_000
PHASE_SECONDS = 8.0
PHASES = 3


def test_a_tenth_of_the_requests_goes_to_the_canary_and_a_client_stays_on_its_side(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    tiny = Registry(root)
    for seed in (0, 1):
        publish(tiny, tiny_release(seed))
    tiny.change("tiny", lambda state: state.with_traffic(Traffic(canary=Canary(version=2, percent=10))))
    image = encode(noise())
    with (
        serving(root, tmp_path / "log", workers=2, HUBEL_DEFAULT_MODEL="tiny", HUBEL_LOG_LEVEL="warning") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        wait_for_canary(client)
        answered: Counter[int] = Counter()
        for number in range(REQUESTS):
            answer = client.post("/v1/predict", content=image, headers={"X-Request-ID": f"request-{number}"})
            answered[answer.json()["version"]] += 1
        sides = {
            who: {
                client.post("/v1/predict", content=image, headers={"X-Client-ID": who}).json()["version"]
                for _ in range(20)
            }
            for who in (f"client-{number}" for number in range(40))
        }
    share = answered[2] / REQUESTS
    print(f"{share:.2%} of {REQUESTS} requests went to a canary of 10 %")
    assert answered.total() == REQUESTS
    assert 0.09 <= share <= 0.11
    assert all(len(versions) == 1 for versions in sides.values())
    assert {version for versions in sides.values() for version in versions} == {1, 2}


def wait_for_canary(client: httpx.Client) -> None:
    """Wait until the canary is loaded in every worker."""
    while True:
        workers = client.get("/v1/models").json()["workers"]
        models = [model for worker in workers for model in worker["models"]]
        if models and all(version["state"] == "ready" for model in models for version in model["versions"]):
            return


def test_a_shadow_costs_callers_no_more_than_a_batch(registry: Registry, photo: bytes, tmp_path: Path) -> None:
    with serving(Path(registry.address), tmp_path / "log", HUBEL_LOG_LEVEL="warning") as server:
        server.post("/v1/models/imagenet:2/predict", photo)
        url = server.url + "/v1/predict"
        batch = seconds_of_largest_batch(server, photo)
        capacity = len(ask_for(url, photo, clients=8, seconds=4)) / 4
        p99s: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(PHASES):
            for shadowed in (False, True):
                shadow = Shadow(version=2, percent=10) if shadowed else None
                registry.change("imagenet", lambda state, to=shadow: state.with_traffic(Traffic(shadow=to)))  # type: ignore[misc]
                ask_at(url, photo, clients=32, per_second=capacity / 2, seconds=2.5)  # it is followed by now
                asked = ask_at(url, photo, clients=32, per_second=capacity / 2, seconds=PHASE_SECONDS)
                p99s[shadowed].append(percentile(seconds_of(asked), 99))
        metrics = server.get("/metrics").text
    without, with_shadow = (statistics.median(p99s[shadowed]) for shadowed in (False, True))
    images = value(metrics, 'hubel_shadow_images_total{model="imagenet",version="2"}')
    agreed = value(metrics, 'hubel_shadow_agreements_total{model="imagenet",version="2"}')
    dropped = value(metrics, 'hubel_shadow_dropped_requests_total{model="imagenet",reason="busy",version="2"}')
    print(
        f"half of {capacity:.0f} requests/s: p99 {without * 1000:.0f} ms, with a shadow of 10 % "
        f"{with_shadow * 1000:.0f} ms; a batch takes {batch * 1000:.0f} ms; {images:.0f} asked, {dropped:.0f} dropped"
    )
    assert images > 0
    assert agreed == images  # the temperature changes no order
    assert with_shadow - without <= batch


def test_a_slow_canary_is_taken_out_once_by_what_all_workers_have_seen(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    tiny = Registry(root)
    publish(tiny, tiny_release())
    publish(tiny, slow_release())
    canary = Canary(version=2, percent=30, max_latency_ratio=2, min_requests=200)
    tiny.change("tiny", lambda state: state.with_traffic(Traffic(canary=canary)))
    with (
        serving(root, tmp_path / "log", workers=2, HUBEL_DEFAULT_MODEL="tiny", HUBEL_LOG_LEVEL="warning") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        wait_for_canary(client)
        url, image = server.url + "/v1/predict", encode(noise())
        for _ in range(30):
            seconds_of(ask_for(url, image, clients=4, seconds=2))
            if tiny.state("tiny").rolled_back is not None:
                break
        state = tiny.state("tiny")
        assert state.rolled_back is not None
        print(f"taken out: {state.rolled_back.reason}")
        assert state.traffic.canary is None
        assert "max_latency_ratio is 2" in state.rolled_back.reason
        ask_for(url, image, clients=4, seconds=3)  # every worker has looked by now
        asked = ask_for(url, image, clients=8, seconds=1)
        metrics = client.get("/metrics").text
    assert {json.loads(sample.body)["version"] for sample in asked} == {1}
    assert value(metrics, 'hubel_canary_rollbacks_total{model="tiny",version="2"}') == 1


def slow_release() -> Release:
    """The tiny model's labels behind a network that takes many times as long."""
    return dataclasses.replace(
        tiny_release(),
        network=build_network("resnet18", 3, {}),
        architecture=Architecture(name="resnet18"),
        preprocessing=TINY_PREPROCESSING.model_copy(update={"height": 160, "width": 160}),
        golden=np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8),
    )


def seconds_of_largest_batch(server: Server, photo: bytes) -> float:
    """What the engine takes for as many images as a batch holds."""
    form = [("images", (str(number), photo)) for number in range(8)]
    taken = []
    for _ in range(5):
        timing = httpx.post(server.url + "/v1/predict", files=form, timeout=60).headers["Server-Timing"]
        found = re.search(r"inference;dur=([\d.]+)", timing)
        assert found
        taken.append(float(found[1]) / 1000)
    return statistics.median(taken)


def value(metrics: str, name: str) -> float:
    """One sample of the metrics; 0 where there is none."""
    return next((float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith(name)), 0.0)
