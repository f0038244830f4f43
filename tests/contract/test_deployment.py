"""The files that a deployment is made of, held to the code: what the container may do, what the alerts name."""

import json
import re
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from benchmarks.server import environment
from service.launch import listen, plan_of
from service.metrics import Metrics
from service.settings import Settings
from tests.conftest import ToolFinder
from tests.unit.service.test_supervisor import certificate

# What Prometheus and prometheus_client add by themselves.
_LABELS_OF_ALL = {"job", "instance", "le"}
_METRICS_OF_ALL = {"up"}
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


@pytest.fixture
def deploy(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath / "deploy"


@pytest.fixture
def services(deploy: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]
    return found


@pytest.fixture
def dockerfile(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "Dockerfile").read_text()


@pytest.fixture
def rules(deploy: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((deploy / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return what is mounted, by where it is in the container."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}


# ---- the container


def test_no_service_may_do_more_than_it_needs(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert "privileged" not in service, name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_all_that_the_service_writes_is_on_a_volume_or_in_bounded_memory(
    services: dict[str, dict[str, Any]], dockerfile: str
) -> None:
    hubel = services["hubel"]
    for variable in ("HUBEL_REGISTRY", "HUBEL_CACHE"):
        (folder,) = re.findall(rf"{variable}=(\S+)", dockerfile)
        assert not mounts(hubel)[folder].startswith((".", "/")), folder
    ((path, options),) = [entry.split(":") for entry in hubel["tmpfs"]]
    (mebibytes,) = re.findall(r"size=([0-9]+)m\b", options)
    assert path == "/tmp"
    assert int(mebibytes) >= 512  # archives that administrators send pass through it


def test_the_image_serves_as_a_user_without_rights_and_is_looked_after(dockerfile: str) -> None:
    stages = re.split(r"^FROM ", dockerfile, flags=re.M)[1:]
    runtime = next(stage for stage in stages if " AS runtime\n" in stage)
    (number,) = re.findall(r"useradd --uid ([0-9]+) ", runtime)
    assert int(number) > 0
    assert re.findall(r"^USER (.+)$", runtime, re.M) == ["hubel"]
    assert re.search(r"^HEALTHCHECK .*\n.*/health", runtime, re.M)
    for stage in stages[stages.index(runtime) + 1 :]:  # what is made of it keeps all this
        assert stage.startswith("runtime AS ")
        assert set(re.findall(r"^([A-Z]+) ", stage.partition("\n")[2], re.M)) == {"COPY"}


class _Health(BaseHTTPRequestHandler):
    """Answers /health with the status that its server was given, and everything else with 404."""

    def do_GET(self) -> None:
        self.send_response(getattr(self.server, "status", 0) if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_the_health_check_asks_as_the_service_answers(
    *, status: int, well: bool, tls: bool, dockerfile: str, tmp_path: Path, tool: ToolFinder
) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*\n  CMD (\[.*\])$", dockerfile, re.M)
    variables = {}
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        server.status = status  # type: ignore[attr-defined]
        if tls:
            cert, key = certificate(tool("openssl"), tmp_path / "own")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            variables = {"HUBEL_TLS_CERT": str(cert)}
        threading.Thread(target=server.handle_request, daemon=True).start()
        python, *arguments = json.loads(command)
        assert python == "python"
        asked = subprocess.run(
            [sys.executable, *arguments],
            env=environment(HUBEL_PORT=str(server.server_port), **variables),
            capture_output=True,
            timeout=30,
            check=False,
        )
    assert (asked.returncode == 0) == well, asked.stderr


def test_a_stop_is_waited_for_as_long_as_the_service_may_take(services: dict[str, dict[str, Any]]) -> None:
    listeners = listen("127.0.0.1", 0)
    plan = plan_of(Settings(), "app", listeners)
    for listener in listeners:
        listener.close()
    assert float(services["hubel"]["stop_grace_period"].removesuffix("s")) > plan.stop_seconds


def test_every_file_that_is_mounted_is_there_and_cannot_be_written(
    services: dict[str, dict[str, Any]], deploy: Path
) -> None:
    files = [volume.split(":") for service in services.values() for volume in service["volumes"] if volume[0] == "."]
    assert files
    for source, _, mode in files:
        assert (deploy / source).is_file()
        assert mode == "ro"


# ---- Prometheus


def test_prometheus_reads_the_alerts_that_are_mounted(deploy: Path, services: dict[str, dict[str, Any]]) -> None:
    configuration = yaml.safe_load((deploy / "prometheus.yml").read_text())
    for name in configuration["rule_files"]:
        assert mounts(services["prometheus"])[f"/etc/prometheus/{name}"] == f"./{name}"


def known_series() -> dict[str, set[str]]:
    """Return the labels of every series that the service can have, by its name."""
    series = {name: set(_LABELS_OF_ALL) for name in _METRICS_OF_ALL}
    for collector in vars(Metrics()).values():
        if isinstance(collector, MetricWrapperBase):
            for suffix in _SUFFIXES[str(collector._type)]:
                series[f"{collector._name}{suffix}"] = _LABELS_OF_ALL | set(collector._labelnames)
    return series


def test_alerts_name_only_metrics_and_labels_that_exist(rules: list[dict[str, Any]]) -> None:
    series = known_series()
    assert "hubel_overload_refusals_total" in series
    for rule in rules:
        expression = rule["expr"]
        without_texts = re.sub(r'"[^"]*"', "", expression)
        named = re.findall(r"\b(?:(?:hubel|process)_\w+|up)\b", without_texts)
        assert named, rule["alert"]
        assert set(named) <= series.keys(), rule["alert"]
        for name, selector in re.findall(r"\b(\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*[=!]~?", selector)) <= series[name], rule["alert"]
        grouped = [label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(", ")]
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        for name in named:
            assert set(grouped) | told <= series[name], rule["alert"]
        if grouped:
            assert told <= set(grouped), rule["alert"]


def test_slow_means_half_of_the_time_that_a_prediction_has(rules: list[dict[str, Any]]) -> None:
    (rule,) = [rule for rule in rules if rule["alert"] == "HubelSlow"]
    assert float(rule["expr"].rpartition(">")[2]) == Settings().request_timeout_ms / 1000 / 2
