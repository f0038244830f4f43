"""Learning rates as pure functions of the progress of a run, 0 at its first step, 1 at its end."""

import math


def one_cycle(progress: float, peak: float, warm_up: float) -> float:
    """Return a rate from peak / 25 up to the peak, then down to nearly nothing.

    Args:
        progress: 0 to 1.
        peak: the largest rate.
        warm_up: the fraction of the run that leads up to the peak.

    Source: Smith and Topin, "Super-Convergence", arXiv 1708.07120, with cosine halves.
    """
    if progress < warm_up:
        return peak / 25 + (peak - peak / 25) * _half_cosine(1 - progress / warm_up)
    return peak / 2500 + (peak - peak / 2500) * _half_cosine((progress - warm_up) / max(1 - warm_up, 1e-9))


def cosine(progress: float, peak: float, warm_up: float) -> float:
    """Return a rate that rises linearly to the peak, then falls along half a cosine to 0.

    Source: Loshchilov and Hutter, "SGDR", arXiv 1608.03983, without restarts.
    """
    if progress < warm_up:
        return peak * max(progress, 1e-3) / warm_up
    return peak * _half_cosine((progress - warm_up) / max(1 - warm_up, 1e-9))


def _half_cosine(way: float) -> float:
    """Fall from 1 to 0 while `way` rises from 0 to 1."""
    return (1 + math.cos(math.pi * min(way, 1.0))) / 2
