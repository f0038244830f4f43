"""By when a request is to be answered, and what has set that."""

import time
from dataclasses import dataclass

from model.errors import Limit
from service.errors import DeadlineExceeded
from service.settings import Settings


@dataclass(frozen=True)
class Deadline:
    """A moment, in monotonic seconds, and the limit that it comes from."""

    at: float
    limit: Limit

    @classmethod
    def of(cls, settings: Settings, arrived: float, timeout_ms: int | None = None) -> "Deadline":
        """Return the deadline of a request that arrived at `arrived` and asked for `timeout_ms`, or for nothing."""
        limit = Limit("request_timeout_ms", settings.request_timeout_ms)
        if timeout_ms is not None:
            limit = min(Limit("timeout_ms", timeout_ms), settings.longest_timeout, key=lambda each: each.value)
        return cls(arrived + limit.value / 1000, limit)

    @property
    def seconds_left(self) -> float:
        """Seconds until then; negative when it has passed."""
        return self.at - time.monotonic()

    def exceeded(self) -> DeadlineExceeded:
        """Return the error that says so."""
        return DeadlineExceeded(f"there was no answer within {self.limit.value:g} ms", self.limit)
