"""The same work in several fresh processes that begin each part of it together."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST_WAIT_SECONDS = 120.0
_barriers: list[Barrier] = []


def together(
    processes: int, function: Callable[P, R], preload: str | None = None, *arguments: P.args, **named: P.kwargs
) -> list[R]:
    """Run a function in each of some processes, and return what it returns there.

    Args:
        processes: how many.
        function: calls `begin_together` before each part that counts.
        preload: a library that is loaded into them before all others.
        arguments: of the function.
        named: likewise.
    """
    context = get_context("spawn")
    barrier = context.Barrier(processes)
    with (
        _preloading(preload),
        ProcessPoolExecutor(processes, context, initializer=_join, initargs=(barrier,)) as pool,
    ):
        return [each.result() for each in [pool.submit(function, *arguments, **named) for _ in range(processes)]]


def begin_together() -> None:
    """Wait until every process of the crew is here."""
    _barriers[-1].wait(_LONGEST_WAIT_SECONDS)


def _join(barrier: Barrier) -> None:
    _barriers.append(barrier)


@contextmanager
def _preloading(library: str | None) -> Iterator[None]:
    if library is not None:
        os.environ["LD_PRELOAD"] = library
    try:
        yield
    finally:
        if library is not None:
            del os.environ["LD_PRELOAD"]
