"""Tables that the commands print."""

from collections.abc import Sequence

from rich import box
from rich.table import Column, Table
from rich.text import Text


def tabulate(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: bool = True) -> Table:
    """Make a table whose cells go over several lines rather than lose their ends."""
    first, *others = headings
    columns = [Column(Text(name), justify="right" if right else "left", overflow="fold") for name in others]
    table = Table(Column(Text(first), overflow="fold"), *columns, box=box.SIMPLE, padding=(0, 1))
    for row in rows:
        table.add_row(*map(Text, row))
    return table
