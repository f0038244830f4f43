"""Processes that die, hang or are told to stop: a supervisor and its workers for real, on a tiny service."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.load import Sample, ask_for
from benchmarks.server import environment
from service.server import EXIT_FAULT
from tests.command import hubel
from tests.conftest import ToolFinder
from tests.tiny_service import APP, BROKEN_APP
from tests.unit.service.test_supervisor import certificate

LAUNCH = """
import os, sys
from dataclasses import replace
from service import launch, supervisor
from service.settings import load_settings
become, stuck_seconds = supervisor.become, float(sys.argv[2])
supervisor.become = lambda plan, environment: become(replace(plan, stuck_seconds=stuck_seconds), environment)
launch.serve(load_settings(os.environ), sys.argv[1])
"""


class Service:
    """A supervisor and its workers."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def events(self) -> list[str]:
        """What was logged."""
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines(keepends=True) if "\n" in line]

    @property
    def url(self) -> str:
        """Where it is served."""
        (listening,) = [event for event in self.events if "listening on" in event]
        return listening.split()[2]

    @property
    def workers(self) -> list[int]:
        """The processes that serve."""
        return children(self.process.pid)

    def wait_for_starts(self, count: int) -> list[int]:
        """Wait until so many workers have begun to serve."""
        wait_until(lambda: sum("serves after" in event for event in self.events) >= count)
        return self.workers

    def get(self, path: str) -> str:
        """Ask on a connection of its own."""
        return httpx.get(self.url + path, timeout=20).raise_for_status().text

    def ask_meanwhile(self, path: str) -> tuple[threading.Thread, list[str]]:
        """Ask in another thread; return it and the list that the answer comes to."""
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(self.get(path)), daemon=True)
        thread.start()
        time.sleep(0.2)
        return thread, answers


def children(pid: int) -> list[int]:
    """The children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return re.search(r"State:\s+Z", Path(f"/proc/{pid}/status").read_text()) is None
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def service(
    folder: Path, app: str = APP, *, workers: int = 1, stuck_seconds: float = 30.0, **settings: str
) -> Iterator[Service]:
    """Run the tiny service in a process group of its own; whatever is left of it at the end is killed."""
    variables = environment(HUBEL_PORT="0", HUBEL_WORKERS=str(workers), **settings)
    log = folder / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-c", LAUNCH, app, str(stuck_seconds)]
        process = subprocess.Popen(command, env=variables, stderr=output, stdout=output, start_new_session=True)
    try:
        running = Service(process, log)
        if app == APP:
            running.wait_for_starts(workers)
        yield running
    finally:
        left = [process.pid, *(children(process.pid) if process.poll() is None else [])]
        for pid in left:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait(20)


def test_a_killed_worker_is_replaced_while_the_other_one_serves(tmp_path: Path) -> None:
    with service(tmp_path, workers=2) as running:
        first = running.workers
        killed = time.time()
        assert float(running.get("/youngest")) < killed
        os.kill(first[0], signal.SIGKILL)
        deadline = time.monotonic() + 5
        while sum("serves after" in event for event in running.events) < 3:
            assert int(running.get("/")) != first[0]
            assert time.monotonic() < deadline
        assert len(running.workers) == 2
        assert first[1] in running.workers
        assert float(running.get("/youngest")) > killed
        assert f"worker {first[0]} ended with -9; another one is started in 0.0 s" in running.events
        running.process.terminate()
        assert running.process.wait(10) == 0
        assert not any(lives(pid) for pid in first)


def test_a_worker_that_cannot_go_on_is_replaced_after_what_it_has_in_hand(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        (first,) = running.workers
        thread, answers = running.ask_meanwhile("/sleep?seconds=0.5")
        assert running.get("/fail") == "failing"
        thread.join(10)
        assert answers == ["awake"]
        (second,) = running.wait_for_starts(2)
        assert f"worker {first} ended with {EXIT_FAULT}; another one is started in 0.0 s" in running.events
        assert "this process ends, for another to take its place: it was told to" in running.events
        assert running.get("/") == str(second)


@pytest.mark.extra
def test_a_worker_that_hangs_is_replaced_and_one_that_is_told_to_stop_as_well(tmp_path: Path) -> None:
    with service(tmp_path, stuck_seconds=4.0) as running:
        (first,) = running.workers
        with pytest.raises(httpx.TransportError):
            running.get("/hang")
        (second,) = running.wait_for_starts(2)
        assert any(f"worker {first} is killed: no sign of it" in event for event in running.events)
        assert running.get("/") == str(second)
        os.kill(second, signal.SIGTERM)
        running.wait_for_starts(3)
        assert any(event.startswith(f"worker {second} ended with 0; another one") for event in running.events)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.extra)])
def test_a_stop_under_load_fails_no_request(workers: int, tmp_path: Path) -> None:
    with service(tmp_path, workers=workers) as running:
        samples: list[Sample] = []
        url = running.url + "/echo"
        load = threading.Thread(target=lambda: samples.extend(ask_for(url, b"x" * 1000, clients=32, seconds=10)))
        load.start()
        time.sleep(1)
        told = time.monotonic()
        running.process.terminate()
        assert running.process.wait(10) == 0
        load.join(10)
    assert len(samples) > 100
    failed = [(sample.status, sample.asked - told, sample.seconds) for sample in samples if sample.status != 200]
    assert not failed
    assert running.events[-1] == "all workers have ended"
    assert "Traceback" not in running.log.read_text()


def test_who_is_in_a_tls_handshake_at_a_stop_is_answered(tmp_path: Path, tool: ToolFinder) -> None:
    cert, key = certificate(tool("openssl"), tmp_path / "own")
    with service(tmp_path, HUBEL_TLS_CERT=str(cert), HUBEL_TLS_KEY=str(key)) as running:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), 10) as plain:
            time.sleep(0.1)
            running.process.terminate()
            time.sleep(0.3)
            with ssl.create_default_context(cafile=str(cert)).wrap_socket(plain, server_hostname="127.0.0.1") as caller:
                caller.sendall(b"GET / HTTP/1.1\r\nHost: hubel\r\n\r\n")
                assert b" 200 OK" in caller.recv(4096)
        assert running.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extra)])
def test_a_signal_to_the_whole_group_is_one_order(number: signal.Signals, tmp_path: Path) -> None:
    with service(tmp_path, workers=2) as running:
        thread, answers = running.ask_meanwhile("/sleep?seconds=1")
        os.killpg(running.process.pid, number)
        assert running.process.wait(10) == 0
        thread.join(10)
        assert answers == ["awake"]
        assert "Traceback" not in running.log.read_text()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        (worker,) = running.workers
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as caller:
            caller.sendall(b"GET /stubborn HTTP/1.1\r\n\r\n")
            time.sleep(0.3)
            running.process.terminate()
            time.sleep(0.3)
            assert running.process.poll() is None
            running.process.terminate()
            assert running.process.wait(5) == 128 + signal.SIGTERM
        assert not lives(worker)


def test_workers_whose_supervisor_is_gone_finish_and_end(tmp_path: Path) -> None:
    with service(tmp_path, workers=2) as running:
        workers = running.workers
        thread, answers = running.ask_meanwhile("/sleep?seconds=0.5")
        running.process.kill()
        thread.join(10)
        assert answers == ["awake"]
        wait_until(lambda: not any(map(lives, workers)), seconds=5)


def test_what_cannot_start_at_all_is_not_tried_again(tmp_path: Path) -> None:
    with service(tmp_path, BROKEN_APP) as running:
        assert running.process.wait(20) == 3
        assert sum("ended with 3 before it served" in event for event in running.events) == 1
        assert "ImportError: a library is missing" in running.log.read_text()


def test_a_port_in_use_and_a_bad_certificate_are_told_before_anything_is_loaded(published_tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = hubel("serve", "--port", port, "--registry", published_tiny)
    assert result.returncode == 2
    assert result.stderr.startswith(f"hubel: 127.0.0.1:{port} (HUBEL_HOST, HUBEL_PORT) cannot be listened on")
    assert result.stderr.count("\n") == 1
    result = hubel("serve", "--registry", published_tiny, "--tls-cert", "nowhere.pem", "--tls-key", "nowhere.key")
    assert (result.returncode, "HUBEL_TLS_CERT is nowhere.pem" in result.stderr) == (2, True)


def test_https_is_served_and_what_is_not_is_refused_in_silence(tmp_path: Path, tool: ToolFinder) -> None:
    cert, key = certificate(tool("openssl"), tmp_path / "own")
    with service(tmp_path, HUBEL_TLS_CERT=str(cert), HUBEL_TLS_KEY=str(key), HUBEL_HEADER_TIMEOUT_MS="500") as running:
        port = int(running.url.rpartition(":")[2])
        assert running.url == f"https://127.0.0.1:{port}"
        with httpx.Client(verify=ssl.create_default_context(cafile=str(cert)), timeout=10) as client:
            assert client.get(running.url).text == str(running.workers[0])
            assert client.get(f"{running.url}/big").text == "x" * 30_000_000
            assert client.post(f"{running.url}/echo", content=b"x" * 3_000_000).text == "3000000"
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01", b""):
            with socket.create_connection(("127.0.0.1", port), 10) as caller:
                caller.sendall(sent)
                assert b"HTTP" not in caller.recv(4096)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection(("127.0.0.1", port), 10) as plain:
            old.wrap_socket(plain)
        running.process.terminate()
        assert running.process.wait(10) == 0
    levels = {json.loads(line)["level"] for line in running.log.read_text().splitlines()}
    assert levels == {"info"}
