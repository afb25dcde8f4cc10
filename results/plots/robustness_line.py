"""The figure of effective robustness: finetuned models beside those that never had pretrained weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..board.rows import Section
from ..metrics.effective_robustness import LEAST_MODELS, LineError, LogitFit, check_span, fit
from .board_figures import ranked
from .figure_data import Material, Missing
from .style import dot, legend, methods_of, panels, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Accuracies that a logit axis names."""


def draw_robustness(material: Material) -> Figure:
    """ID against OOD-mean accuracy on logit axes, with models without pretraining and their line, a panel per backbone.

    Raises:
        Missing: no ranked rows, fewer than `LEAST_MODELS` models without pretraining on the same data, or such that do
            not span a range above chance on every shift.
    """
    section, found = ranked(material, "robustness")
    models = controls(material, section)
    if len(models) < LEAST_MODELS:
        raise Missing(
            f"figure robustness: needs {LEAST_MODELS} models without pretraining on the data of "
            f"{section.benchmark}, got {len(models)}; on digits run `robustft sweep scratch_line --method all`, "
            "elsewhere give a list with --baselines."
        )
    shifts = section.shifts
    points = [(model["id"], math.fsum(model[name] for name in shifts) / len(shifts)) for model in models]
    try:
        check_span(
            {name: [model[name] for model in models] for name in shifts},
            {name: 1 / count for name, count in section.classes.items()},
            {} if material.baselines else _images(material),
        )
        line = fit(*zip(*points, strict=True))
    except LineError as error:
        raise Missing(f"figure robustness: {str(error).removeprefix('effective robustness: ')}") from error
    methods = methods_of(material.board)
    figure, axes = panels(len(found), height=3.6)
    handles: dict[str, Any] = {}
    for axis, (backbone, rows) in zip(axes, found, strict=True):
        _draw_line(axis, points, line, handles)
        for row in rows:
            dot(axis, row, "acc_id", "acc_ood_mean", methods, handles, percent=1, smaller=1.4)
        _logit_axes(axis)
        tidy(axis, backbone, "ID accuracy (%)")
    figure.supylabel(f"mean accuracy over {len(shifts)} shifts (%)", fontsize=9)
    legend(figure, handles, 2 * min(3, len(found)) + 1)
    return figure


def controls(material: Material, section: Section) -> list[Mapping[str, float]]:
    """Accuracies of every model without pretraining on the same data, as fractions: "id" and each shift; by the first.

    Raises:
        Missing: a list that was given lacks a shift.
    """
    lacking = sorted({name for model in material.baselines for name in section.shifts if name not in model})
    if lacking:
        raise Missing(
            f"figure robustness: the list of models without pretraining needs a column for each shift of "
            f"{section.benchmark}, and has none with a number for {', '.join(lacking)}; add it, for a line is drawn "
            "only where they are above chance on every shift."
        )
    made = []
    for record in material.controls:
        sets = record["sets"]
        ids = [metrics["accuracy"] for metrics in sets.values() if metrics["role"] == "id"]
        if ids and all(name in sets for name in section.shifts):
            made.append({"id": ids[0], **{name: sets[name]["accuracy"] for name in section.shifts}})
    return sorted([*material.baselines, *made], key=lambda model: model["id"])


def _images(material: Material) -> dict[str, int]:
    """Set -> the fewest images that any of the runs saw of it."""
    found: dict[str, int] = {}
    for record in material.controls:
        for name, metrics in record["sets"].items():
            found[name] = min(found.get(name, metrics["n"]), metrics["n"])
    return found


def _draw_line(axis: Any, points: list[tuple[float, float]], line: LogitFit, handles: dict[str, Any]) -> None:
    marks = axis.plot(*zip(*points, strict=True), linestyle="none", marker="x", markersize=4, color="0.55", zorder=1)
    handles["without pretraining"] = marks[0]
    ends = ([value / 100 for value in values] for values in line.points())
    text = f"without pretraining: line\n(n = {line.models}, R² = {line.r2:.2f},\n"
    text += f"ID {100 * line.low:.0f} to {100 * line.high:.0f} %)"
    handles[text] = axis.plot(*ends, color="0.35", linewidth=1, linestyle="--", zorder=1)[0]


def _logit_axes(axis: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_xscale("logit")
    axis.set_yscale("logit")
    axis.margins(0.06)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(FixedLocator(TICKS))
        side.set_minor_locator(NullLocator())
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}"))
