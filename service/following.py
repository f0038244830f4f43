"""The rhythm of a process: look at the registry, judge canaries, tell the other workers how it stands."""

import asyncio
import logging

from service.canary import CanaryWatch
from service.hosting import ModelHost
from service.schemas import WorkerOut
from service.workers import WorkerBoard

_log = logging.getLogger(__name__)


class Follower:
    """Keeps a host in step with its registry until it is closed."""

    def __init__(self, host: ModelHost, watch: CanaryWatch, board: WorkerBoard, seconds: float) -> None:
        """Make a follower that looks every `seconds`."""
        self._host = host
        self._watch = watch
        self._board = board
        self._seconds = seconds
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._look())]
        if self._board.shared:
            self._tasks.append(loop.create_task(self._tell()))

    async def close(self) -> None:
        """Stop, and take the word on this process back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._board.withdraw()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._host.look()
                await self._watch.check(list(self._host.models.values()))
            except Exception:  # one failure must not end the looking
                _log.exception("following the registry failed")

    async def _tell(self) -> None:
        while True:
            self._host.changed.clear()
            try:
                self._board.post(WorkerOut.of(self._host))
            except Exception:  # likewise; the next change is told again
                _log.exception("telling the other workers failed")
            await self._host.changed.wait()
