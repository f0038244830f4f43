"""What an image costs in batches of 1, 2, 4 .. images, learned while the service runs, and the batch size that follows.

It is a table and no line: what a batch takes by itself, and what an image takes in caches of a certain size, pull
in opposite directions.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_RUNS, _SECONDS = 2, 0.01  # at the least, to measure a size
_AGREE = 1.1  # the second fastest run, beside the fastest
_MOST_SECONDS = 0.5  # where no two agree
_DEARER = 1.05  # an image in a batch of twice the size, and larger batches are not worth a try
_LEAST_GROWTH = 1.5  # of the time of a batch, with twice the images
_LONGEST_SECONDS = 0.05  # of a batch: who waits for one waits for all of it
# An image in batches of another size, to go over to it. Of sizes that are alike the larger one is taken: what a batch
# costs beside its own time, on the event loop, is not in the table.
_CHEAPER = 0.97  # a smaller one
_AS_CHEAP = 1.0  # a larger one
_FIRST_TRIAL = 4  # every so many batches one has another size, of which too little is known
_TRIAL = 16  # and one of which enough is known
_ENOUGH = 8  # batches of a size tell what it costs
_FORGOTTEN = 1 / 16  # of what was learned of a size, with every batch of it
_STRAY = 1.25  # of what is known of a size: what is above was caught up in something else


@dataclass
class _Average:
    """A moving average; a value that strays upwards moves it no more than one a quarter above it would."""

    count: int = 0
    value: float = 0.0

    def take(self, value: float) -> None:
        """Take in one more."""
        if self.count:
            value = min(value, _STRAY * self.value)
        self.count += 1
        self.value += max(_FORGOTTEN, 1 / self.count) * (value - self.value)


class CostCurve:
    """Seconds of an image by the size of its batch.

    What was measured at the start says which sizes are worth a try, and the first choice. Under load a batch costs
    more: images are decoded for it, it is handed over, and others use the cores and their caches. So that is
    learned apart from it, by trying the next smaller and the next larger size now and then. What an image costs in
    them is kept as a share of what it costs in the usual size at that time: cores become slower and faster within
    seconds, and what was seen of a size a while ago would be compared with what they are now.
    """

    def __init__(self) -> None:
        self._first: dict[int, float] = {}
        self._size = 0
        self._each = _Average()  # seconds of an image, in batches of that size
        self._others: dict[int, _Average] = {}  # of another size: a share of those
        self._asked = 0

    def begin_with(self, size: int, seconds: float) -> bool:
        """Take in what a batch took before the first request, smaller ones first.

        Returns:
            Whether batches of twice the size are worth a try.
        """
        if self._size and seconds > _LONGEST_SECONDS:
            return False
        each = self._first[size] = seconds / size
        if not self._size or each < _CHEAPER * self._first[self._size]:
            self._size = size
        return each < _DEARER * self._first[self._size] and _LEAST_GROWTH * seconds < _LONGEST_SECONDS

    def learn(self, size: int, seconds: float) -> None:
        """Take in a batch that was computed on one core while others waited for theirs."""
        if size not in self._first or seconds <= 0:
            return
        if size == self._size:
            self._each.take(seconds / size)
        elif self._each.count >= _ENOUGH:
            self._others.setdefault(size, _Average()).take(seconds / size / self._each.value)
        for other in self._neighbours():
            if self._share(other) < (_CHEAPER if other < self._size else _AS_CHEAP):
                self._go_over_to(other)
                break

    @property
    def seconds_per_item(self) -> float:
        """What a batch of one took at the start; 0 where none was."""
        return self._first.get(1, 0.0)

    def batch_size(self, most: int) -> int:
        """Return the size of the next batch: that of the cheapest images, or one that is to be tried.

        It is `most` at the most, and no more than was measured at the start: memory follows the largest batch.
        """
        self._asked += 1
        size = self._size
        others = [other for other in self._neighbours() if other <= most]
        unknown = [other for other in others if self._share(other) == math.inf]
        turn, rest = divmod(self._asked, _FIRST_TRIAL if unknown else _TRIAL)
        if not rest and (tried := unknown or others):
            size = tried[turn % len(tried)]
        return min(size or most, most)

    def _neighbours(self) -> list[int]:
        return [other for other in (self._size // 2, self._size * 2) if other in self._first]

    def _share(self, size: int) -> float:
        """Return what an image costs in batches of another size; without an end where too few batches tell."""
        other = self._others.get(size)
        return other.value if other is not None and other.count >= _ENOUGH else math.inf

    def _go_over_to(self, size: int) -> None:
        """Make another size the usual one, beside which all others are seen from now on."""
        share = self._others.pop(size).value
        self._each.value *= share
        for other in self._others.values():
            other.value /= share
        self._others[self._size] = _Average(_ENOUGH, 1 / share)
        self._size = size


def fastest(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of the fastest of a few runs, when another was about as fast.

    The first one may be slow, and others use the cores meanwhile.
    """
    taken: list[float] = []
    while (
        len(taken) < _RUNS
        or sum(taken) < _SECONDS
        or (sum(taken) < _MOST_SECONDS and sorted(taken)[1] > _AGREE * min(taken))
    ):
        started = clock()
        run()
        taken.append(clock() - started)
    return min(taken)
