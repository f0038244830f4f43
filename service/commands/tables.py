"""Tables on a terminal."""

from rich import box
from rich.table import Column, Table


def make_table(*headers: str) -> Table:
    """Make a table whose cells go over several lines rather than lose their ends."""
    return Table(*(Column(header, overflow="fold") for header in headers), box=box.SIMPLE, padding=(0, 1))
