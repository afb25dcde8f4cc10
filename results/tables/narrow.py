"""Tables in a terminal that has no room for their columns: no heading is broken inside a word."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def keep_words(table: Table, width: int) -> bool:
    """Has every word of a table's headings kept whole.

    Returns:
        Whether there is room for them, and for all of each column that is not folded.
    """
    needed = 0
    for column in table.columns:
        heading = _plain(column.header)
        parts = heading.split("\n") if column.no_wrap else heading.split()
        cells = [line for cell in column.cells for line in _plain(cell).split("\n")] if column.no_wrap else []
        column.min_width = max(map(cell_len, [*parts, *cells]), default=0)
        needed += column.min_width
    count = len(table.columns)
    return needed + (2 * (count - 1) if table.box is None else 3 * count + 1) <= width


def as_lines(table: Table) -> Iterator[Text]:
    """The same, a row after the other: what it is of, then heading and value of each further column that has one."""
    if table.title:
        yield Text(_plain(table.title))
    headings = [_plain(column.header).replace("\n", " ") for column in table.columns]
    for row in zip_longest(*(map(_plain, column.cells) for column in table.columns), fillvalue=""):
        yield Text(row[0], style="bold")
        said = [f"{heading} {cell}".strip() for heading, cell in zip(headings[1:], row[1:], strict=True) if cell]
        if said:
            yield Text(f"  {'; '.join(said)}")


def _plain(cell: RenderableType | None) -> str:
    return cell.plain if isinstance(cell, Text) else cell if isinstance(cell, str) else ""
