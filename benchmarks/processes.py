"""What the system tells of the serving processes, and what the service tells of itself."""

import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_SETTLING_SECONDS = 10.0


def resident_bytes(pid: int) -> int:
    """Return a process's memory."""
    return _status(pid, "VmRSS")


def open_descriptors(pid: int) -> int:
    """Return how many files and connections a process holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def settled_descriptors(pid: int, wanted: int) -> int:
    """Return how many files and connections a process holds once it is no more than wanted, or after a while."""
    until = time.monotonic() + (_SETTLING_SECONDS if wanted else 1.0)
    while (found := open_descriptors(pid)) > wanted and time.monotonic() < until:
        time.sleep(0.1)
    return found


def metric(text: str, name: str) -> float:
    """Sum the samples of one name in the text of /metrics.

    Raises:
        LookupError: there is none.
    """
    values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    if not values:
        raise LookupError(f"the metrics have no {name}: {text[:200]}")
    return sum(map(float, values))


class MemoryWatch:
    """The most memory that processes have used together while it was open, as it was looked at."""

    def __init__(self, pids: Sequence[int], every_seconds: float = 0.1) -> None:
        self.before = self.peak = sum(map(resident_bytes, pids))
        self._pids = pids
        self._every = every_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """Bytes above what they used before."""
        return self.peak - self.before

    def _look(self) -> None:
        while not self._done.wait(self._every):
            with suppress(OSError):
                self.peak = max(self.peak, sum(map(resident_bytes, self._pids)))


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"process {pid} has ended")
    return int(found[1]) * 1024
