"""How much one caller may ask: so many requests a second, and so many at once. Knows no key and no HTTP."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from model.errors import Limit
from service.errors import RateLimited, TooManyRequests


class Allowance:
    """A token bucket that holds a second's worth, and a count of the requests under way.

    Each worker keeps its own, with its share of both; the bounds that callers are told are those of all workers.
    """

    def __init__(
        self, rate: Limit, concurrency: Limit, workers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make an allowance of which nothing is used.

        Args:
            rate: requests a second; 0 for any number.
            concurrency: requests at once; 0 for any number.
            workers: processes that share both.
            clock: monotonic seconds.
        """
        self.under_way = 0
        self._rate = rate
        self._concurrency = concurrency
        self._per_second = rate.value / workers
        self._at_once = math.ceil(concurrency.value / workers)
        self._capacity = max(1.0, self._per_second)
        self._tokens = self._capacity
        self._clock = clock
        self._filled = clock()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Take a request into account, until it is answered.

        Raises:
            TooManyRequests: there are as many under way as there may be.
            RateLimited: it comes too soon.
        """
        if self._at_once and self.under_way >= self._at_once:
            raise TooManyRequests(
                f"this key may have {self._concurrency.value:g} requests under way at once", self._concurrency, 1
            )
        if self._per_second:
            self._take()
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def _take(self) -> None:
        now = self._clock()
        self._tokens = min(self._capacity, self._tokens + (now - self._filled) * self._per_second)
        self._filled = now
        if self._tokens < 1:
            seconds = math.ceil((1 - self._tokens) / self._per_second)
            raise RateLimited(f"this key may make {self._rate.value:g} requests a second", self._rate, seconds)
        self._tokens -= 1
