"""Load from wrk: no errors, no unbounded wait, and batches that form."""

import re
from pathlib import Path

from benchmarks.server import serving
from benchmarks.serving import load
from model.registry import Registry
from tests.conftest import ToolFinder


def test_32_clients_are_all_answered_and_share_batches(
    default_registry: Path, data: Path, tmp_path: Path, tool: ToolFinder
) -> None:
    tool("wrk")
    photo = data / "imagenet-sample" / "n03670208_limousine.JPEG"  # 500 x 375
    assert Registry(default_registry).names() == ["digits", "imagenet"]
    with serving(default_registry, tmp_path / "log") as server:
        alone = load(f"{server.url}/v1/predict", photo, connections=1, seconds=4)
        loaded = load(f"{server.url}/v1/predict", photo, connections=32, seconds=8)
        metrics = server.get("/metrics").text
        resident = server.status("VmHWM")
    assert (alone.failed, loaded.failed) == (0, 0)
    assert loaded.requests_per_second > 0.9 * alone.requests_per_second
    images, batches = (
        float(re.search(rf'hubel_{what}_total{{model="imagenet",version="1"}} ([\d.e+]+)', metrics)[1])  # type: ignore[index]
        for what in ("images", "batches")
    )
    assert images / batches > 1.5
    assert resident < 400 * 1024
