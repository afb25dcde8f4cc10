"""A board as blocks: per benchmark, rule and backbone a table with what must be said of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..board.comparison import Judge, Verdict
from ..board.curve import Curve
from ..board.provenances import shares_name
from ..board.rows import ASIDE, FIXED, GRID, ORACLE, PUBLISHED, TRANSDUCTIVE, Row, Section, natural, settings_text
from ..published import rows as rows_module
from ..statistics.setting_selection import RULES
from . import models_tables, published_tables
from .blocks import Block, Cell, Heading, Notes, Table, Text
from .cells import (
    ASIDE_TITLES,
    TIED,
    UNTESTED,
    cell_text,
    empty_cells,
    footnotes,
    marks_text,
    metric_columns,
    remarks,
    resolution,
)

TITLES = {"one_se": "one_se (default)", "best_id": "best_id"}
HEADER = (
    "Accuracy in percent. ECE in [0, 1]: 15 equal-width bins over the whole set (global), not a mean over batches. "
    "OOD columns are unweighted means over the shifts. The OOD ECE floor is what the OOD ECE would be on average if "
    "the same confidences were perfectly calibrated. NLL in nats. Cells are mean ± standard deviation (n − 1) over "
    "seeds. Zero-shot is the reference row and is not ranked; of the others, the ID/OOD Pareto front comes first, then "
    "the rest, each by OOD mean, and of each column the best complete one that can be tested is bold. Every run is "
    "judged at its last checkpoint; the column selection says how its setting was chosen."
)
TESTED = (
    "A number with ≈ is not separable from the best of its column that can be tested, the bold one: paired by seed and "
    "source image, two-way random effects, t with Satterthwaite's degrees of freedom, lowered as Cochran and Cox do, "
    "two-sided 5 %, Holm over the column; ? could not be tested (one seed, one model made of several, or no samples of "
    "a run), whatever its number, and is never bold, nor is any number of a column without tests. ECE is no mean over "
    "images: what an image moves it by is what it falls by without it (jackknife), and the test is of the ECE of other "
    "sets of this size; simulated, two models of one ECE are told apart in 0 to 5 %, the fewer the better both are "
    "calibrated. Simulated, a row as good as any keeps its ≈ in at least 95 % of repetitions; that one of several such "
    "rows loses it is likelier, for 17 of them 13 to 23 %, and up to 42 % where three seeds vary more than the images. "
    "Of three seeds, p values far below 5 % are too small (where 0.3 % is said, up to 1.5 %)."
)
TESTED_SCORES = (
    " Macro F1 and the worst group are no means over images: what an image moves them by is what they fall by without "
    "it (jackknife), and the rest is the same. Simulated with three and five seeds, intervals of 95 % held in 94.7 to "
    "99.7 % (macro F1 with many rare classes; the wider ones where seeds vary little) and in 93.7 to 100 % (worst of "
    "five groups) for the score of other sets of this size; where groups are level, that is less than the worst group "
    "would have on endless images."
)
UNRANKED_TEXT = "Settings that no tuning chose (given by hand, or never tuned), and older versions of a method."
ASIDE_TEXT = {
    GRID: "Every setting of a study's grid, means over seeds. The name says what the grid varies, the column setting "
    "what else was chosen. Nothing is chosen from these rows, and none is ranked.",
    PUBLISHED: "The authors' own values. How they were chosen is not known, so these rows are not ranked, not even "
    "against each other, and stand in no table with tuned ones.",
    ORACLE: "Each path at the one value, the same for all seeds, whose OOD mean is the largest. No method may see the "
    "shifts: this bounds what a better choice along the path could bring.",
    TRANSDUCTIVE: "Methods that see all images of a set, without labels, before they predict any of them. The other "
    "rows predict each image by itself, so these are not ranked against them.",
}
FIXED_TEXT = (
    "A row with a value beside its name, {names}, has that value by default and from no search; the run that it reads "
    "is the one that one_se chose."
)
POOLED_TEXT = (
    "n = 1, and no deviation, where a row is made from the runs of several seeds: {names}. Other seeds would give "
    "another such row; by how much is not known, so that it is neither tested (?) nor bold."
)
RULE_TEXT = {
    "one_se": "one_se: of the tried settings within one paired standard error of the lowest validation NLL, the most "
    "conservative one (smallest learning rate, then largest strength or smallest alpha).",
    "best_id": "best_id: the tried setting of the lowest validation NLL.",
}
PATHS_TEXT = "Means over seeds, ID accuracy / OOD mean, at each value of what a method can be stopped at."
MATCHED_TEXT = (
    "OOD mean of each path where its ID accuracy is that of the row: linear between neighbouring points, never beyond "
    "the ends. In brackets: the row's OOD mean minus it, in points; positive where the row is above the path; and its "
    "95 % interval, for new seeds and source images, which holds what the ID accuracies of row and path are off by, "
    "times the path's slope there (delta method). Where it says seeds, it is for new seeds on these images alone: the "
    "samples of a path's points are not kept, as in the committed reference. None: one seed, or one model made of "
    "several. No interval is corrected for looking at many."
)


def blocks(
    sections: Sequence[Section], judge: Judge, published: bool = False, preface: Sequence[str] = ()
) -> Iterable[Block]:
    """The page: sections, their tables by rule and backbone, and what stands aside.

    Args:
        published: whether printed numbers of papers stand beside ours.
        preface: texts on the board as a whole.
    """
    yield Heading(1, "Leaderboard")
    yield Text(HEADER, ours=True)
    yield from map(Text, preface)
    if not sections:
        yield Text("No finished runs yet.", ours=True)
    several = told_by_data(sections)
    for section in sections:
        data = f", data {section.fingerprint[:12]}" if several else ""
        yield Heading(2, section.title + data)
        for remark in remarks(section):
            yield Text(remark)
        yield from models_tables.beside(section, judge)
        for rule in RULES if section.shows_rules else ():
            yield from _of_rule(section, rule, judge)
        yield from _side_by_side(section)
        yield from _paths(section, judge)
        yield from published_tables.beside(section) if published else ()
        for kind in ASIDE:
            if section.aside(kind):
                yield Heading(3, ASIDE_TITLES[kind])
                yield Text(ASIDE_TEXT[kind], ours=True)
                yield from _listed(section, section.aside(kind), ASIDE_TITLES[kind])
        if section.unranked():
            yield Heading(3, "Not ranked")
            yield Text(UNRANKED_TEXT, ours=True)
            yield from _listed(section, section.unranked(), "Not ranked")
    if published and not any(rows_module.is_of(section) for section in sections):
        yield Heading(2, rows_module.BENCHMARK)
        yield from published_tables.beside(None)
    if judge.problems:
        yield Heading(2, "Not tested")
        yield Notes(tuple(judge.problems))


def told_by_data(sections: Sequence[Section]) -> bool:
    """Whether two sections differ in their data alone, so that headings must name them."""
    return len({section.title for section in sections}) < len(sections)


def _of_rule(section: Section, rule: str, judge: Judge) -> Iterable[Block]:
    tables = [(name, section.table(rule, name)) for name in section.backbones]
    every = [row for _, rows in tables for row in rows]
    # Zero-shot alone is worth showing once.
    if not every or (rule != RULES[0] and all(row.is_reference_method for row in every)):
        return
    made = [(name, rows, _table(section, rows, f"{rule}, {name}", judge)) for name, rows in tables if rows]
    yield Heading(3, f"Selection rule {TITLES[rule]}")
    yield Text(RULE_TEXT[rule], ours=True)
    if any(cell.sign for _, _, table in made for line in table.rows for cell in line):
        yield Text(TESTED + (TESTED_SCORES if section.own_metrics else ""), ours=True)
    fixed = sorted({row.title for row in every if row.kind == FIXED})
    pooled = sorted({row.title for row in every if row.pooled})
    if fixed:
        yield Text(FIXED_TEXT.format(names=", ".join(fixed)))
    if pooled:
        yield Text(POOLED_TEXT.format(names=", ".join(pooled)))
    for name, rows, table in made:
        yield Heading(4, name)
        yield table
        for sentence in (judge.resolution(section, rows) or resolution(section, rows), empty_cells(section, rows)):
            if sentence:
                yield Text(sentence, ours=True)
    if footnotes(every):
        yield Notes(tuple(footnotes(every)))


def _listed(section: Section, rows: list[Row], title: str) -> Iterable[Block]:
    yield _table(section, rows, title)
    if empty_cells(section, rows):
        yield Text(empty_cells(section, rows), ours=True)
    if footnotes(rows):
        yield Notes(tuple(footnotes(rows)))


def _table(section: Section, rows: list[Row], title: str, judge: Judge | None = None) -> Table:
    """One with a judge is of one backbone and ranked; one without is a list."""
    columns = metric_columns(section)
    head = ["method", *([] if judge else ["backbone"]), "provenance", "seeds", *(name for _, name in columns)]
    head += ["setting", "selection", "tuning (trials)"]
    lines = []
    for row, numbers in zip(rows, compared(section, rows, columns, judge), strict=True):
        cells = [Cell(row.name + marks_text(row)), *([] if judge else [Cell(row.backbone)])]
        cells += [Cell(row.provenance), Cell(str(len(row.seeds))), *numbers]
        tuning = f"{' '.join(row.tuning)} ({row.tried})" if row.tuning else ""
        lines.append((*cells, Cell(row.setting), Cell(row.selection), Cell(tuning)))
    first = 2 if judge else 3
    caption = f"{section.title}: {title}"
    return Table(caption, tuple(head), tuple(lines), frozenset(range(first, first + 1 + len(columns))))


def compared(
    section: Section, rows: Sequence[Row], columns: Sequence[tuple[str, str]], judge: Judge | None, short: bool = False
) -> list[list[Cell]]:
    """The cells of each row in these columns, (column, heading): its number, whether it is the best, and its sign.

    Every table of rows, wherever it is shown, has its numbers from here.

    Args:
        rows: of one backbone and rule, where there is a judge; without one they are a list, in which none is the best.
        short: as in `cell_text`.
    """
    found = {column: judge.verdict(section, rows, column) if judge else Verdict() for column, _ in columns}
    signs = {column: signs_of(rows, column, verdict) for column, verdict in found.items()}
    return [
        [Cell(cell_text(row, key, short), i in found[key].best, signs[key].get(i, "")) for key, _ in columns]
        for i, row in enumerate(rows)
    ]


def signs_of(rows: Sequence[Row], column: str, verdict: Verdict) -> dict[int, str]:
    """Index -> sign of the rows that are not separable from the best of a column, or not tested against it."""
    if not verdict.tested:
        return {}
    signs = {i: UNTESTED for i, row in enumerate(rows) if row.competes and row.mean(column) is not None}
    signs |= {i: {True: "", False: TIED, None: UNTESTED}[against.separable] for i, against in verdict.against.items()}
    return {i: sign for i, sign in signs.items() if sign and i not in verdict.best}


def _side_by_side(section: Section) -> Iterable[Block]:
    """What each rule chose and where that leads, a line per method."""
    lines = []
    for backbone in section.backbones:
        found: dict[tuple[str, str], dict[str, list[Row]]] = {}
        for rule in RULES:
            for row in section.table(rule, backbone):
                if not row.is_reference_method and row.kind != FIXED:
                    found.setdefault((row.method, row.provenance), {}).setdefault(rule, []).append(row)
        for (method, provenance), by_rule in sorted(found.items()):
            cells = [backbone, method, provenance]
            for rule in RULES:
                rows = by_rule.get(rule, [])
                cells.append("; ".join(settings_text(row.tuned) for row in rows))
                columns = (section.id_column, section.ood_column)
                cells += ["; ".join(cell_text(row, column) for row in rows) for column in columns]
            lines.append(tuple(map(Cell, cells)))
    if not lines:
        return
    head = ["backbone", "method", "provenance"]
    for rule in RULES:
        head += [f"{rule} setting", f"{rule} ID", f"{rule} OOD mean"]
    yield Heading(3, "Selection rules side by side")
    caption = f"{section.title}: selection rules side by side"
    yield Table(caption, tuple(head), tuple(lines))


def _paths(section: Section, judge: Judge) -> Iterable[Block]:
    """Each path with its points, and every ranked row against the paths at its own ID accuracy."""
    where = section.title
    if section.paths:
        yield Heading(3, "Paths")
        yield Text(_of_scores(section, PATHS_TEXT), ours=True)
    for parameter in sorted({path.parameter for path in section.paths}):
        mine = [path for path in section.paths if path.parameter == parameter]
        values = sorted({stop.value for path in mine for stop in path.stops})
        lines = []
        for path in sorted(mine, key=lambda path: (natural(path.backbone), path.name, path.provenance)):
            at = {stop.value: f"{_percent(stop.id_score)} / {_percent(stop.ood)}" for stop in path.stops}
            seeds = sorted({stop.seeds for stop in path.stops})
            few, many = seeds[0], seeds[-1]
            cells = [path.backbone, path.name, path.provenance, str(few) if few == many else f"{few} to {many}"]
            lines.append(tuple(map(Cell, [*cells, *(at.get(value, "") for value in values)])))
        head = ("backbone", "path", "provenance", "seeds", *(f"{parameter} {value:g}" for value in values))
        yield Table(f"{where}: paths over {parameter}", head, tuple(lines), frozenset(range(3, len(head))))
    lines, names = [], list(dict.fromkeys(path.name for path in section.paths))
    for backbone in section.backbones if names else ():
        beside = [path for path in section.paths if path.backbone == backbone]
        for row in section.table(RULES[0], backbone):
            if row.complete:
                paths = ([path for path in beside if path.name == name] for name in names)
                texts = [_matched(section, row, found, judge) for found in paths]
                cells = [backbone, row.name, row.provenance]
                cells += [cell_text(row, column) for column in (section.id_column, section.ood_column)]
                lines.append(tuple(map(Cell, [*cells, *texts])))
    if lines:
        yield Heading(3, _of_scores(section, "OOD accuracy at matched ID accuracy"))
        yield Text(_of_scores(section, MATCHED_TEXT), ours=True)
        head = ("backbone", "method", "provenance", "ID", "OOD mean", *names)
        caption = _of_scores(section, f"{where}: OOD mean at matched ID accuracy")
        yield Table(caption, head, tuple(lines), frozenset(range(3, len(head))))
        empty = sum(not cell.text for line in lines for cell in line)
        if empty:
            yield Text(f"Empty cells: {empty} of {len(lines) * len(names)}; such a path does not reach the row.", True)


def _of_scores(section: Section, text: str) -> str:
    """A text on accuracy, as it is where some set is judged by another score."""
    return text.replace("accuracy", "score") if section.own_metrics else text


def _percent(mean: float | None) -> str:
    return "" if mean is None else f"{100 * mean:.1f}"


def _matched(section: Section, row: Row, found: Sequence[Curve], judge: Judge) -> str:
    """Against the path of the row's own provenance, else the first."""
    path = min(found, key=lambda path: not shares_name(path.provenance, row.provenance), default=None)
    if path is None or section.at(row) is None:
        return ""
    if path.method == row.method:
        return "its own"
    against = judge.matched(section, row, path)
    if against is None:
        return ""
    text = f"{100 * against.gap:+.1f}"
    # A gap of nothing with no error: the row is this point of the path.
    if against.interval is not None and any(abs(value) > 1e-9 for value in (against.gap, *against.interval)):
        low, high = (f"{100 * end:.1f}" for end in against.interval)
        text += f"{'' if against.images else ', seeds'} [{low}, {high}]"
    return f"{100 * against.there:.1f} ({text})"
