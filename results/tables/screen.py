"""What a sweep ends with: its own rows beside the few that they can be compared with, on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..board.comparison import Judge
from ..board.rows import BASELINE, MARKS, RETAINED, UNRANKED, Row, Section, natural
from ..statistics.setting_selection import RULES
from .cells import metric_columns, remarks
from .narrow import keep_words
from .page import compared, told_by_data
from .to_console import number

LINES, WIDTH = 25, 100
BESIDE = 3
"""Rows of others beside one's own and zero-shot, on a backbone, where there is room."""


@dataclass(frozen=True)
class Group:
    """The rows of one backbone.

    Attributes:
        table: all rows that are ranked there, of which the best are found and tested against.
        start: zero-shot, if there is one. mine: of the sweep. others: what they can be compared with, best first.
    """

    backbone: str
    table: Sequence[Row]
    start: Row | None
    mine: Sequence[Row]
    others: Sequence[Row]

    def shown(self, beside: int) -> list[Row]:
        """Zero-shot, the sweep's rows and up to so many others, in the order of the board."""
        kept = [*([self.start] if self.start else []), *self.mine, *self.others[:beside]]
        places = {id(row): i for i, row in enumerate(self.table)}
        return sorted(kept, key=lambda row: places.get(id(row), len(places)))


@dataclass(frozen=True)
class Screen:
    """Rich renderable: at most LINES lines of WIDTH columns, unless the sweep has more rows than that.

    Attributes:
        run_ids: the runs that the sweep asked for.
        rule: by which rows are ranked.
        more: sentences of the sweep on its rows.
        where: sentences on where the rest is; the last lines.
        say: makes of a sentence what is printed, as `Board.to_console`.
    """

    sections: Sequence[Section]
    judge: Judge
    run_ids: Collection[str]
    rule: str = RULES[0]
    more: Sequence[str] = ()
    where: Sequence[str] = ()
    say: Callable[[str], str] = str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(width=min(options.max_width, WIDTH))
        found = [(section, groups) for section in self.sections if (groups := list(self._groups(section)))]
        for beside in range(BESIDE, -1, -1):
            parts = list(self._parts(found, beside, console, options))
            lines = [line for part in parts for line in console.render_lines(part, options, pad=False)]
            if len(lines) <= LINES:
                break
        for line in lines:
            yield from line
            yield Segment.line()

    def _parts(
        self, found: Sequence[tuple[Section, list[Group]]], beside: int, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        if not found:
            yield Text("No finished run of this sweep.")
        several = told_by_data([section for section, _ in found])
        seen: set[int] = set()
        for section, groups in found:
            data = f", data {section.fingerprint[:12]}" if several else ""
            ranked = f", rule {self.rule}" if any(row.rules for group in groups for row in group.mine) else ""
            yield Text(f"{section.title}{data}{ranked}", style="bold")
            yield self._fitting(section, groups, beside, console, options)
            rows = [row for group in groups for row in group.shown(beside)]
            seen |= set(map(id, rows))
            yield from (Text(self.say(note)) for note in _notes(section, rows))
            last = section is found[-1][0]
            if said := [*remarks(section), *(self._legend(found, console) if last else [])]:
                yield Text(self.say(" ".join(said)))
        yield from (Text(self.say(sentence)) for sentence in self.more)
        rest = sum(id(row) not in seen for section in self.sections for row in section.rows)
        count = "1 more row: " if rest == 1 else f"{rest} more rows: " if rest else ""
        for i, sentence in enumerate(map(self.say, self.where)):
            yield Text(count + sentence if i == 0 else sentence)

    def _legend(self, found: Sequence[tuple[Section, list[Group]]], console: Console) -> Iterator[str]:
        bold = "; bold: best of all on the backbone" if console.is_terminal else ""
        yield f"Accuracy in percent; ECE in [0, 1]; mean±sd over n seeds{bold}."
        if self.judge.tests and any(row.rules for section, _ in found for row in section.rows):
            yield "≈: not separable from the best of a column; ?: not tested."

    def _groups(self, section: Section) -> Iterator[Group]:
        asked = set(self.run_ids)
        # The reference has runs of the same ids: they are made from the same specs.
        local = [row for row in section.rows if row.provenance == "local"]
        mine = [row for row in local if not asked.isdisjoint(row.runs.values())]
        for backbone in sorted({row.backbone for row in mine}, key=natural):
            table = section.table(self.rule, backbone)
            of_sweep = [row for row in mine if row.backbone == backbone and not row.is_reference_method]
            starts = [row for row in section.rows if row.backbone == backbone and row.is_reference_method]
            starts = [row for row in starts if row in mine] or [row for row in starts if row.rules]
            start = min(starts, key=lambda row: (not row.rules, row.provenance), default=None)
            yield Group(backbone, table, start, of_sweep, _to_compare_with(section, table, of_sweep))

    def _fitting(
        self, section: Section, groups: Sequence[Group], beside: int, console: Console, options: ConsoleOptions
    ) -> Table:
        """The table with as many columns as the width has room for: what ranks first, then calibration, then shifts."""
        rows = [row for group in groups for row in group.shown(beside)]
        every = [(key, name) for key, name in metric_columns(section) if any(row.cell(key)[2] for row in rows)]
        ranking, calibration = {section.id_column, section.ood_column}, {"ece_id", "ece_ood_mean"}
        sets = {section.column(name) for name in (*section.iid, *section.shifts)}
        wider = [set(), {"ece_ood_mean"}, calibration, calibration | sets]
        if section.retention:
            wider = [set(), *(more | {RETAINED} for more in wider)]
        for narrow, more in [*((False, more) for more in reversed(wider)), (True, set())]:
            columns = [(key, name) for key, name in every if key in ranking | more]
            table = self._table(section, groups, beside, columns, narrow)
            if Measurement.get(console, options.update(width=1000), table).maximum <= options.max_width:
                break
        if keep_words(table, options.max_width):
            return table
        one_word_a_line = [(key, name.replace(" ", "\n")) for key, name in columns]
        return self._table(section, groups, beside, one_word_a_line, narrow=True)

    def _table(
        self,
        section: Section,
        groups: Sequence[Group],
        beside: int,
        columns: Sequence[tuple[str, str]],
        narrow: bool,
    ) -> Table:
        """Rows of these columns; a narrow one says of which rows are the reference's beside their names."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("method", *(() if narrow else ("provenance",))):
            table.add_column(name, overflow="fold")
        for name in (*(() if narrow else ("n",)), *(heading for _, heading in columns)):
            table.add_column(name, justify="right", no_wrap=True)
        for group in groups:
            rows = group.shown(beside)
            listed = zip(rows, compared(section, rows, columns, None, short=True), strict=True)
            ranked = zip(group.table, compared(section, group.table, columns, self.judge, short=True), strict=True)
            numbers = {id(row): cells for row, cells in (*listed, *ranked)}
            table.add_row(Text(f"[{group.backbone}]", style="bold"))
            for row, name in zip(rows, _names(rows), strict=True):
                if narrow:
                    of = f" ({row.provenance})" if row.provenance != "local" else ""
                    cells = [Text(name + _signs(row) + of)]
                else:
                    cells = [Text(name + _signs(row)), Text(row.provenance), Text(str(len(row.seeds)))]
                table.add_row(*cells, *map(number, numbers[id(row)]))
        return table


def _to_compare_with(section: Section, table: Sequence[Row], mine: Sequence[Row]) -> list[Row]:
    """Ranked rows that are not of the sweep: its method's own, plain finetuning, the best on shifts, the best on ID.

    Where nothing is ranked, as in a study: the reference's rows of the same settings.
    """
    of_sweep, methods = set(map(id, mine)), Counter(row.method for row in mine)
    others = [row for row in table if id(row) not in of_sweep and row.competes]
    if not any(row.rules for row in section.rows if not row.is_reference_method):
        names = {(row.name, row.backbone) for row in mine}
        return [row for row in section.rows if (row.name, row.backbone) in names and row.provenance == "reference"]
    same = [row for row in others if row.method in methods and not row.kind]
    plain = sorted((row for row in others if row.method == BASELINE and not row.kind), key=lambda row: row.provenance)
    best = []
    for column in (section.ood_column, section.id_column):
        scored = {i: mean for i, row in enumerate(others) if (mean := row.mean(column)) is not None}
        best += [others[max(scored, key=scored.__getitem__)]] if scored else []
    chosen = {id(row): row for row in (*same[:1], *plain[:1], *best, *same, *others)}
    return list(chosen.values())[:BESIDE]


def _names(rows: Sequence[Row]) -> list[str]:
    """What rows are called; those that would stand side by side under one title also say which rule chose them."""
    titles = Counter((row.name, row.provenance) for row in rows)
    return [
        f"{row.name} [{row.selection}, seeds {', '.join(map(str, row.seeds))}]"
        if titles[row.name, row.provenance] > 1
        else row.name
        for row in rows
    ]


def _marks(row: Row) -> dict[str, str]:
    """Its marks; a rehearsal says once that it is one."""
    twice = {"partial"} if UNRANKED in row.marks and not row.is_given else set()
    return {kind: reason for kind, reason in row.marks.items() if kind not in twice}


def _signs(row: Row) -> str:
    return "".join(sign for kind, sign in MARKS.items() if kind in _marks(row))


def _notes(section: Section, rows: Sequence[Row]) -> Iterator[str]:
    """What must be known of the rows: why some are not ranked, what else is wrong with them, and chance.

    The table says by its sign which row a reason is of; rows are named where one sign has several reasons.
    """
    rows_of: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for kind, reason in _marks(row).items():
            names = rows_of.setdefault((kind, reason), [])
            names += [row.name] if row.name not in names else []
    reasons = Counter(kind for kind, _ in rows_of)
    for kind, reason in sorted(rows_of, key=lambda key: (list(MARKS).index(key[0]), key[1])):
        whose = f": {', '.join(rows_of[kind, reason])}" if reasons[kind] > 1 else ""
        yield f"{MARKS[kind]} {reason}{whose}."
