"""A real server on real photos while versions come and go: nothing fails, nothing is mixed, nothing leaks."""

import json
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.load import Sample, ask_for
from benchmarks.server import Server, serving
from model.checkpoint import MANIFEST
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from service.bench.latencies import percentile

CLIENTS = 32
SECONDS = 60.0
SWAP_SECONDS = 5.0
CYCLES = 50
KEY = "the key of the tests"
PREDICT = "/v1/models/imagenet/predict?top_k=3"


@pytest.fixture
def registry(default_registry: Path, tmp_path: Path) -> Registry:
    """Two versions of imagenet that answer differently: the second one is twice as unsure."""
    root = tmp_path / "registry"
    shutil.copytree(default_registry, root)
    registry = Registry(root)
    publish_unsure(registry, registry.version(ModelRef("imagenet", version=1)))
    return registry


def publish_unsure(registry: Registry, version: StoredVersion) -> StoredVersion:
    """Publish a version's files with twice the temperature."""
    calibration = version.manifest.calibration
    manifest = version.manifest.model_copy(
        update={"calibration": calibration.model_copy(update={"temperature": 2 * calibration.temperature})}
    )
    with registry.staging(version.name) as folder:
        shutil.copytree(version.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        return registry.publish(folder, manifest)


@pytest.mark.parametrize("workers", [1, 2])
def test_swaps_under_load_fail_no_request_and_hardly_slow_one(
    workers: int, registry: Registry, photo: bytes, tmp_path: Path
) -> None:
    with serving(Path(registry.address), tmp_path / "log", workers=workers) as server:
        wait_for_workers(server, workers)
        own = {
            number: json.loads(server.post(f"/v1/models/imagenet:{number}/predict?top_k=3", photo).content)
            for number in (1, 2)
        }
        assert own[1]["results"] != own[2]["results"]
        url = server.url + PREDICT
        ask_for(url, photo, clients=CLIENTS, seconds=3)
        before = ask_for(url, photo, clients=CLIENTS, seconds=SECONDS / 3)
        done = threading.Event()
        swaps: list[int] = []

        def swap() -> None:
            while not done.wait(SWAP_SECONDS):
                swaps.append(2 - len(swaps) % 2)
                registry.promote(ModelRef("imagenet", version=swaps[-1]))

        swapper = threading.Thread(target=swap)
        swapper.start()
        during = ask_for(url, photo, clients=CLIENTS, seconds=SECONDS)
        done.set()
        swapper.join()
    failed = [sample for sample in during if sample.status != 200]
    bodies = [json.loads(sample.body) for sample in during if sample.status == 200]
    wrong = [body for body in bodies if not same(body, own[body["version"]])]
    p99 = [percentile([sample.seconds for sample in samples], 99) for samples in (before, during)]
    print(
        f"{workers} workers: {len(during)} requests, {len(swaps)} swaps, {len(failed)} failed, {len(wrong)} wrong, "
        f"p99 {p99[0] * 1000:.0f} ms without, {p99[1] * 1000:.0f} ms with"
    )
    assert len(swaps) >= SECONDS / SWAP_SECONDS - 2
    assert not failed
    assert not wrong
    assert {body["version"] for body in bodies} == {1, 2}
    assert p99[1] <= 3 * p99[0]


def wait_for_workers(server: Server, workers: int) -> None:
    """Wait until every worker is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        told = server.get("/v1/models").json()["workers"]
        if len(told) == workers and all(worker["ready"] for worker in told):
            return
        time.sleep(0.05)
    raise AssertionError(f"{workers} workers are not ready: {told}")


def same(body: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers are the same but for rounding in batches of different sizes."""
    pairs = zip(body["results"][0]["predictions"], other["results"][0]["predictions"], strict=True)
    return all(a["label"] == b["label"] and abs(a["probability"] - b["probability"]) < 1e-4 for a, b in pairs)


def test_loading_and_unloading_again_and_again_keeps_no_memory(
    registry: Registry, photo: bytes, tmp_path: Path
) -> None:
    root = Path(registry.address)
    with (
        serving(
            root, tmp_path / "log", HUBEL_DEFAULT_MODEL="digits", HUBEL_PRELOAD="digits", HUBEL_ADMIN_KEY=KEY
        ) as server,
        httpx.Client(base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        loaded, unloaded = [], []
        for _ in range(CYCLES):
            client.post("/v1/models/imagenet:1/load").raise_for_status()
            client.post("/v1/models/imagenet:1/predict", content=photo).raise_for_status()
            loaded.append(settled_bytes(server))
            client.post("/v1/models/imagenet:1/unload").raise_for_status()
            while client.get("/v1/models/imagenet:1").json()["state"] != "stored":
                time.sleep(0.01)
            unloaded.append(settled_bytes(server))
    # The allocator's own share differs by some percent from one load to the next: medians of ten.
    (loaded_before, loaded_after), (unloaded_before, unloaded_after) = (
        (statistics.median(readings[5:15]), statistics.median(readings[-10:])) for readings in (loaded, unloaded)
    )
    print(
        f"after 5 and after {CYCLES} cycles, MB: {loaded_before / 1e6:.0f} and {loaded_after / 1e6:.0f} loaded, "
        f"{unloaded_before / 1e6:.0f} and {unloaded_after / 1e6:.0f} unloaded; "
        f"the most {max(loaded) / 1e6:.0f} and {max(unloaded) / 1e6:.0f}"
    )
    assert loaded_after < 1.25 * loaded_before  # a warm-up ends with larger batches at one time than at another
    assert unloaded_after < 1.05 * unloaded_before
    assert unloaded_after < loaded_after


def settled_bytes(server: Server) -> int:
    """The serving process's memory while nothing is in the making: the least of some readings in a third of a second.

    A version is told to be stored a moment before its memory has gone back, and a look at the registry may be going on.
    """
    least = resident_bytes(server)
    for _ in range(10):
        time.sleep(0.03)
        least = min(least, resident_bytes(server))
    return least


def resident_bytes(server: Server) -> int:
    """The memory of the serving process."""
    return server.status("VmRSS") * 1024


def seconds_of(samples: list[Sample]) -> list[float]:
    """How long the answers took; none of them has failed."""
    assert {sample.status for sample in samples} == {200}
    return [sample.seconds for sample in samples]
