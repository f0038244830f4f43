"""An event loop whose time passes only while it has nothing to do: hours in milliseconds, and always the same."""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

R = TypeVar("R")


class Clock:
    """Monotonic seconds, as they are told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    """Waits by moving the clock; whoever waits for what will never come is found out."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "something is waited for that will never happen"
        self._clock.now += max(0.0, timeout)
        return super().select(0)


def run(main: Coroutine[Any, Any, R], clock: Clock) -> R:
    """Run a coroutine while `time.monotonic` is the clock."""
    with (
        patch.object(time, "monotonic", clock),
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector(clock))) as runner,
    ):
        return runner.run(main)
