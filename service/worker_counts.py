"""What the workers of a service tell each other at every moment: a number each, in memory that they share."""

import fcntl
import mmap
import os
from pathlib import Path

_MOST_WORKERS = 64


class WorkerCounts:
    """How many of something each worker has; the place of one that has ended is taken anew."""

    def __init__(self, path: Path) -> None:
        """Take a place in the file, which is made where it is not there.

        Raises:
            OSError: the file cannot be written, or all places are taken.
        """
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, _MOST_WORKERS * 4)
        self._own = self._claim()
        self._counts = memoryview(mmap.mmap(self._file, _MOST_WORKERS * 4)).cast("i")
        self._counts[self._own] = 0

    def set(self, count: int) -> None:
        """Tell how many this worker has."""
        self._counts[self._own] = count

    def others(self) -> int:
        """Return how many all other workers have."""
        return sum(self._counts) - self._counts[self._own]

    def _claim(self) -> int:
        for place in range(_MOST_WORKERS):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)  # until this process ends
            except OSError:
                continue
            return place
        raise OSError(f"all {_MOST_WORKERS} places of workers are taken")
