"""What stands in a cell and below a table: the same text for Markdown and console."""

from __future__ import annotations

import json
import math
import statistics as middle
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import combinations
from typing import Any

from ..board.chance import sentence as chance
from ..board.rows import (
    FORGOTTEN,
    GRID,
    MARKS,
    MORE_METRICS,
    OLD_TASK,
    ORACLE,
    PARTIAL,
    PUBLISHED,
    RETAINED,
    SCORE,
    TRANSDUCTIVE,
    Row,
    Section,
    in_percent,
)
from ..records.records import REFERENCE
from ..statistics.seed_summary import LEVEL, level_text, smallest_resolvable_difference

TIED, UNTESTED = "≈", "?"
DASH = "–"
"""In place of a number that a method cannot have."""
ASIDE_TITLES = {
    GRID: "Ablation: settings of a grid",
    PUBLISHED: "published (selection unknown)",
    ORACLE: "Oracle: chosen on the shifts themselves, never ranked",
    TRANSDUCTIVE: "Transductive: adapted to each set",
}


OWN_TITLES = {"macro_f1_labels": "macro F1", "worst_group_accuracy": "worst group"}
OWN_TEXTS = {
    "macro_f1_labels": "macro F1 (over the classes that occur as label)",
    "worst_group_accuracy": "accuracy of the worst group",
}


def metric_columns(section: Section) -> list[tuple[str, str]]:
    """(column, heading) of a table: ID, each shift, means, calibration, likelihood; accuracy beside other scores."""
    forgotten = [(FORGOTTEN, "forgotten")] if OLD_TASK in section.shifts else []

    def columns_of(score: str, accuracy: str, heading: str) -> list[tuple[str, str]]:
        if score == accuracy:
            return [(accuracy, heading)]
        return [(score, f"{heading} {OWN_TITLES[score.partition('/')[0]]}"), (accuracy, f"{heading} accuracy")]

    sets = (*section.iid, *section.shifts)
    shifts = (columns_of(section.column(name), f"acc/{name}", name) for name in sets)
    return [
        *columns_of(section.id_column, "acc_id", "ID"),
        *(column for columns in shifts for column in columns),
        *forgotten,
        (section.ood_column, "OOD mean" + (f" {ood_title(section)}" if section.ood_column == SCORE else "")),
        *((PARTIAL + name, f"OOD mean {name}") for name in section.means),
        *(column for metric in section.shown for column in _columns_of(metric)),
        *([(RETAINED, RETAINED)] if section.retention else []),
    ]


def _columns_of(metric: str) -> list[tuple[str, str]]:
    """(column, heading) of one of `Section.shown`."""
    if metric in MORE_METRICS:
        return [(f"{metric}_id", f"ID {MORE_METRICS[metric]}"), (f"{metric}_ood_mean", f"OOD {MORE_METRICS[metric]}")]
    return {
        "ece": [("ece_id", "ID ECE"), ("ece_ood_mean", "OOD ECE")],
        "ece_floor": [("ece_floor_ood_mean", "OOD ECE floor")],
        "nll": [("nll_id", "ID NLL")],
    }[metric]


def ood_title(section: Section) -> str:
    """The name of the score that the OOD mean is of; "score" where the shifts have different ones."""
    metrics = {section.score(name) for name in section.shifts} or {"accuracy"}
    return {"accuracy": "accuracy", **OWN_TITLES}[min(metrics)] if len(metrics) == 1 else "score"


def remarks(section: Section) -> list[str]:
    """What must be known of all its tables: doubts of weights and captions, other scores, chance, classes that lack."""
    doubts = (f"In some rows, {doubt}." for doubt in section.doubts)
    absent = (f"{sentence}." for sentence in section.absent)
    means = (f"OOD mean {name}: over {', '.join(sets)}." for name, sets in section.means.items())
    said = [judged(section), validity(section), chance(section), same_distribution(section), few_sources(section)]
    said += [retained(section)]
    return [*doubts, *filter(None, said), *means, *absent]


def validity(section: Section) -> str:
    """How a benchmark did whose order was put to a test, <benchmark>_validity.json of the reference; else empty."""
    asked = _validity(section.benchmark)
    if asked.get("version") != section.version:
        return ""
    failed = [f"{question} ({row['value']:g})" for question, row in asked["questions"].items() if not row["passed"]]
    passed = len(asked["questions"]) - len(failed)
    found = f"{passed} of {len(asked['questions'])} passed" + (f"; failed: {', '.join(failed)}" if failed else "")
    return f"Validity test, registered before any row was made and run once on the committed reference: {found}."


@cache
def _validity(benchmark: str) -> Mapping[str, Any]:
    path = REFERENCE / f"{benchmark}_validity.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def same_distribution(section: Section) -> str:
    """Which sets are no shift, where there are any; else empty."""
    if not section.iid:
        return ""
    names, verb = ", ".join(section.iid), "is" if len(section.iid) == 1 else "are"
    return f"{names} {verb} i.i.d. and in no OOD mean."


def few_sources(section: Section) -> str:
    """Which sets' images are no independent draws, where there are any; else empty."""
    names = [name for name in (section.id_set, *section.iid, *section.shifts) if name and name in section.clusters]
    if not names:
        return ""
    counts = ", ".join(f"{section.clusters[name]} of {name}" for name in names)
    return f"Tests take sources, whose images are alike, as units: {counts}."


def retained(section: Section) -> str:
    """What the column of retention is, where there is one; else empty."""
    if not section.retention:
        return ""
    sets = ", ".join(f"{name} {100 / classes:.3g}" for name, classes in section.retention.items())
    return (
        f"Retained: mean accuracy on other classes than those of the finetuning (chance: {sets}), by the head that a "
        "run's own text tower builds of their names; zero_shot is where it began. In no other mean, order or test. "
        f"{DASH}: a method whose image tower no longer matches its text tower, the pretrained one."
    )


def judged(section: Section) -> str:
    """What rows are ranked by, where it is not accuracy on every set; else empty."""
    names = [name for name in (section.id_set, *section.iid, *section.shifts) if name]
    if all(section.score(name) == "accuracy" for name in names):
        return ""
    texts = {**OWN_TEXTS, "accuracy": "accuracy"}
    of = {metric: ", ".join(name for name in names if section.score(name) == metric) for metric in texts}
    scores = "; ".join(f"{of[metric]} by {text}" for metric, text in texts.items() if of[metric])
    return (
        f"Sets are judged by what their protocols name: {scores}. The order of rows, the Pareto front and the OOD mean "
        "are by these scores; accuracy stands beside them."
    )


def empty_cells(section: Section, rows: Iterable[Row]) -> str:
    """How many cells of a table are empty, by column; empty if none is."""
    rows = list(rows)
    counts = {}
    for column, heading in metric_columns(section):
        # Nothing is forgotten before finetuning.
        asked = [row for row in rows if column != FORGOTTEN or not row.is_reference_method]
        if column == RETAINED:  # a dash stands there
            continue
        counts[heading] = sum(row.mean(column) is None for row in asked)
    if not any(counts.values()):
        return ""
    by_column = ", ".join(f"{heading} {count}" for heading, count in counts.items() if count)
    return f"Empty cells: {sum(counts.values())} of {len(rows) * len(counts)} ({by_column})."


def cell_text(row: Row, column: str, short: bool = False) -> str:
    """72.4 ± 0.3 for accuracies, three decimals for the rest; empty where nothing was measured."""
    mean, sd, _ = row.cell(column)
    if mean is None:
        return DASH if column == RETAINED else ""
    scale, digits = (100.0, 1) if in_percent(column) else (1.0, 3)
    text = f"{mean * scale:.{digits}f}"
    if sd is None or not math.isfinite(mean):
        return text
    gap = "±" if short else " ± "
    return f"{text}{gap}{sd * scale:.{digits}f}"


def marks_text(row: Row) -> str:
    return "".join(MARKS[kind] for kind in MARKS if kind in row.marks)


def footnotes(rows: Iterable[Row]) -> list[str]:
    """One line per mark and reason, naming the rows it holds for."""
    rows_of: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for kind in MARKS:
            if kind in row.marks:
                place = f"{row.name} on {row.backbone} ({row.provenance})"
                names = rows_of.setdefault((kind, row.marks[kind]), [])
                if place not in names:
                    names.append(place)
    order = list(MARKS)
    return [
        f"{MARKS[kind]} {reason}: {', '.join(rows_of[kind, reason])}."
        for kind, reason in sorted(rows_of, key=lambda key: (order.index(key[0]), key[1]))
    ]


def resolution(section: Section, rows: list[Row]) -> str:
    """A sentence on the OOD difference that the seeds of a table resolve; empty below two seeds or rows."""
    sizes, seeds = [], set()
    ranked = [row for row in rows if not row.is_reference_method and row.complete]
    tests = max(1, len(ranked) - 1)  # of a column, were there samples to test with
    for first, second in combinations(ranked, 2):
        a, b = (row.values.get(section.ood_column, {}) for row in (first, second))
        shared = sorted(a.keys() & b.keys())
        if len(shared) >= 2 and first.name != second.name:
            pair = [[values[seed] for seed in shared] for values in (a, b)]
            sizes.append(100 * smallest_resolvable_difference(pair[0], pair[1], level=LEVEL / tests))
            seeds.add(len(shared))
    if not sizes:
        return ""
    count = "–".join(str(n) for n in sorted({min(seeds), max(seeds)}))
    return (
        f"Smallest OOD-mean difference that {count} paired seeds resolve ({level_text(tests)}, 80 % power): "
        f"{middle.median(sizes):.1f} points, median over pairs of rows. It covers training randomness only; "
        "the choice of test images comes on top."
    )
