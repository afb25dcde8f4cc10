"""Leaderboards from records alone: CSV, Markdown, LaTeX, HTML and a console table. Same records, same bytes.

Zero-shot is the reference row: first, never best. Nothing is averaged away: a missing cell is empty and counted, and a
row over fewer seeds, sets or images carries a mark with a footnote. Where the runs' per-sample files are there, every
row is tested against the best of its column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..board import provenances
from ..board.comparison import Judge
from ..board.grouping import Record, sections
from ..board.per_sample import Outcomes
from ..board.rows import SHOWN, Section
from ..records.atomic import write_atomic
from ..statistics.setting_selection import RULES
from .blocks import Block
from .models_tables import models_csv
from .page import ASIDE_TEXT, FIXED_TEXT, HEADER, POOLED_TEXT, RULE_TEXT, TITLES, UNRANKED_TEXT, blocks
from .published_tables import published_csv
from .to_console import ConsoleBoard
from .to_csv import long, wide
from .to_html import html
from .to_latex import latex
from .to_markdown import markdown

__all__ = [
    "ASIDE_TEXT",
    "FIXED_TEXT",
    "HEADER",
    "POOLED_TEXT",
    "RULE_TEXT",
    "TITLES",
    "UNRANKED_TEXT",
    "Board",
    "build",
    "write",
]

FILES = ("leaderboard.csv", "leaderboard_long.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html")
MODELS_FILE = "leaderboard_models.csv"
"""Written beside the first of `FILES` where a section has a summary over its models."""


@dataclass(frozen=True)
class Board:
    """Sections of rows with their renderings."""

    sections: tuple[Section, ...]
    judge: Judge = field(default_factory=lambda: Judge(None), compare=False)
    entries: tuple[tuple[str, Record], ...] = field(default=(), repr=False)  # (provenance, record) of every run
    published: bool = False  # whether papers' printed numbers stand beside ours
    preface: tuple[str, ...] = ()  # texts on the board as a whole

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """What the pages show."""
        return tuple(blocks(self.sections, self.judge, self.published, self.preface))

    def of(self, benchmark: str) -> Board:
        """The part that is about one benchmark."""
        mine = tuple(section for section in self.sections if section.benchmark == benchmark)
        entries = tuple(entry for entry in self.entries if entry[1]["benchmark"] == benchmark)
        return Board(mine, self.judge.anew(), entries, self.published, self.preface)

    def to_csv(self) -> str:
        """One line per row and rule; accuracies in percent, ECE in [0, 1], NLL in nats."""
        return wide(self.sections, self.judge)

    def to_long_csv(self) -> str:
        """One line per run, dataset and metric."""
        return "".join(long(self.entries))

    def to_models_csv(self) -> str:
        """One line per metric and row over all models of a section; empty where no section has a summary over them."""
        return models_csv(self.sections, self.judge)

    def to_published_csv(self) -> str:
        """One line per printed number of a paper and row of ours beside it."""
        return published_csv(self.sections)

    def to_markdown(self) -> str:
        """Tables per benchmark, rule and backbone with their footnotes."""
        return markdown(self.blocks)

    def to_latex(self) -> str:
        """The same for a paper, with booktabs."""
        return latex(self.blocks)

    def to_html(self) -> str:
        """The same as a plain page."""
        return html(self.blocks)

    def to_console(self, say: Callable[[str], str] = str) -> ConsoleBoard:
        """What rich prints: the default rule's tables, fitted to the width of the terminal.

        Args:
            say: makes of a sentence what is printed; a file names no place of this machine, a terminal may.
        """
        return ConsoleBoard(self.sections, self.judge, self.published, say)


def build(
    records: Iterable[Record],
    reference: Iterable[Record] = (),
    outcomes: Outcomes | None = None,
    published: bool = False,
    shown: Sequence[str] = SHOWN,
) -> Board:
    """The board of local records and, in rows of their own, of reference records.

    Args:
        records: finished runs; trials are left out.
        reference: committed runs; shown beside the local ones and never averaged with them.
        outcomes: where the per-sample files are; without it no row is tested against another.
        published: whether papers' printed numbers stand beside ours; never pooled with them.
        shown: the metrics beside accuracy, of `rows.SHOWN` and `rows.MORE_METRICS`.

    Returns:
        One section for each benchmark, version, recipe and data fingerprint. In a section, a row is one setting of one
        method version on one backbone; rows of an older method version are not ranked.

    Raises:
        BoardError: records that contradict each other, for example on a set's role.
    """
    return of_groups({"local": list(records), "reference": list(reference)}, outcomes, published, shown=shown)


def of_groups(
    groups: Mapping[str, Sequence[Record]],
    outcomes: Outcomes | None = None,
    published: bool = False,
    preface: Sequence[str] = (),
    shown: Sequence[str] = SHOWN,
) -> Board:
    """The board of several groups' records, each in rows of its own; a row that two of them hold is shown once.

    Args:
        groups: provenance -> its records: "local", "reference", or the name of a group.
        outcomes, published, shown: as `build`.
        preface: texts on the board as a whole, shown on its pages.

    Raises:
        BoardError: as `build`.
    """
    every = tuple(provenances.entries(groups))
    found = tuple(replace(section, shown=tuple(shown)) for section in sections(groups, RULES))
    return Board(found, Judge(outcomes), every, published, tuple(preface))


def write(
    records: Iterable[Record],
    reference: Iterable[Record],
    folder: Path,
    outcomes: Outcomes | None = None,
    files: Iterable[str] = FILES,
    published: bool = False,
    shown: Sequence[str] = SHOWN,
) -> Board:
    """Build the board and write it into a folder, atomically.

    Args:
        files: which of `FILES`.
        published: as `build`; then there is leaderboard_published.csv too.
        shown: as `build`.

    Raises:
        BoardError: as `build`.
        OutputError: the file system refuses.
    """
    board = build(records, reference, outcomes, published, shown)
    save(board, folder, files)
    return board


def save(board: Board, folder: Path, files: Iterable[str] = FILES) -> None:
    """Write a board into a folder, atomically; OutputError where the file system refuses.

    Args:
        files: which of `FILES`.
    """
    texts = (board.to_csv, None, board.to_markdown, board.to_latex, board.to_html)
    for name, made in zip(FILES, texts, strict=True):
        if name in files:
            parts = [made()] if made else long(board.entries)
            write_atomic(Path(folder) / name, (part.encode() for part in parts))
    if FILES[0] in files:
        if text := board.to_models_csv():
            write_atomic(Path(folder) / MODELS_FILE, text.encode())
        else:  # an earlier board's would be read as this one's
            (Path(folder) / MODELS_FILE).unlink(missing_ok=True)
    if board.published:
        write_atomic(Path(folder) / "leaderboard_published.csv", board.to_published_csv().encode())
