"""Learning rates as pure functions of the step."""

import math


def one_cycle(step: int, steps: int, peak: float, warm_up: float) -> float:
    """Return the learning rate of a step: from peak / 25 up to the peak, then down to nearly nothing.

    Args:
        step: from 0 to `steps` - 1.
        steps: steps of the whole run.
        peak: the largest rate.
        warm_up: the fraction of the steps that leads up to the peak.

    Source: Smith and Topin, "Super-Convergence", arXiv 1708.07120, with cosine halves.
    """
    turn = max(warm_up * (steps - 1), 1e-9)
    low, start, progress = (
        (peak / 25, peak, 1 - step / turn) if step <= turn else (peak / 2500, peak, (step - turn) / (steps - 1 - turn))
    )
    return low + (start - low) * (1 + math.cos(math.pi * progress)) / 2
