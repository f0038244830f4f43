"""The arithmetic of many times: percentiles, and a histogram whose bins grow with the times. All in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Many times in a few figures, seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Summary":
        """Summarise times, one at least."""
        ordered = sorted(seconds)
        p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
        return cls(sum(ordered) / len(ordered), p50, p90, p99, ordered[-1])


@dataclass(frozen=True)
class Bin:
    """How many times lie from `low` up to `high`, seconds; in the last bin `high` is one of them."""

    low: float
    high: float
    count: int


def percentile(seconds: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of the values do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def histogram(seconds: Sequence[float], bins: int) -> list[Bin]:
    """Count times, all above 0, in bins from the shortest to the longest; times that are all alike are one bin.

    Each bin is wider than the one before, by the same factor.
    """
    if not seconds:
        return []
    low, high = min(seconds), max(seconds)
    if low == high:
        return [Bin(low, high, len(seconds))]
    edges = np.geomspace(low, high, bins + 1)
    counts, _ = np.histogram(seconds, edges)
    return [Bin(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]
