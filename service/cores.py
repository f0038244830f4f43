"""The cores that engines compute on, shared by every version of a process and by all workers of a service.

Under load a batch has one core, and as many run as there are cores: that answers most images in a second. A
batch that is alone has all cores: that answers it soonest. Knows no queue, no engine and no thread.
"""

import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from service.worker_counts import WorkerCounts

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")

_CROWD_SECONDS = 0.1  # after two batches have met; then one that comes alone is taken for a lone caller's


def count_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Return how many cores this process may use: those it may run on, or what a container's CPU limit comes to.

    A limit of one and a half cores counts as two. Source: Linux, cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`).

    Args:
        cgroups: where the control groups are mounted.
        own: tells which of them this process is in.
    """
    quotas = [math.ceil(quota) for folder in _cgroups_of(own, cgroups) for quota in _cpu_quota(folder)]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def _cgroups_of(own: Path, cgroups: Path) -> Iterator[Path]:
    """Give the folders of a process's groups; a container sees its own as the root of all, whatever it is called."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):  # noqa: PLR2004
        if not controllers or "cpu" in controllers.split(","):
            root = cgroups / "cpu" if controllers else cgroups
            group = root / path.strip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _cpu_quota(folder: Path) -> Iterator[float]:
    """Give the cores that a group's members may use together, if there is a limit."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            if float(quota) > 0:
                yield float(quota) / float(period)
        except (OSError, ValueError):  # not there, or "max"
            continue


class Cores:
    """Hands cores to batches. To be used from one event loop."""

    def __init__(
        self,
        count: int,
        share: int | None = None,
        workers: WorkerCounts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hand out `count` cores.

        Args:
            count: cores that there are.
            share: those of them that this process may use at any time; more, where other workers leave them idle.
            workers: what other workers use; None where there are none.
            clock: monotonic seconds.
        """
        self._count = count
        self._share = share or count
        self._workers = workers
        self._clock = clock
        self._busy = 0
        self._crowded_at = clock() - _CROWD_SECONDS
        self._was_alone = False
        self._waiting: OrderedDict[Callable[[], None], None] = OrderedDict()

    @property
    def free(self) -> int:
        """How many batches could begin now, each on one core."""
        return max(self._share - self._busy, self._count - self._busy - self._others(), 0)

    def take(self, ready: Callable[[], None], *, alone: bool) -> int:
        """Take cores for a batch: one, or all for a batch that is alone, or none.

        Args:
            ready: is called when a core is free again, if there is none now.
            alone: whether nobody else waits where the batch comes from.
        """
        alone = alone and not self._waiting and not self._busy and not self._others()
        if alone and (self._was_alone or self._clock() - self._crowded_at > _CROWD_SECONDS):
            taken = self._count
        elif self.free:
            taken = 1
        else:
            taken = 0
            self._waiting[ready] = None
        if not alone:
            self._crowded_at = self._clock()
        self._was_alone = alone
        self._use(taken)
        return taken

    def give_back(self, taken: int) -> None:
        """Give back what a batch took; who has waited longest is called."""
        self._use(-taken)
        while self._waiting and self.free:
            ready, _ = self._waiting.popitem(last=False)
            ready()

    def _use(self, more: int) -> None:
        self._busy += more
        if self._workers is not None and more:
            self._workers.set(self._busy)

    def _others(self) -> int:
        return self._workers.others() if self._workers is not None else 0
