"""A board in a terminal, fitted to its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from . import paper
from .blocks import Block, Heading, Notes
from .blocks import Table as Cells
from .board import ASIDE, ORACLE, Row, Section
from .cells import ASIDE_TITLES, best_rows, cell_text, footnotes, marks_text, metric_columns
from .compare import Judge
from .statistics import RULES
from .tables import signs_of


class ConsoleBoard:
    """Rich renderable: full tables where they fit, else means only; then what the other rules chose."""

    def __init__(self, sections: Sequence[Section], judge: Judge, published: bool = False) -> None:
        self.sections, self.judge, self.published = sections, judge, published

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = all(
            Measurement.get(console, options.update(width=1000), table).maximum <= options.max_width
            for section in self.sections
            for table in self._tables(section, wide=True)
        )
        if not self.sections:
            yield Text("No finished runs yet.")
        for section in self.sections:
            yield Text(f"{section.benchmark} ({section.version}), recipe {section.recipe}", style="bold")
            for table in self._tables(section, wide):
                yield Text("")
                yield table
            shown = [row for name in section.backbones for row in section.table(RULES[0], name)]
            aside = [row for kind in ASIDE for row in section.aside(kind)]
            for note in footnotes([*shown, *aside, *section.unranked()]):
                yield Text(note, style="dim")
            yield Text("")
        if self.published:
            theirs = [section for section in self.sections if section.id_set == paper.ID_SET]
            for section in theirs or [None]:
                yield from _blocks(paper.beside(section))
        yield Text("Accuracy in percent; ECE in [0, 1], 15 bins, global; mean±sd over seeds.", style="dim")
        if self.judge.tests:
            yield Text("≈: not separable from the best of its column, ?: not tested (leaderboard.md).", style="dim")
        if not wide:
            yield Text("Columns of each shift: leaderboard.md, or a wider terminal.", style="dim")

    def _tables(self, section: Section, wide: bool) -> Iterator[Table]:
        """The default rule per backbone, what other rules chose differently, and what is not ranked."""
        default, *others = RULES
        for backbone in section.backbones:
            rows = section.table(default, backbone)
            if rows and section.shows_rules:
                yield _table(section, rows, f"{backbone}, rule {default}", wide, self.judge)
        for rule in others:
            rows = [row for name in section.backbones for row in section.table(rule, name)]
            rows = [row for row in rows if default not in row.rules]
            if rows:
                yield _table(section, rows, f"where rule {rule} chose another setting", wide)
        for kind in ASIDE:
            if section.aside(kind):
                title = ASIDE_TITLES[kind].lower() if kind != ORACLE else ASIDE_TITLES[kind]
                yield _table(section, section.aside(kind), title, wide)
        if section.unranked():
            yield _table(section, section.unranked(), "not ranked", wide)


def _blocks(blocks: Iterable[Block]) -> Iterator[Text | Table]:
    """Blocks of the page as they are."""
    for block in blocks:
        if isinstance(block, Cells):
            table = Table(title=Text(block.caption), title_justify="left", box=None, pad_edge=False)
            for i, heading in enumerate(block.head):
                table.add_column(heading, justify="right" if i in block.numbers else "left", overflow="fold")
            for row in block.rows:
                table.add_row(*(Text(cell.text) for cell in row))
            yield table
        elif isinstance(block, Notes):
            yield from (Text(item, style="dim") for item in block.items)
        else:
            yield Text("" if isinstance(block, Heading) and block.level == 4 else block.text)


def _table(section: Section, rows: list[Row], title: str, wide: bool, judge: Judge | None = None) -> Table:
    """A rich table, ranked if it has a judge; narrow terminals get accuracies and calibration without the shifts."""
    columns = [(key, name) for key, name in metric_columns(section) if any(row.cell(key)[2] for row in rows)]
    if not wide:
        columns = [(key, name) for key, name in columns if not key.startswith(("acc/", "nll", "ece_floor"))]
    best: Mapping[str, set[int]] = {key: best_rows(rows, key) if judge else set() for key, _ in columns}
    signs = {key: signs_of(section, rows, best[key], key, judge) for key, _ in columns}
    several = len({row.backbone for row in rows}) > 1
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("method", *(("backbone",) if several else ()), "provenance"):
        table.add_column(name, overflow="fold")
    for name in ("n", *(heading for _, heading in columns)):
        table.add_column(name, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        cells = [Text(row.name + marks_text(row)), *([Text(row.backbone)] if several else [])]
        cells += [Text(row.provenance), Text(str(len(row.seeds)))]
        for key, _ in columns:
            text = cell_text(row, key, short=True) + signs[key].get(i, "")
            cells.append(Text(text, style="bold" if i in best[key] else ""))
        table.add_row(*cells)
    return table
