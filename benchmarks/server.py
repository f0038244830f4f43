"""A real `hubel serve` on a free loopback port, as a user would start it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_LIMIT_SECONDS = 60.0


@dataclass
class Server:
    """A running service: its address, its supervising process, its log, and how long it took to be ready."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    seconds_to_ready: float

    @property
    def workers(self) -> list[int]:
        """The numbers of the processes that serve."""
        parent = self.process.pid
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    @property
    def processes(self) -> list[int]:
        """The numbers of all its processes."""
        return [self.process.pid, *self.workers]

    def status(self, field: str) -> int:
        """A line of the first serving process's status, as VmRSS or VmHWM, in kB."""
        found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{self.workers[0]}/status").read_text())
        if found is None:
            raise ValueError(f"the system does not tell {field}")
        return int(found[1])

    def get(self, path: str) -> httpx.Response:
        """Ask with GET."""
        return httpx.get(self.url + path, timeout=30)

    def post(self, path: str, content: bytes) -> httpx.Response:
        """Send a body with POST."""
        return httpx.post(self.url + path, content=content, timeout=60)


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of hubel, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HUBEL_")}
    return {**kept, **variables}


@contextmanager
def serving(
    registry: Path | str,
    log: Path,
    *,
    wait: str = "/readyz",
    workers: int = 1,
    module: str = "hubel",
    **variables: str,
) -> Iterator[Server]:
    """Start a service and stop it afterwards; `wait` is the path that must answer 200 first."""
    port = variables.get("HUBEL_PORT") or _free_port()
    command = [sys.executable, "-m", module, "serve", "--port", str(port), "--registry", str(registry)]
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, "--workers", str(workers)], env=environment(**variables), stdout=output, stderr=output
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url + wait, process, log, started + START_LIMIT_SECONDS)
            yield Server(url, process, log, time.monotonic() - started)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=45)


@contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Let what is started meanwhile use these cores only, as taskset does."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
    with httpx.Client(timeout=5) as client:
        while time.monotonic() < deadline:
            try:
                if client.get(url).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            if process.poll() is not None:
                break
            time.sleep(0.02)
    raise AssertionError(f"{url} did not become ready:\n{log.read_text()}")
