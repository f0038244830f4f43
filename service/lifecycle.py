"""How this process stands between its start and its end: whether it is to stop, and why it cannot go on.

Knows no signal, no server and no model: whoever finds something out says it here, and whoever
answers for the process (health checks, the server) looks here.
"""

import os


class Lifecycle:
    """Said once, and not taken back: a process that stops does not start again."""

    def __init__(self) -> None:
        self.stopping = False
        self.fault = ""

    def stop(self) -> None:
        """Say that the process was asked to stop: it is not ready any more, and still answers."""
        self.stopping = True

    def fail(self, reason: str) -> None:
        """Say that the process cannot go on, and must be replaced by another one; the first reason counts."""
        self.fault = self.fault or reason

    @property
    def reason(self) -> str:
        """Why the process is not ready; empty while it is to go on."""
        if self.fault:
            return f"this process ends: {self.fault}"
        return "this process was asked to stop" if self.stopping else ""


def lives(pid: int) -> bool:
    """Say whether there is a process of this number."""
    try:
        os.kill(pid, 0)  # sends nothing: it asks whether the process is there
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
