"""Temperature scaling: one number that makes a network's probabilities as sure as it is right.

Fits the temperature on logits of images that were not trained on. Knows neither networks nor
files, and does not say whether the images are like those that will be served.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from training.metrics import Floats, Integers, Scores, check_scores, negative_log_likelihood

# The temperature stays within these. Logits whose best temperature lies outside are not those of a
# classifier that was trained with cross entropy.
MIN_TEMPERATURE: Final = 0.05
MAX_TEMPERATURE: Final = 20.0

# The standard deviation of log T that is believed in before any image is seen: T between 0.37 and 2.7 in 95% of
# networks. It weighs as much as a dozen images do, so that a dozen images which are all right by chance cannot make
# the network boundlessly sure; from a few hundred images on it moves T by a few per cent at most.
PRIOR_DEVIATION: Final = 0.5

_GRID = 61  # odd, so that log T = 0 is on it
_STEPS = 40  # each narrows the interval by 0.618


def fit_temperature(logits: Scores, targets: Integers) -> float:
    """Return the T that makes softmax(logits / T) most likely, given the targets and a weak prior.

    Minimises the negative log-likelihood per image plus (log T / 0.5)^2 / (2 N). The prior is 0 at T = 1 and positive
    elsewhere, and T = 1 is among the candidates: on the images that it was fitted on, the likelihood is never worse
    than without a temperature.

    Args:
        logits: (N, K), of images that were not trained on.
        targets: class indices, (N,).

    Raises:
        ValueError: as `check_scores` says.

    Source: Guo et al., "On calibration of modern neural networks", 2017, arXiv 1706.04599, section 4.2; the prior
    is ours.
    """
    check_scores(logits, targets)
    wide = np.asarray(logits, dtype=np.float64)

    def cost(log_temperature: float) -> float:
        prior = (log_temperature / PRIOR_DEVIATION) ** 2 / (2 * len(targets))
        return negative_log_likelihood(wide, targets, math.exp(log_temperature)) + prior

    # The sum of the two need not have one minimum only, so the search begins from a grid.
    grid = _grid()
    costs = [cost(value) for value in grid]
    best = int(np.argmin(costs))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = _golden_section(cost, float(low), float(high))
    candidates = [(costs[_GRID // 2], 0.0), (costs[best], float(grid[best])), (cost(found), found)]
    _, log_temperature = min(candidates, key=lambda candidate: (candidate[0], abs(candidate[1])))
    return min(max(math.exp(log_temperature), MIN_TEMPERATURE), MAX_TEMPERATURE)


def _grid() -> Floats:
    """Return values of log T from the lower bound to the upper, with 0 exactly in the middle."""
    half = _GRID // 2 + 1
    below, above = np.linspace(math.log(MIN_TEMPERATURE), 0, half), np.linspace(0, math.log(MAX_TEMPERATURE), half)
    return np.concatenate([below, above[1:]])


def _golden_section(cost: Callable[[float], float], low: float, high: float) -> float:
    """Return where the cost is least between two values of log T that enclose one minimum."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    cost_left, cost_right = cost(left), cost(right)
    for _ in range(_STEPS):
        if cost_left <= cost_right:
            high, right, cost_right = right, left, cost_left
            left = high - ratio * (high - low)
            cost_left = cost(left)
        else:
            low, left, cost_left = left, right, cost_right
            right = low + ratio * (high - low)
            cost_right = cost(right)
    return (low + high) / 2
