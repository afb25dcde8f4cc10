"""A board as CSV: wide, a line per row and rule, and long, a line per run, dataset and metric."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain, compress
from operator import mul
from typing import Any

from ..board.comparison import AgainstBest, Judge, sets_of
from ..board.rows import (
    ASIDE,
    FIXED,
    FORGOTTEN,
    MARKS,
    OLD_TASK,
    PARTIAL,
    PUBLISHED,
    RETAINED,
    SCORE,
    Row,
    Section,
    in_percent,
    natural,
    settings_text,
)
from ..statistics.setting_selection import RULES
from .cells import ASIDE_TITLES, metric_columns

Record = Mapping[str, Any]
UNITS = {
    "accuracy": ("accuracy_percent", 100),
    "macro_f1": ("macro_f1_percent", 100),
    "macro_f1_labels": ("macro_f1_labels_percent", 100),
    "worst_group_accuracy": ("worst_group_accuracy_percent", 100),
    "ece": ("ece_15_bins_global", 1),
    "nll": ("nll_nats", 1),
}
SHORT = {"worst_group_accuracy": "worst_group_acc"}
NOT_METRICS = ("role", "n", "n_expected", "classes")
_RUN = "\0"
"""Stands for the fields of a run while its lines are made; no field of a record has it."""


def wide(sections: Sequence[Section], judge: Judge) -> str:
    """Accuracies in percent, ECE in [0, 1], NLL in nats; in ranked tables also how far the best of a column is.

    Where sets are judged by another score than accuracy, columns of that score come after all others of their kind.
    """
    shifts = list(dict.fromkeys(name for section in sections for name in (*section.iid, *section.shifts)))
    extra = list(dict.fromkeys(name for section in sections for name in section.diagnostics))
    partial = list(dict.fromkeys(name for section in sections for name in section.means))
    metrics = [
        ("acc_id", "acc_id_percent"),
        *((f"acc/{name}", f"acc_{name}_percent") for name in shifts),
        *([(FORGOTTEN, "forgetting_rate_points")] if OLD_TASK in shifts else []),
        ("acc_ood_mean", "acc_ood_mean_percent"),
        *((PARTIAL + name, f"ood_mean_{name}_percent") for name in partial),
        ("ece_id", "ece_id_15_bins_global"),
        ("ece_ood_mean", "ece_ood_mean_15_bins_global"),
        ("ece_floor_id", "ece_floor_id_15_bins_global"),
        ("ece_floor_ood_mean", "ece_floor_ood_mean_15_bins_global"),
        ("nll_id", "nll_id_nats"),
        *((f"acc/{name}", f"acc_{name}_percent_diagnostic") for name in extra),
    ]
    measured = {column for section in sections for row in section.rows for column in row.values}
    worst = [column for column in measured if column.startswith("worst_group_accuracy/")]
    metrics += [
        (column, f"{SHORT['worst_group_accuracy']}_{column.partition('/')[2]}_percent") for column in sorted(worst)
    ]
    own_metrics = sorted({pair for section in sections for pair in section.own_metrics})
    scored = [(f"{metric}/{name}", f"{SHORT.get(metric, metric)}_{name}_percent") for name, metric in own_metrics]
    metrics += [pair for pair in scored if pair not in metrics]
    if any(section.ood_column == SCORE for section in sections):
        scored.append((SCORE, f"{SCORE}_percent"))
        metrics.append(scored[-1])
    chosen = dict.fromkeys(column for section in sections for column, _ in metric_columns(section))
    known = {column for column, _ in metrics}
    metrics += [(column, column) for column in chosen if column not in known and not column.startswith(RETAINED)]
    gaps = sorted((column for column in measured if column.startswith("gap/")), key=natural)
    metrics += [(column, column.replace("/", "_")) for column in gaps]
    kept = sorted({name for section in sections for name in section.retention})
    if kept:
        metrics.append((RETAINED, f"{RETAINED}_percent"))
        metrics += [(f"{RETAINED}/{name}", f"{RETAINED}_{name}_percent") for name in kept]
    tested = [("acc_id", "acc_id_percent"), *((f"acc/{name}", f"acc_{name}_percent") for name in shifts)]
    tested += [("acc_ood_mean", "acc_ood_mean_percent")]
    tested += [*((PARTIAL + name, f"ood_mean_{name}_percent") for name in partial), ("nll_id", "nll_id_nats"), *scored]
    tested += [(column, title) for column, title in metrics if column in ("ece_id", "ece_ood_mean")]

    few = any(section.shots for section in sections)
    names = [
        "benchmark",
        "benchmark_version",
        "recipe",
        *(["shots"] if few else []),
        "rule",
        "ranked",
        "backbone",
        "method",
        "method_version",
    ]
    names += ["setting", "selection", "provenance", "n_seeds", "seeds", "tuning", "trials", "trials_evaluated", "marks"]
    names += ["pareto_front", "empty_cells"]
    for _, title in metrics:
        names += [f"{title}_mean", f"{title}_sd", f"{title}_n"]
    for _, title in tested:
        names += [f"{title}_behind_best", f"{title}_p_holm"]
    lines: list[Sequence[str | int]] = [names]
    fronts: dict[tuple[int, int], set[int]] = {}  # (id of the section, id of its rows) -> ids of the rows on the front
    for section in sections:
        for rule, row, beside in _every_row(section):
            line: list[str | int] = [section.benchmark, section.version, section.recipe]
            line += [section.shots or "all"] if few else []
            line += [rule]
            ranked = rule in (*RULES, FIXED) and not row.is_reference_method
            line += ["yes" if ranked else "no", row.backbone, row.method, row.method_version]
            line += [settings_text(row.chosen), row.selection, row.provenance, len(row.seeds)]
            line += [" ".join(map(str, row.seeds)), " ".join(row.tuning), row.trials, row.evaluated]
            line += ["; ".join(f"{kind}: {row.marks[kind]}" for kind in MARKS if kind in row.marks)]
            place = (id(section), id(beside))
            if place not in fronts:
                fronts[place] = {id(other) for other in section.front(beside)}
            line += ["yes" if id(row) in fronts[place] else "no"]
            line += [sum(row.mean(c) is None for c, _ in metric_columns(section) if c != RETAINED)]
            for column, _ in metrics:
                mean, sd, n = row.cell(column)
                scale, digits = (100, 4) if in_percent(column) else (1, 6)
                line += ["" if x is None else f"{x * scale:.{digits}f}" for x in (mean, sd)] + [n]
            for column, _ in tested:
                scale, digits = (100, 4) if in_percent(column) else (1, 6)
                against = _against(section, beside, row, column, judge) if ranked else None
                line += [
                    "" if against is None else f"{against.gap * scale:.{digits}f}",
                    "" if against is None or against.p is None else f"{against.p:.3g}",
                ]
            lines.append(line)
    return _text(lines)


def _against(section: Section, beside: list[Row], row: Row, column: str, judge: Judge) -> AgainstBest | None:
    if sets_of(section, column) is None or not any(column == known for known, _ in metric_columns(section)):
        return None
    found = judge.verdict(section, beside, column)
    return next((against for i, against in found.against.items() if beside[i] is row), None)


def _every_row(section: Section) -> Iterable[tuple[str, Row, list[Row]]]:
    """(rule, row, its table): each row once for each rule that it is a result of; a fixed one is a result of none."""
    tables = {(rule, name): section.table(rule, name) for rule in RULES for name in section.backbones}
    for rule in RULES:
        for name in section.backbones:
            yield from ((rule, row, tables[rule, name]) for row in tables[rule, name] if row.kind != FIXED)
    for name in section.backbones:
        rows = tables[RULES[0], name]
        yield from ((FIXED, row, rows) for row in rows if row.kind == FIXED)
    for kind in ASIDE:
        rule = ASIDE_TITLES[kind] if kind == PUBLISHED else kind
        yield from ((rule, row, []) for row in section.aside(kind) if not row.is_reference_method)
    yield from (("", row, []) for row in section.unranked())


def long(entries: Iterable[tuple[str, Record]]) -> Iterator[str]:
    """Every number of every run: a line per run, dataset, point of its path (empty: the run itself) and metric.

    The text comes in parts, one a run: that of ten thousand is larger than a laptop's memory may be.

    Args:
        entries: (provenance, record); trials are left out.
    """
    names = ["benchmark", "benchmark_version", "recipe", "provenance", "run_id", "method", "method_version", "backbone"]
    names += ["seed", "rules", "tuning", "trials", "commit", "dirty", "dataset", "role", "n", "n_expected", "point"]
    yield _text([[*names, "metric", "value"]])
    for provenance, record in sorted(entries, key=_place):
        if record["kind"] == "run":
            yield _of_run(provenance, record)


def _of_run(provenance: str, record: Record) -> str:
    selection, environment = record["selection"], record["environment"]
    run = [record["benchmark"], record["benchmark_version"], record["recipe"], provenance, record["run_id"]]
    run += [record["method"], record["method_version"], record["backbone"], record["seed"]]
    run += [" ".join(selection["rules"]), selection["tuning"] or "", selection["trials"]]
    run += [environment.get("commit") or "", {True: "yes", False: "no", None: ""}[environment.get("dirty")]]
    path, parts = record.get("path"), []
    points = [(f"{path['parameter']}={point['value']:g}", point["sets"]) for point in path["points"]] if path else []
    for dataset, found in record["sets"].items():
        about = (dataset, found["role"], found["n"], found["n_expected"])
        parts += [((*about, point), values) for point, values in (("", found), *((p, at[dataset]) for p, at in points))]
    for dataset, found in record.get("retention", {}).items():
        parts.append(((dataset, "retention", found["n"], found["n_expected"], ""), found))
    pattern, kept, scales = _pattern(tuple((*about, *values) for about, values in parts))
    numbers = list(compress(chain.from_iterable(values.values() for _, values in parts), kept))
    if set(map(type, numbers)) == {float} and math.isfinite(sum(numbers)):
        text = pattern % tuple(map(mul, numbers, scales))
    else:
        ends = ((about, _metric(*metric)) for about, values in parts for metric in values.items())
        text = "".join(_head(*about) + end for about, end in ends if end)
    return text.replace(_RUN, _fields(*run, ""))


@lru_cache(maxsize=500)
def _pattern(layout: tuple[tuple[Any, ...], ...]) -> tuple[str, list[bool], list[int]]:
    """The lines of a run but for its finite numbers; which of its values these are, and their factors.

    Runs of one benchmark have the same sets, points and metrics: a few patterns serve ten thousand.

    Args:
        layout: the five fields of `_head` of each set and point, and behind them the names of what it holds.
    """
    text, kept, scales = [], [], []
    for *about, names in ((*part[:5], part[5:]) for part in layout):
        head = _head(*about).replace("%", "%%")
        for name, scale in map(_named, names):
            kept.append(bool(name))
            if name:
                text.append(f"{head}{name.replace('%', '%%')}%.10g\n")
                scales.append(scale)
    return "".join(text), kept, scales


def _head(dataset: str, role: str, n: int, n_expected: int, point: str) -> str:
    """The beginning of a line, with `_RUN` for the fields of its run."""
    return _RUN + _fields(dataset, role, n, n_expected, point, "")


def _place(entry: tuple[str, Record]) -> tuple:
    provenance, record = entry
    keys = ("benchmark", "benchmark_version", "recipe", "method", "method_version", "backbone", "seed", "run_id")
    return (*(record[key] for key in keys), provenance, record["finished"])


def _metric(metric: str, value: Any) -> str:
    """The end of a line: name with unit, and value; null is an infinite likelihood. Empty for what is no number."""
    name, scale = _named(metric)
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return f"{name}inf\n" if metric == "nll" and value is None else ""
    return f"{name}{value * scale:.10g}\n" if name and math.isfinite(value) else ""


@cache
def _named(metric: str) -> tuple[str, int]:
    """A metric's name with its unit and a comma behind it, and its factor; no name for what is none."""
    if metric in NOT_METRICS:
        return "", 1
    name, scale = UNITS.get(metric, (metric, 1))
    return _fields(name, ""), scale


@lru_cache(maxsize=1000, typed=True)
def _fields(*values: Any) -> str:
    """Some fields of a line, with the commas between them; a line repeats most of them from the one before."""
    return _text([values])[:-1]


def _text(lines: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
