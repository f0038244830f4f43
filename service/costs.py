"""What a batch costs: seconds = a + b * N, learned while the service runs, and the batch size that follows from it."""

import math

_WASTE = 0.05  # of a batch's time may be what does not depend on its size
_FORGOTTEN = 0.01  # of what was learned, with every batch


class CostCurve:
    """A line through what batches of N images took, by least squares.

    What was measured at the start is never forgotten: where all batches have one size, no line goes through them.
    """

    def __init__(self) -> None:
        self._start = [0.0] * 5  # sums of 1, N, N * N, seconds, N * seconds
        self._learned = [0.0] * 5
        self._largest = 0

    def begin_with(self, size: int, seconds: float) -> None:
        """Take in what was measured before the first request."""
        self._start = _add(self._start, size, seconds)
        self._largest = max(self._largest, size)

    def learn(self, size: int, seconds: float) -> None:
        """Take in a batch that was computed on one core."""
        self._learned = _add([(1 - _FORGOTTEN) * value for value in self._learned], size, seconds)

    @property
    def line(self) -> tuple[float, float]:
        """The seconds of any batch (a), and those of every image in it (b)."""
        ones, sizes, squares, seconds, products = map(sum, zip(self._start, self._learned, strict=True))
        spread = ones * squares - sizes * sizes
        if spread <= 1e-9 * ones * ones:
            return 0.0, seconds / sizes if sizes else 0.0
        each = (ones * products - sizes * seconds) / spread
        return max(0.0, (seconds - each * sizes) / ones), max(0.0, each)

    def batch_size(self, most: int) -> int:
        """Return the smallest batch in which what does not depend on the size is small.

        It is `most` at the most, and no more than was measured at the start: memory follows the largest batch.
        """
        most = min(most, self._largest or most)
        any_batch, each = self.line
        if each * _WASTE * most <= any_batch:
            return most
        return max(1, math.ceil(any_batch / (_WASTE * each)))


def _add(sums: list[float], size: int, seconds: float) -> list[float]:
    row = (1, size, size * size, seconds, size * seconds)
    return [total + value for total, value in zip(sums, row, strict=True)]
