"""The metrics and the configuration, judged by Prometheus' own tools, and scraped by a real Prometheus."""

import json
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path

import httpx
import pytest

from benchmarks.server import serving
from tests.conftest import ToolFinder
from tests.fakes import encode, noise

DEADLINE_SECONDS = 60


def test_the_metrics_follow_the_conventions(published_tiny: Path, tmp_path: Path, tool: ToolFinder) -> None:
    promtool = tool("promtool")
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        server.post("/v1/predict", encode(noise()))
        text = server.get("/metrics").text
    result = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_configuration_is_valid(pytestconfig: pytest.Config, tool: ToolFinder) -> None:
    configuration = pytestconfig.rootpath / "deploy" / "prometheus.yml"
    subprocess.run([tool("promtool"), "check", "config", str(configuration)], timeout=60, check=True)


def test_prometheus_scrapes_the_service(
    published_tiny: Path, tmp_path: Path, tool: ToolFinder, pytestconfig: pytest.Config
) -> None:
    prometheus = tool("prometheus")
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        for _ in range(3):
            server.post("/v1/predict", encode(noise()))
        template = (pytestconfig.rootpath / "deploy" / "prometheus.yml").read_text()
        configuration = tmp_path / "prometheus.yml"
        configuration.write_text(template.replace("hubel:8000", server.url.removeprefix("http://")).replace("5s", "1s"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    prometheus, f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
            try:
                assert wait_for_value(address, 'hubel_images_total{model="tiny"}') == 3
            finally:
                process.terminate()
                process.wait(30)


def wait_for_value(address: str, query: str) -> float:
    """Ask Prometheus until it has a value."""
    url = f"http://{address}/api/v1/query?query={urllib.parse.quote(query)}"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            found = json.loads(httpx.get(url, timeout=5).text)["data"]["result"]
            if found:
                return float(found[0]["value"][1])
        except (httpx.TransportError, KeyError, ValueError):
            pass
        time.sleep(0.2)
    raise AssertionError(f"Prometheus at {address} knows no {query}")
