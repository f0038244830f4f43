"""The process that explains, under a real service: it goes when its worker does, however that ends."""

import os
import signal
import time
from pathlib import Path

from benchmarks.server import Server, serving
from service.lifecycle import lives
from tests.fakes import encode, noise

LIMIT_SECONDS = 60.0


def explaining(server: Server) -> int:
    """Ask for an explanation; return the process that has computed it."""
    answer = server.post("/v1/models/tiny/explain", encode(noise()))
    assert answer.status_code == 200, answer.text
    (worker,) = server.workers
    (child,) = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    return int(child)


def wait_for_end(pid: int) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while lives(pid):
        assert time.monotonic() < until, f"process {pid} goes on"
        time.sleep(0.05)


def test_the_process_that_explains_ends_with_its_worker(published_tiny: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(published_tiny, log, HUBEL_DEFAULT_MODEL="tiny", HUBEL_REQUEST_TIMEOUT_MS="50000") as server:
        first = explaining(server)
        os.kill(server.workers[0], signal.SIGKILL)
        wait_for_end(first)
        until = time.monotonic() + LIMIT_SECONDS
        while not server.workers or server.get("/readyz").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        last = explaining(server)
        assert last != first
    assert server.process.returncode == 0
    wait_for_end(last)
