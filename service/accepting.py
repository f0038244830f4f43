"""Taking connections in, so that each worker has its share of them.

All workers listen on the same sockets, and whoever is awake first would take whatever is there: one worker has most
of the connections then, and the cores of the others are idle. So a worker with more than its share leaves a
connection to the others for a moment, and takes it in if they do not.
"""

import asyncio
import logging
import math
import socket
from collections.abc import Awaitable, Callable

_LEFT_SECONDS = 0.012  # others may wait for their turn of the interpreter, twice
_STEP_SECONDS = 0.001  # between looks whether somebody else has taken it
_FINISH_SECONDS = 0.5
_RETRY_SECONDS = 1.0  # when no connection can be taken in, for want of descriptors, say

_log = logging.getLogger(__name__)


class Acceptor:
    """Takes in the connections of one listening socket, one after the other. To be used from its event loop."""

    def __init__(
        self,
        listener: socket.socket,
        take_in: Callable[[socket.socket], Awaitable[object]],
        has_its_share: Callable[[], bool],
    ) -> None:
        """Begin.

        Args:
            listener: what is listened on.
            take_in: begins to serve a connection.
            has_its_share: says whether others should go first.
        """
        self._listener = listener.dup()
        self._listener.setblocking(False)
        self._take_in = take_in
        self._has_its_share = has_its_share
        self._left_at = -math.inf  # what is there to be taken in, if that was lately
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._listen()

    def close(self) -> None:
        """Take no more connections in; again is as well."""
        if self._listener.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    async def finish(self) -> None:
        """Wait until what was taken in is served; one that is slow in a TLS handshake is not waited for."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FINISH_SECONDS)

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._on_connection)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._listen)

    def _on_connection(self) -> None:
        if self._has_its_share():
            now = self._loop.time()
            if now - self._left_at > 2 * _LEFT_SECONDS:
                self._left_at = now
            if now - self._left_at < _LEFT_SECONDS:
                self._wait(_STEP_SECONDS)
                return
        self._left_at = -math.inf
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it is another worker's, or gone
            return
        except OSError as error:
            _log.error("no connection can be taken in for %g s: %s", _RETRY_SECONDS, error)
            self._wait(_RETRY_SECONDS)
            return
        task = asyncio.ensure_future(self._take_in(connection))
        self._tasks.add(task)
        task.add_done_callback(self._taken_in)

    def _taken_in(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # in a TLS handshake, say
            _log.debug("a connection was not taken in: %s", error)
