"""Tables that fit a narrow terminal: columns are left out, and no number is ever cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

__all__ = ["Column", "print_fitting", "print_side_by_side"]

_NAME = 13
"""Characters of a name that stay in a line; longer names go on in the next."""
_BESIDE = 3
"""Characters between two columns."""


@dataclass(frozen=True)
class Column:
    """Numbers of a table under a heading.

    Args:
        heading: what they are.
        cells: a number a row.
        rank: the column with the highest rank is the first to be left out.
    """

    heading: str
    cells: Sequence[str]
    rank: int = 0

    @property
    def width(self) -> int:
        """Characters of its widest cell."""
        return max(map(cell_len, (self.heading, *self.cells)))


def print_fitting(console: Console, title: str, names: Column, columns: Sequence[Column]) -> None:
    """Print a row a name; what a terminal is too narrow for is left out, and named below.

    Args:
        console: to print on.
        title: of the table.
        names: of the rows; these may take several lines.
        columns: in their order; one stays at least.
    """
    shown = list(columns)
    while len(shown) > 1 and _width(names, shown) > console.width:
        shown.remove(max(shown, key=lambda column: column.rank))
    table = _table(title, names, shown)
    if out := [column.heading for column in columns if column not in shown]:
        table.caption = f"for want of width without: {', '.join(out)}"
        table.caption_justify = "left"
    console.print(table)


def print_side_by_side(
    console: Console, title: str, quantities: Column, subjects: Sequence[Column]
) -> None:
    """Print a row a quantity and a column a subject, in as many tables as the width asks for.

    Args:
        console: to print on.
        title: of each table.
        quantities: what the rows are.
        subjects: whose headings may take several lines.
    """
    for chosen in _in_reach(console.width, quantities, subjects):
        table = Table(title=title)
        whole = (
            quantities.width + _BESIDE + sum(_least(each) + _BESIDE for each in chosen)
            < console.width
        )
        table.add_column(quantities.heading, no_wrap=whole)
        for subject in chosen:
            table.add_column(subject.heading, justify="right", overflow="fold",
                             min_width=_least(subject))  # fmt: skip
        for row in zip(quantities.cells, *(subject.cells for subject in chosen), strict=True):
            table.add_row(*row)
        console.print(table)


def _in_reach(
    width: int, quantities: Column, subjects: Sequence[Column]
) -> Iterator[Sequence[Column]]:
    """Subjects, as many at a time as fit; one at least."""
    chosen: list[Column] = []
    left = free = width - quantities.width - _BESIDE - 1
    for subject in subjects:
        needed = _least(subject) + _BESIDE
        if chosen and needed > left:
            yield chosen
            chosen, left = [], free
        chosen.append(subject)
        left -= needed
    if chosen:
        yield chosen


def _least(subject: Column) -> int:
    """Characters in which a subject can be read: its numbers whole, its heading in lines."""
    heading = max(map(cell_len, subject.heading.splitlines()), default=0)
    return max(min(heading, _NAME), *map(cell_len, subject.cells))


def _width(names: Column, columns: Sequence[Column]) -> int:
    lines = [line for name in names.cells for line in name.splitlines()]
    name = min(_NAME, max(map(cell_len, [names.heading, *lines])))
    return 1 + name + _BESIDE + sum(column.width + _BESIDE for column in columns)


def _table(title: str, names: Column, columns: Sequence[Column]) -> Table:
    table = Table(title=title)
    table.add_column(names.heading, overflow="fold")
    for column in columns:
        table.add_column(column.heading, no_wrap=True)
    for row in zip(names.cells, *(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table
