"""The metrics and the configuration, judged by Prometheus' own tools, and scraped by a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

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
    deploy = pytestconfig.rootpath / "deploy"
    subprocess.run([tool("promtool"), "check", "config", str(deploy / "prometheus.yml")], timeout=60, check=True)
    subprocess.run([tool("promtool"), "check", "rules", str(deploy / "alerts.yml")], timeout=60, check=True)


# What Prometheus has seen every minute, and how many minutes later which alert is there. `a+bxn` is a, a+b, ... n times
# on; `_` is nothing.
OF_TINY = 'job="hubel", instance="one", model="tiny", version="2"'
PREDICTED = 'hubel_requests_total{job="hubel", instance="one", route="/v1/predict", status="200"}'
SECONDS = 'hubel_request_seconds_bucket{job="hubel", instance="one", route="/v1/predict", le='
CASES = [
    ("HubelDown", 2, {'up{job="hubel", instance="one"}': "0x5"}),
    (
        "HubelNotReady",
        4,
        {'hubel_requests_total{job="hubel", instance="one", route="/health", status="503"}': "0+6x10"},
    ),
    ("HubelRestarts", 4, {'hubel_worker_start_time_seconds{job="hubel", instance="one"}': "1 60 120 120x5"}),
    ("HubelModelFailed", 6, {f"hubel_model_failed{{{OF_TINY}}}": "1x10"}),
    ("HubelOverloaded", 20, {f"hubel_overload_refusals_total{{{OF_TINY}}}": "0+2x30", PREDICTED: "0+100x30"}),
    ("HubelEngineFailures", 6, {f'hubel_engine_failures_total{{{OF_TINY}, error="RuntimeError"}}': "_ _ _ _ _ 1x10"}),
    ("HubelCanaryRolledBack", 6, {f"hubel_canary_rollbacks_total{{{OF_TINY}}}": "_ _ _ _ _ 1x10"}),
    ("HubelRegistryAway", 3, {'hubel_registry_available{job="hubel", instance="one"}': "0x5"}),
    ("HubelKeysUnreadable", 3, {'hubel_keys_readable{job="hubel", instance="one"}': "0x5"}),
    (
        "HubelSlow",
        20,
        {f'{SECONDS}"10"}}': "0+90x30", f'{SECONDS}"30"}}': "0+100x30", f'{SECONDS}"+Inf"}}': "0+100x30"},
    ),
]


Alerts = Callable[[int, dict[str, str]], set[str]]
TARGET = {"job": "hubel", "instance": "one"}


@pytest.fixture
def alerts_after(tmp_path: Path, pytestconfig: pytest.Config, tool: ToolFinder) -> Alerts:
    """Tells which alerts Prometheus would give after so many minutes of series."""
    promtool, rules = tool("promtool"), pytestconfig.rootpath / "deploy" / "alerts.yml"
    names = re.findall(r"- alert: (\w+)", rules.read_text())

    def alerts(minutes: int, series: dict[str, str]) -> set[str]:
        expected = [{"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": []} for name in names]
        seen = [{"series": key, "values": values} for key, values in series.items()]
        test = {"interval": "1m", "input_series": seen, "alert_rule_test": expected}
        file = tmp_path / "test.json"  # JSON is YAML
        file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
        command = [promtool, "test", "rules", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        given = set(re.findall(r"alertname: (\w+), time", result.stdout + result.stderr))
        assert bool(given) == bool(result.returncode), result.stderr
        return given

    return alerts


@pytest.mark.parametrize(("alert", "minutes", "series"), CASES, ids=[case[0] for case in CASES])
def test_each_alert_is_given_when_it_should_be(
    alert: str, minutes: int, series: dict[str, str], alerts_after: Alerts
) -> None:
    assert alerts_after(minutes, series) == {alert}


def test_there_is_a_case_for_every_alert(pytestconfig: pytest.Config) -> None:
    names = re.findall(r"- alert: (\w+)", (pytestconfig.rootpath / "deploy" / "alerts.yml").read_text())
    assert names == [alert for alert, _, _ in CASES]


@pytest.mark.parametrize(
    "series",
    [
        {f"hubel_canary_rollbacks_total{{{OF_TINY}}}": "1x90"},
        {f'hubel_engine_failures_total{{{OF_TINY}, error="RuntimeError"}}': "3x60 0x30"},
        {f"hubel_overload_refusals_total{{{OF_TINY}}}": "0+1x90", PREDICTED: "0+200x90"},
        {f"hubel_overload_refusals_total{{{OF_TINY}}}": "0x70 0+50x4 200x60", PREDICTED: "0+100x90"},
        {'hubel_worker_start_time_seconds{job="hubel", instance="one"}': "1x80 60x20"},
    ],
    ids=["an old rollback", "counters that begin anew", "few refusals", "refusals for a moment", "one restart"],
)
def test_what_is_no_reason_to_wake_anybody_does_not(series: dict[str, str], alerts_after: Alerts) -> None:
    for minute in range(60, 90, 2):
        assert alerts_after(minute, series) == set()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_does_well_gives_no_alert(
    workers: int, published_tiny: Path, tmp_path: Path, alerts_after: Alerts
) -> None:
    with serving(published_tiny, tmp_path / "log", workers=workers, HUBEL_DEFAULT_MODEL="tiny") as server:
        while not all(server.get("/readyz").is_success for _ in range(20)):  # every worker, by turns of chance
            pass
        server.post("/v1/predict", encode(noise()))
        text = server.get("/metrics").text
    series = {}
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        labels = ", ".join(f"{name}={json.dumps(value)}" for name, value in {**sample.labels, **TARGET}.items())
        if sample.name.startswith(("hubel_", "process_")):
            series[f"{sample.name}{{{labels}}}"] = f"{sample.value:f}x40"
    assert len(series) > 50
    assert alerts_after(30, series) == set()


def test_prometheus_scrapes_the_service(
    published_tiny: Path, tmp_path: Path, tool: ToolFinder, pytestconfig: pytest.Config
) -> None:
    prometheus = tool("prometheus")
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        for _ in range(3):
            server.post("/v1/predict", encode(noise()))
        deploy = pytestconfig.rootpath / "deploy"
        template = (deploy / "prometheus.yml").read_text()
        shutil.copy(deploy / "alerts.yml", tmp_path)
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
                (group,) = httpx.get(f"http://{address}/api/v1/rules", timeout=5).json()["data"]["groups"]
                assert {rule["name"] for rule in group["rules"]} == {alert for alert, _, _ in CASES}
                assert {rule["state"] for rule in group["rules"]} <= {"inactive", "unknown"}
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
