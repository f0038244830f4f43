import os
import subprocess
import sys
from pathlib import Path

WORKER = """
import os
from service.metrics import Metrics
metrics = Metrics()
metrics.for_model("tiny", 1).queue_changed(7)
metrics.images.labels("tiny", "1").inc(3)
print(metrics.exposition().decode())
os._exit(9)  # as if killed: nothing is cleaned up
"""


def worker(folder: Path) -> str:
    """Run a worker that dies; return what it would have told Prometheus."""
    variables = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", WORKER], env=variables, capture_output=True, text=True, timeout=60, check=False
    ).stdout


def test_a_killed_worker_s_gauges_leave_the_sums_and_its_counters_stay(tmp_path: Path) -> None:
    for lives in (1, 2, 3):
        told = worker(tmp_path)
        assert 'hubel_queue_length{model="tiny",version="1"} 7.0' in told
        assert f'hubel_images_total{{model="tiny",version="1"}} {3.0 * lives}' in told
