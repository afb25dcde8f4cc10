"""What a page of tables is made of, before it is Markdown, LaTeX or HTML: the three say the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the page's."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `ours` if it holds no name from a record, so that nothing in it can be markup by accident."""

    text: str
    ours: bool = False


@dataclass(frozen=True)
class Notes:
    """A list below a table."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """What stands in a cell; `best` of its column, or claimed, and a sign behind it: `cells.TIED` or `UNTESTED`."""

    text: str
    best: bool = False
    sign: str = ""


@dataclass(frozen=True)
class Table:
    """A table; every row has as many cells as the head.

    Attributes:
        caption: what it shows, for formats in which a table stands alone.
        numbers: columns that hold numbers, by index; they are set to the right.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: frozenset[int] = frozenset()


Block = Heading | Text | Notes | Table
