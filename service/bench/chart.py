"""A load test's outcome as a picture. Needs matplotlib, which is no part of the base install."""

import io
import math
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from service.bench.latencies import Summary, histogram
from service.bench.trial import Outcome

_BINS = 60
_DPI = 150
_MOST_DOTS = 50_000
_DECADE = 10.0  # narrower spreads are drawn on an even scale
_INK, _MUTED, _BLUE, _ORANGE = "#1f2933", "#6b7684", "#2f6db5", "#d9822b"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
}


def draw(title: str, outcome: Outcome) -> bytes:
    """Draw how the latencies are spread and how they went, with what they were made of; returns a PNG."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(10, 6.4), dpi=_DPI, layout="constrained")
        above, below = figure.subplots(2, 1)
        answered, failed = len(outcome.latencies), outcome.failed
        figure.suptitle(
            f"{title}\n{outcome.per_second:,.1f} requests/s; {answered:,} answered, {failed:,} failed",
            x=0.01,
            ha="left",
            fontsize=10,
        )
        if answered:
            _draw_spread(above, outcome)
            _draw_course(below, outcome)
        file = io.BytesIO()
        figure.savefig(file, format="png")
    return file.getvalue()


def _draw_spread(axes: Axes, outcome: Outcome) -> None:
    bins = histogram(outcome.latencies, _BINS)
    found = Summary.of(outcome.latencies)
    axes.stairs(
        [each.count for each in bins],
        [1000 * edge for edge in (bins[0].low, *(b.high for b in bins))],
        fill=True,
        color=_BLUE,
    )
    if bins[-1].high > _DECADE * bins[0].low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for name, seconds in (("p50", found.p50), ("p90", found.p90), ("p99", found.p99)):
        axes.axvline(seconds * 1000, color=_ORANGE, linewidth=1)
        place = axes.get_xaxis_transform()
        axes.text(seconds * 1000, 1, f" {name}", transform=place, color=_ORANGE, rotation=90, va="top")
    percentiles = f"p50 {found.p50 * 1000:,.3g}, p90 {found.p90 * 1000:,.3g}, p99 {found.p99 * 1000:,.3g} ms"
    axes.set(title=percentiles, xlabel="latency, ms", ylabel="requests")


def _draw_course(axes: Axes, outcome: Outcome) -> None:
    step = math.ceil(len(outcome.ends) / _MOST_DOTS)
    times = [seconds * 1000 for seconds in outcome.latencies[::step]]
    axes.plot(outcome.ends[::step], times, ".", color=_BLUE, markersize=2, alpha=0.5, rasterized=True)
    axes.set(xlabel="when it was answered, s", ylabel="latency, ms", xlim=(0, None), ylim=(0, None))
    if outcome.stages:
        means = (f"{stage} {1000 * fmean(seconds):,.3g}" for stage, seconds in outcome.stages.items())
        axes.set_title(f"in the mean: {' + '.join(means)} ms")
