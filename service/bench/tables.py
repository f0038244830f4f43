"""A load test's outcome on a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.bench.figures import BINS, cores_here, explain, share_of_core
from service.bench.latencies import Summary, histogram
from service.bench.trial import Outcome

_BAR_CHARACTERS = 40
_BUSY = 0.8  # of a core: more, and the figures tell more of this program than of the service


def print_outcome(console: Console, title: str, outcome: Outcome) -> None:
    """Print the histogram, the figures, the stages, what failed, and what measuring has cost."""
    console.print(Text(title))
    if outcome.latencies:
        console.print(_histogram(outcome, ascii_only=console.options.ascii_only))
        console.print(_times(outcome))
    if outcome.latencies and not outcome.stages:
        console.print("The answers have no Server-Timing header: no stages are known.")
    console.print(
        f"{outcome.per_second:,.1f} requests/s answered; {outcome.statuses.total():,} requests in "
        f"{outcome.seconds:.1f} s, of which {outcome.failed:,} failed"
    )
    for status, body in sorted(outcome.failures.items()):
        name = str(status or "no answer")
        console.print(Text(f"  {outcome.statuses[status]:,} x {name}: {explain(body)}", style="red"))
    _print_cost(console, outcome)


def _histogram(outcome: Outcome, *, ascii_only: bool) -> Table:
    bins = histogram(outcome.latencies, BINS)
    most = max(each.count for each in bins)
    table = Table(box=None, padding=(0, 1), show_header=False)
    for column in ("right", "right", "left"):
        table.add_column(justify=column, no_wrap=True)
    for each in bins:
        bar = ("#" if ascii_only else "█") * round(_BAR_CHARACTERS * each.count / most)
        table.add_row(f"to {_milliseconds(each.high)} ms", f"{each.count:,}", bar or ("." if each.count else ""))
    return table


def _times(outcome: Outcome) -> Table:
    table = Table("milliseconds", box=box.SIMPLE, padding=(0, 1))
    for name in ("mean", "p50", "p90", "p99", "most"):
        table.add_column(name, justify="right")
    for name, seconds in {"latency": outcome.latencies, **outcome.stages}.items():
        found = Summary.of(seconds)
        times = (found.mean, found.p50, found.p90, found.p99, found.longest)
        table.add_row(Text(name), *map(_milliseconds, times))
    return table


def _print_cost(console: Console, outcome: Outcome) -> None:
    share, cores = share_of_core(outcome), cores_here()
    each = outcome.cpu_seconds * 1000 / max(outcome.statuses.total(), 1)
    console.print(
        f"Asking took {share:.0%} of one core, {share / cores:.0%} of this machine's {cores}; {each:.2f} ms a request"
    )
    if share > _BUSY:
        console.print("This program was the limit, or close to it: the service may be able to do more.", style="red")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.3g}" if seconds < 1 else f"{seconds * 1000:,.0f}"
