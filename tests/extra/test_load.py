"""Load from wrk: no errors, no unbounded wait, and batches that form."""

import json
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.server import serving
from benchmarks.wrk import load
from model.registry import Registry
from tests.conftest import ROOT, ToolFinder


def test_32_clients_are_all_answered_and_share_batches(
    default_registry: Path, data: Path, tmp_path: Path, tool: ToolFinder
) -> None:
    tool("wrk")
    photo = data / "imagenet-sample" / "n03670208_limousine.JPEG"  # 500 x 375
    assert Registry(default_registry).names() == ["digits", "imagenet"]
    with serving(default_registry, tmp_path / "log") as server:
        alone = load(f"{server.url}/v1/predict", [photo], connections=1, seconds=4)
        loaded = load(f"{server.url}/v1/predict", [photo], connections=32, seconds=8)
        metrics = server.get("/metrics").text
        resident = server.status("VmHWM")
    assert (alone.failed, loaded.failed) == (0, 0)
    assert loaded.requests_per_second > 0.9 * alone.requests_per_second
    images, batches = (
        float(re.search(rf'hubel_{what}_total{{model="imagenet",version="1"}} ([\d.e+]+)', metrics)[1])  # type: ignore[index]
        for what in ("images", "batches")
    )
    assert images / batches > 1.2
    assert resident < 400 * 1024


def test_the_benchmark_measures_a_workload_in_every_way(default_registry: Path, tool: ToolFinder) -> None:
    tool("wrk")
    options = ["--registry", str(default_registry), "--seconds", "1", "--connections", "1", "8"]
    command = [sys.executable, "-m", "benchmarks.serving", *options, "--workload", "photo"]
    subprocess.run(command, cwd=ROOT, check=True)
    found = json.loads((ROOT / "benchmarks" / "results" / "serving.json").read_text())
    assert (set(found["workloads"]), found["skipped"]) == ({"photo"}, {})
    assert found["footprint"]["ready"]["proportional"] <= found["footprint"]["ready"]["resident"]
    for result in found["workloads"].values():
        assert result["own"]["images_per_second"] == max(result["own"]["all_ways"].values()) > 0
        assert result["eager"]["images_per_second"] == max(result["eager"]["by_batch"].values()) > 0
        assert [cost["batch"] for cost in result["costs"]][:7] == [1, 2, 4, 8, 16, 32, 64]
        for measured in result["served"][0]["loads"]:
            assert measured["load"]["failed"] == 0
            assert all(measured["profile"][f"{stage}_ms"] > 0 for stage in ("http", "json", "decode", "forward"))
