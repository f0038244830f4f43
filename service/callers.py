"""Whether whoever sent a request still waits for its answer.

The server's protocol tells when a connection is lost; work that is done for a caller is cancelled
then. Under a server that tells nothing, only a deadline ends it.
"""

import asyncio

from starlette.types import Scope

from service.errors import CallerLeft

CALLER = "hubel.caller"  # in a request's scope


class Caller:
    """The other end of a request's connection; what is done for it is done inside of it."""

    def __init__(self) -> None:
        self.left = False
        self._working: asyncio.Task[object] | None = None

    def leave(self) -> None:
        """Say that the connection is lost: what is being done for the caller is cancelled."""
        self.left = True
        if self._working is not None:
            self._working.cancel()

    def __enter__(self) -> None:
        """Cancel what the current task does from here on when the caller leaves.

        Raises:
            CallerLeft: it has left.
        """
        if self.left:
            raise CallerLeft
        self._working = asyncio.current_task()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Cancel nothing any more.

        Raises:
            CallerLeft: it has left, and what was done for it was cancelled.
        """
        task, self._working = self._working, None
        if self.left and isinstance(error, asyncio.CancelledError):
            if task is not None:
                task.uncancel()
            raise CallerLeft from None


def caller_of(scope: Scope) -> Caller:
    """Return the caller of a request; one that never leaves where the server does not tell."""
    caller = scope.get(CALLER)
    return caller if isinstance(caller, Caller) else Caller()
