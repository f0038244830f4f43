"""What the system tells of the serving processes, and what the service tells of itself."""

import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SETTLING_SECONDS = 10.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return a process's memory."""
    return _status(pid, "VmRSS")


@dataclass(frozen=True)
class Memory:
    """What processes hold together, bytes: each for itself, and with what they share counted once."""

    resident: int
    proportional: int

    @classmethod
    def of(cls, pids: Sequence[int]) -> "Memory":
        """Look."""
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
        return cls(*(sum(_kilobytes(text, name) for text in texts) * 1024 for name in ("Rss", "Pss")))


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has ever held."""
    return _status(pid, "VmHWM")


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time that processes have used so far."""
    return sum(_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids) / _TICKS_PER_SECOND


def first_threads_cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time that the processes' first threads have used, in which the event loops are."""
    return sum(_ticks(Path(f"/proc/{pid}/task/{pid}/stat").read_text()) for pid in pids) / _TICKS_PER_SECOND


def machine_cpu_seconds() -> float:
    """Return the CPU time that everything on this machine has used so far."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


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


class Neighbours:
    """How many cores everything beside this program and its children, which have ended, has used while it was open."""

    def __enter__(self) -> "Neighbours":
        self._started, self._before = time.monotonic(), self._used()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        self.cores = (self._used() - self._before) / self.seconds

    def _used(self) -> float:
        own = os.times()
        return machine_cpu_seconds() - own.user - own.system - own.children_user - own.children_system


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


def _ticks(stat: str) -> int:
    user, system = stat.rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def _status(pid: int, name: str) -> int:
    try:
        return _kilobytes(Path(f"/proc/{pid}/status").read_text(), name) * 1024
    except ValueError:
        raise OSError(f"process {pid} has ended") from None


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"there is no {name}")
    return int(found[1])
