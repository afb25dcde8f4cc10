"""A board in a terminal, fitted to its width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..board.comparison import Judge
from ..board.rows import ASIDE, HOME, ORACLE, Row, Section
from ..published import rows as rows_module
from ..statistics.setting_selection import RULES
from . import models_tables, published_tables
from .blocks import Block, Cell, Heading, Notes
from .blocks import Table as Cells
from .cells import ASIDE_TITLES, footnotes, marks_text, metric_columns, remarks
from .narrow import as_lines, keep_words
from .page import compared, told_by_data


class ConsoleBoard:
    """Rich renderable: full tables where they fit, else means only; then what the other rules chose."""

    def __init__(
        self, sections: Sequence[Section], judge: Judge, published: bool = False, say: Callable[[str], str] = str
    ) -> None:
        self.sections, self.judge, self.published, self.say = sections, judge, published, say

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = all(
            Measurement.get(console, options.update(width=1000), self._table(section, group, wide=True)).maximum
            <= options.max_width
            for section in self.sections
            for group in self._groups(section)
        )
        if not self.sections:
            yield Text("No finished runs yet.")
        several = told_by_data(self.sections)
        for section in self.sections:
            data = f", data {section.fingerprint[:12]}" if several else ""
            yield Text(f"{section.title}{data}", style="bold")
            for remark in remarks(section):
                yield Text(remark, style="dim")
            for block in models_tables.beside(section, self.judge, explained=False):
                if isinstance(block, (Heading, Cells)):
                    yield Text("")
                yield from _blocks([block], options.max_width, whole=True)
            groups = self._groups(section)
            for group in groups:
                yield Text("")
                yield self._fitting(section, group, wide, options.max_width)
            seen = {id(row): row for group in groups for row in group.rows}
            for note in footnotes(list(seen.values())):
                yield Text(self.say(note), style="dim")
            if rest := sum(id(row) not in seen for row in section.rows):
                yield Text(f"{rest} more rows of the committed reference: leaderboard.md.", style="dim")
            yield Text("")
        if self.published:
            theirs = [section for section in self.sections if rows_module.is_of(section)]
            for blocks in map(published_tables.beside, theirs) if theirs else (published_tables.beside(None),):
                yield from _blocks(blocks, options.max_width)
        yield Text("Accuracy in percent; ECE in [0, 1], 15 bins, global; mean±sd over seeds.", style="dim")
        if self.judge.tests:
            yield Text("≈: not separable from the best of its column, ?: not tested (leaderboard.md).", style="dim")
        if not wide:
            yield Text("Columns of each shift: leaderboard.md, or a wider terminal.", style="dim")

    def _groups(self, section: Section) -> list[Group]:
        """The default rule per backbone, what other rules chose differently, and what is not ranked.

        Where this machine, or a group, has runs and there is a reference too, theirs come first, and of the reference
        no more than what stands beside them.
        """
        if "reference" in (found := {row.provenance for row in section.rows}) and len(found) > 1:
            return [*_not_ranked_beside(section), *filter(_has_own, _ranked(section)), *_rest(section, _is_own)]
        return [*_ranked(section), *_rest(section), *_not_ranked(section)]

    def _table(self, section: Section, group: Group, wide: bool, narrow: bool = False) -> Table:
        return _table(section, group.rows, group.title, wide, self.judge if group.ranked else None, narrow)

    def _fitting(self, section: Section, group: Group, wide: bool, width: int) -> Table:
        table = self._table(section, group, wide)
        return table if keep_words(table, width) else self._table(section, group, wide, narrow=True)


@dataclass(frozen=True)
class Group:
    """Rows that are one table of the terminal."""

    title: str
    rows: list[Row]
    ranked: bool = False


def _ranked(section: Section) -> Iterator[Group]:
    for backbone in section.backbones if section.shows_rules else ():
        if rows := section.table(RULES[0], backbone):
            yield Group(f"{backbone}, rule {RULES[0]}", rows, ranked=True)


def _rest(section: Section, shown: Callable[[Row], bool] = lambda row: True) -> Iterator[Group]:
    """What other rules chose, and the rows that stand aside."""
    default, *others = RULES
    for rule in others:
        rows = [row for name in section.backbones for row in section.table(rule, name)]
        rows = [row for row in rows if default not in row.rules and shown(row)]
        if rows:
            yield Group(f"where rule {rule} chose another setting", rows)
    for kind in ASIDE:
        if rows := list(filter(shown, section.aside(kind))):
            yield Group(ASIDE_TITLES[kind].lower() if kind != ORACLE else ASIDE_TITLES[kind], rows)


def _not_ranked(section: Section) -> Iterator[Group]:
    if rows := section.unranked():
        yield Group("not ranked", rows)


def _not_ranked_beside(section: Section) -> Iterator[Group]:
    """Rows that no rule ranks, as a rehearsal's, after the reference's of their method; not the reference's own."""
    mine, seen = [row for row in section.unranked() if _is_own(row)], set[int]()
    rows = []
    for row in mine:
        for beside in section.table(RULES[0], row.backbone):
            same = beside.method == row.method and not beside.kind or beside.is_reference_method
            if same and id(beside) not in seen:
                seen.add(id(beside))
                rows.append(beside)
        rows.append(row)
    if rows:
        here = {row.provenance for row in section.rows} <= set(HOME)
        yield Group("runs of this machine, not ranked" if here else "not ranked", rows)


def _is_own(row: Row) -> bool:
    return row.provenance != "reference"


def _has_own(group: Group) -> bool:
    return any(map(_is_own, group.rows))


def _blocks(blocks: Iterable[Block], width: int, whole: bool = False) -> Iterator[Text | Table]:
    """Blocks of the page as they are.

    Args:
        whole: whether a number and its interval stay on one line.
    """
    for block in blocks:
        if isinstance(block, Cells):
            table = Table(title=Text(block.caption), title_justify="left", box=None, pad_edge=False)
            for i, heading in enumerate(block.head):
                kept = whole and i in block.numbers
                heading = heading.replace(" ", "\n") if kept else heading
                justify: Literal["left", "right"] = "right" if i in block.numbers else "left"
                table.add_column(heading, justify=justify, overflow="fold", no_wrap=kept)
            for row in block.rows:
                table.add_row(*map(number, row))
            yield from [table] if keep_words(table, width) else as_lines(table)
        elif isinstance(block, Notes):
            yield from (Text(item, style="dim") for item in block.items)
        else:
            yield Text("" if isinstance(block, Heading) and block.level == 4 else block.text)


def _table(
    section: Section, rows: list[Row], title: str, wide: bool, judge: Judge | None = None, narrow: bool = False
) -> Table:
    """A rich table, ranked if it has a judge; terminals that are not wide get no columns of the shifts.

    A narrow one has what ranks alone, its headings a word a line, and says of what a row is beside its name.
    """
    columns = [(key, name) for key, name in metric_columns(section) if any(row.cell(key)[2] for row in rows)]
    if not wide:
        short = [key for key, _ in columns if "/" not in key and not key.startswith(("nll", "ece_floor"))]
        columns = [(key, name) for key, name in columns if key in (*short, section.id_column)]
    if narrow:
        ranking = (section.id_column, section.ood_column)
        columns = [(key, name.replace(" ", "\n")) for key, name in columns if key in ranking]
    several = len({row.backbone for row in rows}) > 1
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("method", *(("backbone",) if several and not narrow else ()), *(() if narrow else ("provenance",))):
        table.add_column(name, overflow="fold")
    for name in (*(() if narrow else ("n",)), *(heading for _, heading in columns)):
        table.add_column(name, justify="right", no_wrap=True)
    for row, numbers in zip(rows, compared(section, rows, columns, judge, short=True), strict=True):
        if narrow:
            on = f" on {row.backbone}" if several else ""
            of = f" ({row.provenance})" if row.provenance != "local" else ""
            cells = [Text(row.name + marks_text(row) + on + of)]
        else:
            cells = [Text(row.name + marks_text(row)), *([Text(row.backbone)] if several else [])]
            cells += [Text(row.provenance), Text(str(len(row.seeds)))]
        table.add_row(*cells, *map(number, numbers))
    return table


def number(cell: Cell) -> Text:
    """A number with its sign, the best of a column in bold."""
    return Text(cell.text + cell.sign, style="bold" if cell.best else "")
