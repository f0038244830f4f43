"""What the workers of one service tell one another: how each stands, as a file in a folder that they share.

A single process needs no folder, and is its own only worker.
"""

import os
from pathlib import Path

from pydantic import ValidationError

from service.lifecycle import lives
from service.schemas import WorkerOut


class WorkerBoard:
    """The place where workers post how they stand."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._posted: WorkerOut | None = None

    @property
    def shared(self) -> bool:
        """Whether there may be other workers to tell."""
        return self._folder is not None

    def post(self, worker: WorkerOut) -> None:
        """Say how this process stands."""
        if worker == self._posted:
            return
        if self._folder is not None:
            written = self._folder / f".{worker.pid}"  # need not reach the disk: it ends with the service
            written.write_text(worker.model_dump_json())
            written.replace(self._path(worker.pid))
        self._posted = worker

    def withdraw(self) -> None:
        """Say no more of this process."""
        if self._folder is not None:
            self._path(os.getpid()).unlink(missing_ok=True)

    def read(self, own: WorkerOut) -> list[WorkerOut]:
        """Return how every worker that lives stands, this one (`own`) as it is now, by process number.

        What one said that lives no more is taken away.
        """
        standing = [own]
        for path in [] if self._folder is None else self._folder.glob("worker-*.json"):
            worker = _read(path)
            if worker is not None and worker.pid != own.pid:
                if lives(worker.pid):
                    standing.append(worker)
                else:
                    path.unlink(missing_ok=True)
        return sorted(standing, key=lambda worker: worker.pid)

    def _path(self, pid: int) -> Path:
        assert self._folder is not None
        return self._folder / f"worker-{pid}.json"


def _read(path: Path) -> WorkerOut | None:
    try:
        return WorkerOut.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # it has just gone
        return None
