"""Values of metrics that change with every request, kept until they are told to prometheus_client together.

With several workers each of its values stands in a file, and takes longer to change than most of what is done for
a request, which changes ten. Here it takes as long as to append to a list, on any thread.
"""

from bisect import bisect_left
from collections import Counter as Counts
from collections import deque

from prometheus_client import Counter, Gauge, Histogram


class HistogramTally:
    """Observations of a histogram's child, which must not be observed otherwise; and, where asked for, their number."""

    def __init__(self, histogram: Histogram, counter: Counter | None = None) -> None:
        self._histogram = histogram
        self._counter = counter
        self._values: deque[float] = deque()
        self.observe = self._values.append

    def tell(self) -> None:
        """Tell what was observed."""
        values = [self._values.popleft() for _ in range(len(self._values))]
        places = Counts(bisect_left(self._histogram._upper_bounds, value) for value in values)
        for place, count in places.items():
            self._histogram._buckets[place].inc(count)
        if values:
            self._histogram._sum.inc(sum(values))
            if self._counter is not None:
                self._counter.inc(len(values))


class GaugeTally:
    """The last value of a gauge's child."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._told = self._value = 0.0

    def set(self, value: float) -> None:
        """Note the value."""
        self._value = value

    def tell(self) -> None:
        """Tell the value, if it is another one."""
        value = self._value
        if value != self._told:
            self._gauge.set(value)
            self._told = value
