"""Leaderboards from records alone: CSV, Markdown and a console table. Same records, same bytes.

Zero-shot is the reference row: first, never best. Rows are ordered by their OOD mean. Nothing is averaged away: a
missing cell is empty, and a row over fewer seeds, sets or images carries a mark with a footnote.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .atomic import write_atomic
from .board import (
    ASIDE,
    FIXED,
    FORGOTTEN,
    GRID,
    MARKS,
    OLD_TASK,
    ORACLE,
    PUBLISHED,
    Row,
    Section,
    natural,
    settings_text,
)
from .cells import ASIDE_TITLES, best_rows, cell_text, footnotes, marks_text, metric_columns, resolution
from .console import ConsoleBoard
from .rows import Record, sections
from .statistics import RULES

TITLES = {"one_se": "one_se (default)", "best_id": "best_id"}
HEADER = (
    "Accuracy in percent. ECE in [0, 1]: 15 equal-width bins over the whole set (global), not a mean over batches. "
    "OOD columns are unweighted means over the shifts. NLL in nats. Cells are mean ± standard deviation (n − 1) over "
    "seeds. Zero-shot is the reference row and is not ranked; the other rows are ordered by OOD mean, and the best "
    "complete one of each column is bold."
)
UNRANKED_TEXT = "Settings that no tuning chose (given by hand, or never tuned), and older versions of a method."
ASIDE_TEXT = {
    GRID: "Every setting of a study's grid, means over seeds. The name says what the grid varies, the column setting "
    "what else was chosen. Nothing is chosen from these rows, and none is ranked.",
    PUBLISHED: "The authors' own values. How they were chosen is not known, so these rows are not ranked, not even "
    "against each other, and stand in no table with tuned ones.",
    ORACLE: "Each path at the one value, the same for all seeds, whose OOD mean is the largest. No method may see the "
    "shifts: this bounds what a better choice along the path could bring.",
}
FIXED_TEXT = (
    "A row with a value beside its name, {names}, has that value by default and from no search; the run that it reads "
    "is the one that one_se chose."
)
POOLED_TEXT = "n = 1, and no deviation, where a row is made from the runs of several seeds: {names}."
RULE_TEXT = {
    "one_se": "one_se: of the tried settings within one paired standard error of the lowest validation NLL, the most "
    "conservative one (smallest learning rate, then largest strength or smallest alpha).",
    "best_id": "best_id: the tried setting of the lowest validation NLL.",
}


@dataclass(frozen=True)
class Board:
    """Sections of rows with their renderings."""

    sections: tuple[Section, ...]

    def to_csv(self) -> str:
        """One line per row and rule; accuracies in percent, ECE in [0, 1], NLL in nats."""
        return _csv(self)

    def to_markdown(self) -> str:
        """Tables per benchmark, rule and backbone with their footnotes."""
        return _markdown(self)

    def to_console(self) -> ConsoleBoard:
        """What rich prints: the default rule's tables, fitted to the width of the terminal."""
        return ConsoleBoard(self.sections)


def build(records: Iterable[Record], reference: Iterable[Record] = ()) -> Board:
    """The board of local records and, in rows of their own, of reference records.

    Args:
        records: finished runs; trials are left out.
        reference: committed runs; shown beside the local ones and never averaged with them.

    Returns:
        One section for each benchmark, version, recipe and data fingerprint. In a section, a row is one setting of one
        method version on one backbone; rows of an older method version are not ranked.

    Raises:
        BoardError: records that contradict each other, for example on a set's role.
    """
    return Board(sections(records, reference, RULES))


def write(records: Iterable[Record], reference: Iterable[Record], folder: Path) -> Board:
    """Build the board and write leaderboard.csv and leaderboard.md into a folder, atomically.

    Raises:
        BoardError: as `build`.
        OutputError: the file system refuses.
    """
    board = build(records, reference)
    write_atomic(Path(folder) / "leaderboard.csv", board.to_csv().encode())
    write_atomic(Path(folder) / "leaderboard.md", board.to_markdown().encode())
    return board


# CSV


def _csv(board: Board) -> str:
    shifts = list(dict.fromkeys(name for section in board.sections for name in section.shifts))
    extra = list(dict.fromkeys(name for section in board.sections for name in section.diagnostics))
    metrics = [
        ("acc_id", "acc_id_percent"),
        *((f"acc/{name}", f"acc_{name}_percent") for name in shifts),
        *([(FORGOTTEN, "forgetting_rate_points")] if OLD_TASK in shifts else []),
        ("acc_ood_mean", "acc_ood_mean_percent"),
        ("ece_id", "ece_id_15_bins_global"),
        ("ece_ood_mean", "ece_ood_mean_15_bins_global"),
        ("nll_id", "nll_id_nats"),
        *((f"acc/{name}", f"acc_{name}_percent_diagnostic") for name in extra),
    ]
    measured = {column for section in board.sections for row in section.rows for column in row.values}
    worst = [column for column in measured if column.startswith("worst/")]
    metrics += [(column, f"worst_group_acc_{column.removeprefix('worst/')}_percent") for column in sorted(worst)]
    gaps = sorted((column for column in measured if column.startswith("gap/")), key=natural)
    metrics += [(column, column.replace("/", "_")) for column in gaps]
    names = ["benchmark", "benchmark_version", "recipe", "rule", "ranked", "backbone", "method", "method_version"]
    names += ["setting", "provenance", "n_seeds", "seeds", "tuning", "trials", "marks"]
    for _, title in metrics:
        names += [f"{title}_mean", f"{title}_sd", f"{title}_n"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for section in board.sections:
        for rule, row in _every_row(section):
            line = [section.benchmark, section.version, section.recipe, rule]
            ranked = rule in (*RULES, FIXED) and not row.is_reference_method
            line += ["yes" if ranked else "no", row.backbone, row.method]
            line += [row.method_version, settings_text(row.chosen), row.provenance, len(row.seeds)]
            line += [" ".join(map(str, row.seeds)), " ".join(row.tuning), row.trials]
            line += ["; ".join(f"{kind}: {row.marks[kind]}" for kind in MARKS if kind in row.marks)]
            for column, _ in metrics:
                mean, sd, n = row.cell(column)
                scale, digits = (100, 4) if column.startswith(("acc", "worst")) else (1, 6)
                line += ["" if x is None else f"{x * scale:.{digits}f}" for x in (mean, sd)] + [n]
            writer.writerow(line)
    return out.getvalue()


def _every_row(section: Section) -> Iterable[tuple[str, Row]]:
    """(rule, row): each row once for each rule that it is a result of; a fixed one is a result of neither."""
    for rule in RULES:
        for backbone in section.backbones:
            yield from ((rule, row) for row in section.table(rule, backbone) if row.kind != FIXED)
    for backbone in section.backbones:
        yield from ((FIXED, row) for row in section.table(RULES[0], backbone) if row.kind == FIXED)
    for kind in ASIDE:
        rule = ASIDE_TITLES[kind] if kind == PUBLISHED else kind
        yield from ((rule, row) for row in section.aside(kind) if not row.is_reference_method)
    yield from (("", row) for row in section.unranked())


# Markdown


def _markdown(board: Board) -> str:
    lines = ["# Leaderboard", "", HEADER, ""]
    if not board.sections:
        lines += ["No finished runs yet.", ""]
    several = len({(s.benchmark, s.version, s.recipe) for s in board.sections}) < len(board.sections)
    for section in board.sections:
        data = f", data {section.fingerprint[:12]}" if several else ""
        lines += [f"## {section.benchmark} ({section.version}), recipe {section.recipe}{data}", ""]
        for rule in RULES if section.shows_rules else ():
            tables = [(name, section.table(rule, name)) for name in section.backbones]
            rows_of_rule = [row for _, rows in tables for row in rows]
            # Zero-shot alone is worth showing once.
            if not rows_of_rule or (rule != RULES[0] and all(row.is_reference_method for row in rows_of_rule)):
                continue
            lines += [f"### Selection rule {TITLES[rule]}", "", RULE_TEXT[rule], "", *_asides(rows_of_rule)]
            for backbone, rows in tables:
                if rows:
                    lines += [f"#### {backbone}", "", *_markdown_table(section, rows), ""]
                    lines += [line for line in (resolution(rows), "") if resolution(rows)]
            lines += _markdown_notes(rows_of_rule)
        lines += _side_by_side(section)
        for kind in ASIDE:
            rows = section.aside(kind)
            if rows:
                lines += [f"### {ASIDE_TITLES[kind]}", "", ASIDE_TEXT[kind], ""]
                lines += [*_markdown_table(section, rows, ranked=False), "", *_markdown_notes(rows)]
        unranked = section.unranked()
        if unranked:
            lines += ["### Not ranked", "", UNRANKED_TEXT, ""]
            lines += [*_markdown_table(section, unranked, ranked=False), "", *_markdown_notes(unranked)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown_table(section: Section, rows: list[Row], ranked: bool = True) -> list[str]:
    columns = metric_columns(section)
    best = {column: best_rows(rows, column) if ranked else set() for column, _ in columns}
    head = ["method", *([] if ranked else ["backbone"]), "provenance", "seeds", *(title for _, title in columns)]
    head += ["setting", "tuning (trials)"]
    lines = ["| " + " | ".join(map(_escape, head)) + " |", "|" + "---|" * len(head)]
    for i, row in enumerate(rows):
        cells = [_escape(row.name + marks_text(row))]
        cells += [] if ranked else [_escape(row.backbone)]
        cells += [row.provenance, str(len(row.seeds))]
        for column, _ in columns:
            text = cell_text(row, column)
            cells.append(f"**{text}**" if i in best[column] else text)
        cells += [_escape(row.setting), _tuning(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _asides(rows: list[Row]) -> list[str]:
    """What must be said of rows that a table's rule did not choose, or that have one seed by their nature."""
    fixed = sorted({row.title for row in rows if row.kind == FIXED})
    pooled = sorted({row.title for row in rows if row.pooled})
    lines = [FIXED_TEXT.format(names=_escape(", ".join(fixed))), ""] if fixed else []
    return [*lines, *([POOLED_TEXT.format(names=_escape(", ".join(pooled))), ""] if pooled else [])]


def _side_by_side(section: Section) -> list[str]:
    """What each rule chose and where that leads, a line per method."""
    lines: list[str] = []
    for backbone in section.backbones:
        found: dict[tuple[str, str], dict[str, list[Row]]] = {}
        for rule in RULES:
            for row in section.table(rule, backbone):
                if not row.is_reference_method and row.kind != FIXED:
                    found.setdefault((row.method, row.provenance), {}).setdefault(rule, []).append(row)
        for (method, provenance), by_rule in sorted(found.items()):
            cells = [_escape(backbone), _escape(method), provenance]
            for rule in RULES:
                rows = by_rule.get(rule, [])
                for text in (
                    [settings_text(row.tuned) for row in rows],
                    [cell_text(row, "acc_id") for row in rows],
                    [cell_text(row, "acc_ood_mean") for row in rows],
                ):
                    cells.append(_escape("; ".join(text)))
            lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return []
    head = ["backbone", "method", "provenance"]
    for rule in RULES:
        head += [f"{rule} setting", f"{rule} ID", f"{rule} OOD mean"]
    return [
        "### Selection rules side by side",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *lines,
        "",
    ]


def _markdown_notes(rows: list[Row]) -> list[str]:
    notes = footnotes(rows)
    return [*(f"- {_escape(note)}" for note in notes), ""] if notes else []


def _tuning(row: Row) -> str:
    return f"{' '.join(row.tuning)} ({row.trials})" if row.tuning else ""


def _escape(text: str) -> str:
    """Text that Markdown, and the HTML it becomes, show as it is."""
    text = re.sub(r"([\\|*`\[\]])|(?<!\w)(_)|(_)(?!\w)", lambda m: "\\" + m[0], text)
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
