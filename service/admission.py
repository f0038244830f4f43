"""Who is let into a queue: bounds on its items, on their bytes, and on how long a newcomer would wait.

The wait is predicted from how fast the queue was seen to empty, whatever it is that slows it down
(decoding, the engine, other work on the same cores). Knows no tensor, no model and no HTTP.
"""

import math
import time
from collections.abc import Callable

from model.errors import Limit
from service.deadline import Deadline
from service.errors import QueueFull, ServiceError, TooManyImages

_FORGOTTEN_PER_ITEM = 0.1  # how much of what was learned before one item's time replaces
_CAUTION = 1.5  # a prediction is a mean: half of those who only just fit would be late


class Admission:
    """The places in one queue, from before an item is decoded until it is answered."""

    def __init__(
        self,
        max_items: Limit,
        max_bytes: Limit,
        item_bytes: int,
        *,
        seconds_per_item: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the places of an empty queue.

        Args:
            max_items: items at once at the most.
            max_bytes: bytes of all items at once at the most.
            item_bytes: bytes of one item.
            seconds_per_item: what one item takes, as far as that is known; 0 where it is not.
            clock: monotonic seconds.
        """
        self.admitted = 0
        self.seconds_per_item = seconds_per_item
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._item_bytes = item_bytes
        self._clock = clock
        self._last_finished = -math.inf
        self._busy_since = -math.inf
        self._closed: ServiceError | None = None

    def admit(self, count: int, deadline: Deadline) -> float:
        """Hold places for `count` items that are to be answered by `deadline`, until `release`.

        Returns:
            When they were let in, monotonic seconds.

        Raises:
            QueueFull: there are not so many places, or the answers would come too late; none is held then.
            TooManyImages: there could never be so many.
        """
        self.check(count, deadline)
        now = self._clock()
        if not self.admitted:
            self._busy_since = now
        self.admitted += count
        return now

    def release(self, count: int) -> None:
        """Let `count` places go."""
        self.admitted -= count

    def check(self, count: int, deadline: Deadline) -> None:
        """Refuse `count` items as `admit` would; hold nothing.

        Raises:
            QueueFull, TooManyImages: as `admit` says.
        """
        if self._closed is not None:
            raise self._closed
        if count * self._item_bytes > self._max_bytes.value:
            raise TooManyImages(
                f"{count} images of {self._item_bytes} bytes each are over the limit of {self._max_bytes.value} bytes; "
                "send them in several requests",
                self._max_bytes,
            )
        after = self.admitted + count
        if after > self._max_items.value:
            raise self._full(
                f"{count} more would be over the limit of {self._max_items.value}",
                self._max_items,
                excess=int(after - self._max_items.value),
            )
        if after * self._item_bytes > self._max_bytes.value:
            excess = after - int(self._max_bytes.value) // self._item_bytes
            raise self._full(
                f"{count} more of {self._item_bytes} bytes each would be over the limit of {self._max_bytes.value}",
                self._max_bytes,
                excess=excess,
            )
        now = self._clock()
        left = deadline.at - now
        wait = after * self.seconds_per_item * _CAUTION
        since = max(self._last_finished, self._busy_since)
        if self.admitted and now - since <= wait > left:  # a prediction that nothing confirms is put to the test
            raise self._full(
                f"an answer is expected in {wait * 1000:.0f} ms; the request has {max(left, 0.0) * 1000:.0f} ms left",
                deadline.limit,
                excess=math.ceil((wait - left) / self.seconds_per_item / _CAUTION),
            )

    def finished(self, count: int, since: float) -> None:
        """Learn from `count` items that have just been computed together, the first of which was let in at `since`."""
        now = self._clock()
        latest = (now - max(self._last_finished, since)) / count
        known = (1 - _FORGOTTEN_PER_ITEM) ** count if self.seconds_per_item else 0.0
        self.seconds_per_item = known * self.seconds_per_item + (1 - known) * latest
        self._last_finished = now

    def failed(self) -> None:
        """Learn nothing from a batch that failed: it may have taken any time."""
        self._last_finished = self._clock()

    def close(self, error: ServiceError) -> None:
        """Let nobody in any more; `error` says why."""
        self._closed = error

    def _full(self, why: str, limit: Limit, excess: int) -> QueueFull:
        """Say why there is no room, and when there will be: once `excess` items have left."""
        seconds = max(1, math.ceil(excess * self.seconds_per_item))
        return QueueFull(f"{self.admitted} images are being answered, and {why}", limit, retry_after_seconds=seconds)
