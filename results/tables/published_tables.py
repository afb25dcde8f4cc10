"""Published numbers beside ours: in rows of their own, with differences in points and with what makes them others."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from ..board.rows import FIXED, GRID, ORACLE, TRANSDUCTIVE, Row, Section, natural
from ..published import contradictions
from ..published.rows import (
    ABLATIONS,
    BENCHMARK,
    COLUMNS,
    SHIFTS,
    TRACER_SETTINGS,
    PaperRow,
    _read,
    ablations,
    alike,
    is_of,
    rows,
)
from .blocks import Block, Cell, Heading, Notes, Table, Text
from .cells import cell_text

ABOUT = (
    "Printed in TRACER's paper (results/published/README.md), never pooled with ours. A line with − in its provenance "
    "is our row minus the paper's, in points; the letters behind a name say where the two are not the same protocol."
)
ECE = (
    "ECE: the paper names no estimator. Ours here is what the released code computes, 10 bins averaged over batches "
    "(ece_lineage_* of a record; empty where an earlier record has none), and not the ECE of the other tables, 15 bins "
    "over the whole set, which is usually lower for the same predictions."
)
CLOCK = (
    "Between updates more than a step apart the released code counts updates, our clock=released; with "
    "clock=definition the teacher is another one."
)
FOUR = "OOD mean of four shifts, without ObjectNet; ours is of five, so that there is no difference to show."
PROMPTS = (
    "The released code evaluates with 86 templates and eight changed class names and trains with a random flip; ours "
    "has the 80 standard templates and names, and no flip."
)
NOT_SAME_RECIPE = (
    "Not the same recipe: no code for this row is released, and all means of these rows of Table 2 end in 3 or 7, as "
    "if made from one-decimal numbers of other papers; no target to reproduce."
)
LIPSUM = "Lipsum-FT's own protocol: checkpoint chosen on the reported set, another centre crop and augmentation."
DERIVED = ("ft", "l2_sp", "static_sd", "car_ft", "lipsum_ft", "model_stock", "arf")
COPIED = {
    ("table3", "ViT-L-14", "lp_ft"): "Table 3 has FT's row of Table 7 here; Table 7's LP-FT row differs.",
    ("table3", "RN50", "carot"): "One ECE is printed twice in Table 6's row, so that this mean is suspect.",
    ("table3", "ViT-B-16", "flyp"): "The printed mean ECE, 0.184, is not the mean of Table 5's columns, 0.1832.",
}
"""What contradictions.py cannot see: Table 3 repeats what other tables have."""


def difference(ours: Row, paper: PaperRow, column: str) -> float | None:
    """Ours minus the paper's, as a fraction; None where one is missing, or the two are means of other sets."""
    mean = ours.mean(alike(column))
    if mean is None or column not in paper.cells or (column == "acc_ood_mean" and paper.table == "table2"):
        return None
    return mean - paper.cells[column][0]


def warnings(paper: PaperRow, ours: Sequence[Row], recipe: str) -> list[str]:
    """Why the numbers of a row are not ours done again: one sentence each."""
    found = []
    if any(column.startswith("ece") for column in paper.cells):
        found.append(ECE)
    if paper.table == "table2":
        found.append(FOUR)
        found += [NOT_SAME_RECIPE] if paper.method in DERIVED else []
    if paper.method == "lipsum_ft":
        found.append(LIPSUM)
    found += contradictory(paper)
    found += [TRACER_SETTINGS[paper.backbone]] if paper.method == "tracer" else []
    found += [CLOCK] if paper.varied.get("update_every", 1) > 1 else []
    if ours and recipe not in ("as_published", "as_printed"):
        found.append(f"Our recipe is {recipe}, with our choice of settings; the paper's values were chosen otherwise.")
    counts = sorted({len(row.seeds) for row in ours if not row.is_reference_method and not row.pooled})
    if counts and counts != [paper.seeds]:
        seeds = f"{paper.seeds} seeds" if paper.seeds else "an unstated number of seeds"
        found.append(f"The paper's row is of {seeds}, ours of {' and '.join(map(str, counts))}.")
    return [*found, PROMPTS]


def contradictory(paper: PaperRow, others: Sequence[PaperRow] | None = None) -> list[str]:
    """Where a row contradicts others, all by default, or itself: one sentence each."""
    found = [COPIED[key] for key in [(paper.table, paper.backbone, paper.method)] if key in COPIED]
    found += contradictions.within(paper, SHIFTS)
    return found + contradictions.between(paper, _read() if others is None else others)


def beside(section: Section | None) -> Iterable[Block]:
    """The published rows of a benchmark with ours; of no section, the published rows alone.

    A study's grid stands beside the paper's ablation that varies the same.
    """
    studies = [table for table in ABLATIONS if _settings(section, table)]
    main = section is None or any(row.kind != GRID for row in section.rows)
    if section is not None and (not is_of(section) or not (main or studies)):
        what = f"what {section.benchmark} varies" if is_of(section) else f"the sets of {section.benchmark}"
        yield Text(f"Published numbers: no printed table has {what}.")
        return
    yield Heading(3, "Published numbers beside ours" if section else "Published numbers, and none of ours yet")
    yield Text(ABOUT, ours=True)
    letters: dict[str, str] = {}
    recipe = section.recipe if section else ""
    for backbone in sorted({row.backbone for row in rows()}, key=natural) if main else ():
        yield Heading(4, backbone)
        lines: list[list[str]] = []
        for method in _methods(backbone):
            papers = [paper for paper in rows() if (paper.backbone, paper.method) == (backbone, method)]
            ours = _ours(section, backbone, method)
            lines += [*map(_own_line, ours), *(line for p in papers for line in _lines(p, ours, recipe, letters))]
        yield _table(f"{BENCHMARK}, {backbone}: published numbers beside ours", lines)
    if main:
        yield from _unshown([table for table in ABLATIONS if table not in studies])
    for table in studies:
        title = f"Table {table.removeprefix('table')}: {ABLATIONS[table]}"
        yield Heading(4, title)
        lines = []
        for paper, ours in _settings(section, table):
            lines += [*map(_own_line, ours), *_lines(paper, ours, recipe, letters)]
        yield _table(f"{BENCHMARK}, {title}", lines)
    yield Notes(tuple(f"{letter}: {sentence}" for sentence, letter in letters.items()))


def _unshown(tables: Sequence[str]) -> Iterable[Block]:
    """What the page leaves out, and the contradictions that it hides."""
    names = ", ".join(table.removeprefix("table") for table in tables)
    yield Text(
        f"Tables {names}, TRACER's ablations on ViT-B-16, are in leaderboard_published.csv, and here only beside a "
        "study of ours that varies the same. What in them contradicts another table, or themselves:",
        ours=True,
    )
    papers = [paper for paper in ablations() if paper.table in tables]
    yield Notes(
        tuple(
            f"{paper.title}, {paper.variant.replace(';', ', ')}: {sentence}"
            for i, paper in enumerate(papers)
            for sentence in contradictory(paper, [*rows(), *papers[i + 1 :]])  # two of these tables: once
        )
    )


def _table(caption: str, lines: Iterable[Sequence[str]]) -> Table:
    head = ("method", "provenance", "source", "seeds", *(title for _, title in COLUMNS))
    return Table(caption, head, tuple(tuple(map(Cell, line)) for line in lines), frozenset(range(3, len(head))))


def _methods(backbone: str) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows() if row.backbone == backbone))


def _ours(section: Section | None, backbone: str, method: str) -> list[Row]:
    found = section.rows if section else ()
    mine = [row for row in found if (row.backbone, row.method) == (backbone, method) and row.complete]
    mine = [row for row in mine if row.kind not in (FIXED, ORACLE, GRID, TRANSDUCTIVE) and (row.rules or row.kind)]
    return sorted(mine, key=lambda row: (row.provenance, row.selection, row.name))


def _settings(section: Section | None, table: str) -> list[tuple[PaperRow, list[Row]]]:
    """Each printed row of an ablation with ours of the same setting; [] where there is none of ours."""
    found = []
    there = section.rows if section is not None and is_of(section) else ()
    grid = [row for row in there if row.kind == GRID and row.complete]
    for paper in (paper for paper in ablations() if paper.table == table):
        mine = [row for row in grid if (row.backbone, row.method) == (paper.backbone, paper.method)]
        mine = [row for row in mine if paper.is_setting_of(row)]
        found.append((paper, sorted(mine, key=lambda row: (row.provenance, row.name))))
    return found if any(ours for _, ours in found) else []


def _own_line(row: Row) -> list[str]:
    cells = [cell_text(row, alike(column)) for column, _ in COLUMNS]
    return [row.name, row.provenance, row.selection, str(len(row.seeds)), *cells]


def _lines(paper: PaperRow, ours: Sequence[Row], recipe: str, letters: dict[str, str]) -> Iterable[list[str]]:
    """A printed row with its warnings, and each of ours minus it."""
    notes = warnings(paper, ours, recipe)
    marks = " ".join(letters.setdefault(sentence, _letter(len(letters))) for sentence in notes)
    name = f"{paper.method} [{paper.variant.replace(';', ', ')}]" if paper.variant else paper.method
    yield [f"{name} ({marks})", "paper", paper.title, str(paper.seeds or ""), *_printed(paper)]
    for row in ours:
        cells = [_points(difference(row, paper, column), column) for column, _ in COLUMNS]
        yield [row.name, f"{row.provenance} − paper", paper.title, "", *cells]


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"a{i}"


def _printed(paper: PaperRow) -> list[str]:
    texts = []
    for column, _ in COLUMNS:
        mean, sd = paper.cells.get(column, (None, None))
        scale, digits = 100 if column.startswith("acc") else 1, paper.digits.get(column, 0)
        text = "" if mean is None else f"{scale * mean:.{digits}f}"
        texts.append(text if sd is None else f"{text} ± {scale * sd:.{digits}f}")
    return texts


def _points(value: float | None, column: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.1f}" if column.startswith("acc") else f"{value:+.3f}"


def published_csv(sections: Sequence[Section]) -> str:
    """A line per printed number: ours beside it, the difference in the column's unit, and the warnings.

    Accuracy in percent, ECE in [0, 1], ours by the released code's estimator.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["benchmark", "backbone", "method", "source", "variant", "column", "paper_mean", "paper_sd", "paper_seeds"]
    writer.writerow([*names, "provenance", "recipe", "selection", "seeds", "ours_mean", "difference", "warnings"])
    mine: list[Section | None] = [section for section in sections if is_of(section)]
    for paper in (*rows(), *ablations()):
        pairs = [(section, _beside(section, paper)) for section in mine or [None]]
        for section, ours in [pair for pair in pairs if pair[1]] or pairs[:1]:
            recipe = section.recipe if section else ""
            notes = " ".join(warnings(paper, ours, recipe))
            for column, (mean, sd) in paper.cells.items():
                scale, digits = 100 if column.startswith("acc") else 1, paper.digits[column]
                start = [BENCHMARK, paper.backbone, paper.method, paper.title, paper.variant, column]
                start += [f"{scale * mean:.{digits}f}"]
                start += ["" if sd is None else f"{scale * sd:.{digits}f}", str(paper.seeds or "")]
                for row in ours:
                    about = [row.provenance, recipe, row.selection, len(row.seeds)]
                    there = row.mean(alike(column)), difference(row, paper, column)
                    values = ["" if value is None else f"{scale * value:.4f}" for value in there]
                    writer.writerow([*start, *about, *values, notes])
                if not ours:
                    writer.writerow([*start, "paper", "", "", "", "", "", notes])
    return out.getvalue()


def _beside(section: Section | None, paper: PaperRow) -> list[Row]:
    if not paper.variant:
        return _ours(section, paper.backbone, paper.method)
    return next((ours for other, ours in _settings(section, paper.table) if other == paper), [])
