"""Figures of a board's rows: calibration, paths, cost and ablations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..board.grouping import Record
from ..board.oracle import at_points
from ..board.rows import FIXED, GRID, Row, Section, natural
from ..published import rows as rows_module
from ..statistics.seed_summary import mean_sd
from ..statistics.setting_selection import RULES
from .figure_data import Material, Missing, without_doubles
from .style import (
    dot,
    draw_start,
    lacks,
    legend,
    methods_of,
    own_first,
    panels,
    ranked_panels,
    score_titles,
    style,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA_LABELS = {0: ((8, -9), "left"), 0.5: ((-6, 9), "right"), 1: ((-8, -3), "right")}
"""Where the values of a path are written: offset in points, and side."""
PAPER = "(paper)"
CLOCK = "clock"
Point = tuple[Any, list[float], list[float]]
"""A value of a grid, with means and deviations of the columns."""


def draw_calibration(material: Material) -> Figure:
    """Accuracy against calibration error, ID above and OOD below, a panel per backbone; seed means with deviations."""
    section, found = ranked(material, "calibration", both=False)
    methods = methods_of(material.board)
    sides = [("ID", "acc_id", "ece_id")] if section.id_set else []
    sides += [("OOD", "acc_ood_mean", "ece_ood_mean")] if section.shifts else []
    figure, axes = panels(len(sides) * len(found), len(found), height=3.2)
    handles: dict[str, Any] = {}
    for i, (title, accuracy, error) in enumerate(sides):
        for axis, (backbone, rows) in zip(axes[i * len(found) :], found, strict=False):
            for row in rows:
                if not row.is_reference_method:
                    dot(axis, row, accuracy, error, methods, handles)
            draw_start(axis, rows, accuracy, error, methods, handles)
            tidy(axis, backbone if i == 0 else "", f"{title} accuracy (%)")
        over = "" if title == "ID" else " (mean over shifts)"
        axes[i * len(found)].set_ylabel(f"{title} ECE{over}", fontsize=9)
    legend(figure, handles, 2 * min(3, len(found)) + 1)
    return figure


def draw_paths(material: Material) -> Figure:
    """ID score against OOD mean along the whole line between zero-shot and finetuned weights, means over seeds."""
    lines: dict[str, list[tuple[str, list[tuple[float, float, float]]]]] = {}
    section = _first_section(material, "paths")
    for backbone in section.backbones:
        for method in sorted({row.method for row in section.rows if row.backbone == backbone}):
            _, records = material.chosen(section, backbone, method, lambda record: bool(record.get("path")))
            points = _along(section, records)
            if points:
                lines.setdefault(backbone, []).append((method, points))
    if not lines:
        if lacks(section):
            raise Missing(f"figure paths: needs an ID score and an OOD mean, and {lacks(section)}.")
        raise Missing(
            "figure paths: needs a finished run of a method with a path, got none; "
            "run `robustft sweep BENCHMARK --method wise_ft`."
        )
    others = methods_of(material.board)
    figure, axes = panels(len(lines))
    handles: dict[str, Any] = {}
    for axis, (backbone, found) in zip(axes, lines.items(), strict=True):
        rows = [r for r in without_doubles(section.table(RULES[0], backbone)) if r.complete and r.kind != FIXED]
        for row in rows:
            if row.method not in {method for method, _ in found}:
                dot(axis, row, section.id_column, section.ood_column, others, handles)
        for i, (method, points) in enumerate(found):
            colour, marker = style(method, others)
            xs, ys = [100 * x for _, x, _ in points], [100 * y for _, _, y in points]
            drawn = axis.plot(xs, ys, color=colour, linewidth=1.4, linestyle="-" if i == 0 else "--", zorder=2)
            for (value, _, _), x, y in zip(points, xs, ys, strict=True):
                size = 7 if value in (0, 0.5, 1) else 3.5
                axis.plot(x, y, marker=marker, color=colour, markersize=size, markeredgecolor="white", zorder=3)
            if i == 0:
                for (value, _, _), x, y in zip(points, xs, ys, strict=True):
                    if value in ALPHA_LABELS:
                        place, side = ALPHA_LABELS[value]
                        options = {"xytext": place, "textcoords": "offset points", "fontsize": 7, "ha": side}
                        axis.annotate(f"α = {value:g}", (x, y), **options)
            handles[f"{method} (path)"] = drawn[0]
        axis.margins(0.14)
        tidy(axis, backbone, score_titles(section)[0])
    figure.supylabel(score_titles(section)[1], fontsize=9)
    legend(figure, handles, 2 * min(3, len(lines)) + 1)
    return figure


def _along(section: Section, records: Sequence[Record]) -> list[tuple[float, float, float]]:
    """(value, ID score, OOD mean) at the points that all records share; none where earlier records lack a score."""
    values: dict[float, list[tuple[float, float]]] = {}
    for record in records:
        for value, (id_score, ood) in at_points(record, dict(section.own_metrics)):
            if id_score is None or ood is None:
                return []
            values.setdefault(value, []).append((id_score, ood))
    return [
        (value, math.fsum(x for x, _ in found) / len(found), math.fsum(y for _, y in found) / len(found))
        for value, found in sorted(values.items())
        if len(found) == len(records)
    ]


def draw_cost(material: Material) -> Figure:
    """Training time of 1,000 images, as a multiple of FT's on the same machine, against the OOD mean.

    Only records of one kind of machine (device, processor, threads) are compared: the one with most of them.
    """
    section, found = ranked(material, "cost")
    machines: dict[tuple[str, ...], int] = {}
    for _, record in material.entries():
        machines[_machine(record)] = machines.get(_machine(record), 0) + 1
    machine = max(sorted(machines), key=machines.__getitem__)
    drawn: list[tuple[str, list[tuple[Row, float]]]] = []
    for backbone, rows in found:
        times: list[tuple[Row, float]] = []
        for row in rows:
            seconds = [_time_of(record) for record in material.records_of(row) if _machine(record) == machine]
            measured = [time for time in seconds if time]
            if measured and row.kind != FIXED:
                times.append((row, mean_sd(measured)[0]))
        base = next((time for row, time in times if row.method == "ft"), None)
        if base is not None and len(times) > 1:
            drawn.append((backbone, [(row, time / base) for row, time in times]))
    if not drawn:
        raise Missing(
            "figure cost: needs the training time of ft and of another method from one machine, got none; "
            "run `robustft sweep BENCHMARK --method ft,flyp`."
        )
    methods = methods_of(material.board)
    figure, axes = panels(len(drawn))
    handles: dict[str, Any] = {}
    for axis, (backbone, times) in zip(axes, drawn, strict=True):
        for row, ratio in times:
            mean, sd, _ = row.cell(section.ood_column)
            if mean is None:
                continue  # `ranked` gives none such
            colour, marker = style(row.method, methods)
            handles.setdefault(
                row.title,
                axis.errorbar(
                    ratio,
                    100 * mean,
                    yerr=None if sd is None else 100 * sd,
                    color=colour,
                    marker=marker,
                    markersize=8,
                    markeredgecolor="white",
                    linestyle="none",
                    elinewidth=0.9,
                    capsize=2,
                ),
            )
        axis.margins(0.15)
        tidy(axis, backbone, "training time an image (FT = 1)")
    figure.supylabel(score_titles(section)[1], fontsize=9)
    legend(figure, handles, 2 * min(3, len(drawn)) + 1)
    return figure


def _machine(record: Record) -> tuple[str, ...]:
    environment = record["environment"]
    return tuple(str(environment.get(key, "unknown")) for key in ("device", "cpu", "threads"))


def _time_of(record: Record) -> float | None:
    speed = record["cost"].get("images_per_second")
    return 1 / speed if speed else None


def draw_ablation(material: Material) -> Figure:
    """Accuracy and calibration at every value of a study's grid, a row of panels per study and one for the paper's."""
    studies = [(section, *study) for section in material.board.sections for study in _studies(section)]
    if not studies:
        raise Missing(
            "figure ablation: needs finished runs of a study's grid, got none; "
            "run `robustft sweep ablation-beta --method tracer`."
        )
    columns = {"acc_id": "ID accuracy (%)", "acc_ood_mean": "OOD mean accuracy (%)", "ece_ood_mean": "OOD ECE"}
    every = [row for _, _, _, rows in studies for row in rows]
    columns = {column: label for column, label in columns.items() if any(row.cell(column)[2] for row in every)}
    if not columns:
        raise Missing(f"figure ablation: needs an ID score or an OOD mean, and {lacks(studies[0][0])}.")
    lines: list[tuple[str, str, list[tuple[str, list[Point]]]]] = []
    for section, method, key, rows in studies:
        several = len({other for of, other, *_ in studies if of is section}) > 1
        for clock, of_clock in _by_clock(rows).items():
            series = []
            for backbone in section.backbones:
                mine = sorted((row for row in of_clock if row.backbone == backbone), key=lambda row: _order(row.varied))
                points = [(_value(row.varied), *_cells(row, list(columns))) for row in mine]
                if points:
                    series.append((backbone, points))
            where = f"{section.benchmark}, {method}{clock}" if several else f"{section.benchmark}{clock}"
            lines.append((where, _without_clock(key), series))
        printed = _paper(_without_clock(key), list(columns), method)
        if printed:
            lines.append(("paper, ImageNet", _without_clock(key), [(f"ViT-B-16 {PAPER}", printed)]))
    words = [point[0] for _, _, series in lines for _, points in series for point in points if type(point[0]) is str]
    wide = len(columns)
    figure, axes = panels(wide * len(lines), wide, height=2.4 + 0.05 * max(map(len, words), default=0))
    handles: dict[str, Any] = {}
    for i, (where, key, series) in enumerate(lines):
        for j, label in enumerate(columns.values()):
            axis = axes[wide * i + j]
            _draw_series(axis, series, j, handles)
            switches = set(key.split("+")) <= set(rows_module.SWITCHES)
            varied = "terms that are on" if switches else key.replace("+", ", ")
            tidy(axis, where if j == wide // 2 else "", varied, label)
    legend(figure, handles, 4)
    return figure


def _draw_series(axis: Any, series: Sequence[tuple[str, list]], column: int, handles: dict[str, Any]) -> None:
    shades = ("#000000", "#5e5e5e", "#8c8c8c", "#b0b0b0")
    names = list(dict.fromkeys(point[0] for _, points in series for point in points))
    numeric = all(isinstance(name, (int, float)) and not isinstance(name, bool) for name in names)
    for k, (title, points) in enumerate(series):
        aside = 0.14 * (k - (len(series) - 1) / 2)  # of other backbones at the same place
        xs = [point[0] if numeric else names.index(point[0]) + aside for point in points]
        handles[title] = axis.errorbar(
            xs,
            [point[1][column] for point in points],
            yerr=[point[2][column] for point in points],
            color=shades[k % len(shades)],
            marker="os^D"[k % 4],
            markerfacecolor="white" if title.endswith(PAPER) else None,
            markersize=5,
            linestyle=("-", "--", ":", "-.")[k % 4] if numeric else "none",
            linewidth=1.1,
            elinewidth=0.8,
            capsize=2,
        )
    if not numeric:
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        axis.set_xticks(range(len(names)), [str(name) for name in names], **turned)
    elif min(names) > 0 and max(names) / min(names) >= 20:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # its own writes formulas
        axis.xaxis.set_minor_formatter(NullFormatter())


def _studies(section: Section) -> list[tuple[str, str, list[Row]]]:
    """(method, what a grid varies of it, its rows)."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in section.aside(GRID):
        if row.varied:
            found.setdefault((row.method, "+".join(sorted(row.varied))), []).append(row)
    return [(*key, rows) for key, rows in found.items() if len({_value(row.varied) for row in rows}) > 1]


def _by_clock(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The teacher's clock, as words behind a title -> its rows; one entry where a study does not vary it."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f", clock={row.varied[CLOCK]}" if CLOCK in row.varied else "", []).append(row)
    return dict(sorted(found.items()))


def _without_clock(key: str) -> str:
    return "+".join(name for name in key.split("+") if name != CLOCK)


def _value(varied: Mapping[str, Any]) -> Any:
    """The varied value, the clock aside; of several, text that names the terms that are on, or all."""
    varied = {name: varied[name] for name in sorted(varied) if name != CLOCK}
    if len(varied) == 1:
        return next(iter(varied.values()))
    if all(name in rows_module.SWITCHES for name in varied):
        return " ".join(name.removesuffix("_weight") for name, value in varied.items() if value) or "none"
    return ", ".join(f"{name}={value}" for name, value in varied.items())


def _order(varied: Mapping[str, Any]) -> list[Any]:
    return [(isinstance(v, str), v if isinstance(v, (int, float)) else 0, natural(str(v))) for v in varied.values()]


def _cells(row: Row, columns: Sequence[str]) -> tuple[list[float], list[float]]:
    means, sds = [], []
    for column in columns:
        mean, sd, _ = row.cell(column)
        scale = 100 if column.startswith("acc") else 1
        means.append(math.nan if mean is None else scale * mean)
        sds.append(0.0 if sd is None else scale * sd)
    return means, sds


def _paper(key: str, columns: Sequence[str], method: str = "tracer") -> list[Point]:
    """The paper's ablation of a key of a method, ViT-B/16 on ImageNet, in the unit of `_cells`."""
    found = [row for row in rows_module.ablations() if row.method == method and "+".join(sorted(row.varied)) == key]
    points = []
    for row in sorted(found, key=lambda row: _order(dict(sorted(row.varied.items())))):
        scales = [100 if column.startswith("acc") else 1 for column in columns]
        means = [round(n * row.cells[c][0], row.digits[c]) for n, c in zip(scales, columns, strict=True)]
        points.append((_value(row.varied), means, [0.0] * len(columns)))
    return points


def ranked(material: Material, figure: str, both: bool = True) -> tuple[Section, list[tuple[str, list[Row]]]]:
    """The rows of the default rule; a reference row only where there is no local one. `both` as in `ranked_panels`."""
    try:
        section, found = ranked_panels(material.board, both=both)
    except ValueError as error:
        raise Missing(f"figure {figure}: {str(error).removeprefix('figure: ')}") from None
    return section, [(backbone, without_doubles(rows)) for backbone, rows in found]


def _first_section(material: Material, figure: str) -> Section:
    sections = own_first(material.board)
    if not sections:
        raise Missing(f"figure {figure}: needs finished runs, got none; run `robustft sweep BENCHMARK` first.")
    return sections[0]
