"""What a measurement must reach, printed beside what it has reached."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """What is measured, what it has to be, what it is, and whether that is enough."""

    what: str
    wanted: str
    measured: str
    kept: bool = True

    @classmethod
    def at_most(cls, what: str, measured: float, most: float, unit: str = "") -> "Bar":
        """Make a bar that must not be passed."""
        return cls(what, f"<= {most:.3g}{unit}", f"{measured:.3g}{unit}", measured <= most)

    @classmethod
    def at_least(cls, what: str, measured: float, least: float, unit: str = "") -> "Bar":
        """Make a bar that must be reached."""
        return cls(what, f">= {least:.3g}{unit}", f"{measured:.3g}{unit}", measured >= least)

    @classmethod
    def figure(cls, what: str, measured: str) -> "Bar":
        """Make a row that is only to be known."""
        return cls(what, "", measured)


def show(title: str, bars: Sequence[Bar]) -> bool:
    """Print a table; return whether every bar is kept."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[1]
    table = Table("", "bar", "measured", "", title=title, title_justify="left", caption_justify="left")
    table.caption = f"{cores} cores; {load:.1f} processes wanted one, in the mean of the last five minutes"
    for bar in bars:
        table.add_row(bar.what, bar.wanted, bar.measured, "" if not bar.wanted else "ok" if bar.kept else "MISSED")
    Console().print(table)
    return all(bar.kept for bar in bars)
