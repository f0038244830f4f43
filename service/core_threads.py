"""Threads that batches run on: one for each core, and of those that are idle the one that has worked last.

A pool that takes turns has all its threads at work in turns, where one would do: each finds its core taken by
another, and the kernel, for some milliseconds, two of them on one core and none on the other.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class CoreThreads(Executor):
    """As many threads as there are cores; who asks for more has others, whose turns do not matter."""

    def __init__(self, count: int) -> None:
        """Make `count` threads, each begun when it is first needed."""
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"core-{number}") for number in range(count)]
        self._idle = [*self._threads]
        self._more = ThreadPoolExecutor(count, thread_name_prefix="core-more")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Run a function on the thread that was the last to become idle."""
        try:
            thread = self._idle.pop()
        except IndexError:
            return self._more.submit(fn, *args, **kwargs)
        try:
            run = thread.submit(fn, *args, **kwargs)
        except RuntimeError:  # it cannot begin now, for want of memory, say
            self._idle.insert(0, thread)
            raise
        run.add_done_callback(lambda _: self._idle.append(thread))
        return run

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; what is under way goes on."""
        for thread in (*self._threads, self._more):
            thread.shutdown(wait, cancel_futures=cancel_futures)
