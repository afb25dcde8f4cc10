"""Figures of per-sample files: reliability diagrams, and what finetuning turned from right to wrong and back."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..board.comparison import flips
from ..board.per_sample import OutcomeError
from ..board.rows import REFERENCE_METHOD, Row, Section
from ..metrics.metrics import bin_edges
from ..records.predictions import PredictionError
from ..statistics.setting_selection import RULES
from .figure_data import Material, Missing, without_doubles
from .style import LINES, lacks, legend, methods_of, own_first, panels, style, tidy, unchosen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Columns = Mapping[str, np.ndarray]

LEAST_SHARE = 0.005
"""Bins with a smaller share of the samples are not drawn: their accuracy is noise."""


def draw_reliability(material: Material) -> Figure:
    """Accuracy against mean confidence in 15 equal-width bins, ID above and all shifts below, all seeds pooled.

    The panels of sets that the data do not have are left out.
    """
    tables = _tables(material)
    shown, left_out = _told_apart([rows for _, _, rows in tables])
    found = []
    beneath: set[str] = set()  # methods of a path, whose run may be another method's
    sides: list[tuple[str, tuple[str, ...]]] = []
    for section, backbone, rows in tables:
        sides = [("ID", (section.id_set,))] if section.id_set else []
        sides += [("all shifts", section.shifts)] if section.shifts else []
        curves = {}
        for row in rows:
            if row.method in shown and row.title == row.method:
                beneath |= {row.method} if row.evaluated else set()
                parts = [material.predictions(record, row.provenance) for record in material.records_of(row)]
                if parts and all(parts):
                    curves[row.method] = [
                        reliability([part[name] for part in parts for name in names if name in part])
                        for _, names in sides
                    ]
        if sides and set(curves) - {REFERENCE_METHOD}:
            found.append((backbone, curves))
    if not found:
        _check_chosen(material, "reliability")
        raise Missing(
            "figure reliability: needs the per-sample files of ranked runs, got none; "
            "run `robustft sweep BENCHMARK --method zero_shot,ft,tracer` first."
        )
    figure, axes = panels(len(sides) * len(found), len(found), height=2.8)
    methods, handles = methods_of(material.board), dict[str, Any]()
    for i, (title, _) in enumerate(sides):
        for axis, (backbone, curves) in zip(axes[i * len(found) :], found, strict=False):
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
            for method, pair in curves.items():
                colour, marker = style(method, methods)
                confidence, accuracy, _ = pair[i]
                size, width, order = (7, 2.8, 2.0) if method in beneath else (4.5, 1.1, 2.5)
                drawn = axis.plot(
                    confidence, accuracy, color=colour, marker=marker, markersize=size, linewidth=width, zorder=order
                )
                handles.setdefault(method, drawn[0])
            axis.set_xlim(0, 1.02)
            axis.set_ylim(0, 1.02)
            tidy(axis, backbone if i == 0 else "", "mean confidence" if i == len(sides) - 1 else "")
        axes[i * len(found)].set_ylabel(f"accuracy, {title}", fontsize=9)
    note = f"not drawn, so that lines can be told apart: {', '.join(left_out)}" if left_out else ""
    legend(figure, handles, 6, textwrap.fill(note, 34 * len(found) + 30))
    return figure


def _told_apart(tables: Sequence[Sequence[Row]]) -> tuple[set[str], list[str]]:
    """Methods whose lines one panel has room for, zero-shot among them, and those that it has none for.

    Local runs go first, then what stands highest in any of the tables.
    """
    places: dict[str, tuple[bool, int]] = {}
    for rows in tables:
        for i, row in enumerate(rows):
            if row.title == row.method and not row.is_reference_method:
                place = row.provenance != "local", i
                places[row.method] = min(place, places.get(row.method, place))
    order = sorted(places, key=lambda method: (places[method], method))
    return {REFERENCE_METHOD, *order[:LINES]}, sorted(order[LINES:])


def reliability(parts: Sequence[Columns], bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a reliability diagram, over all samples of all parts.

    Args:
        parts: columns label, prediction and confidence of some sets and seeds.
        bins: equal-width bins on [0, 1], those of the calibration error.

    Returns:
        (mean confidence, accuracy, share of samples) of each bin that holds at least `LEAST_SHARE` of the samples.
    """
    confidence = np.concatenate([part["confidence"] for part in parts]).astype(np.float64)
    right = np.concatenate([part["label"] == part["prediction"] for part in parts]).astype(np.float64)
    index = np.clip(np.searchsorted(bin_edges(bins), confidence.astype(np.float32), side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    kept = count >= max(1, LEAST_SHARE * len(confidence))
    sums = [np.bincount(index, weights=values, minlength=bins)[kept] for values in (confidence, right)]
    return sums[0] / count[kept], sums[1] / count[kept], count[kept] / len(confidence)


def draw_flips(material: Material) -> Figure:
    """Images that zero-shot had right and finetuning gets wrong, and the reverse, in percent, means over the shifts."""
    found, methods = [], methods_of(material.board)
    for section, backbone, rows in _tables(material):
        if not section.shifts:
            raise Missing(f"figure flips: shows what turned under a shift, and {lacks(section)}.")
        start = next((row for row in rows if row.is_reference_method), None)
        bars = {}
        for row in rows:
            if start is None or row.is_reference_method:
                continue
            percent = _mean_flips(material, section, row, start)
            if percent is not None:
                bars[row.title] = (row.method, *percent)
        if bars:
            found.append((backbone, bars))
    if not found:
        _check_chosen(material, "flips")
        raise Missing(
            f"figure flips: needs the per-sample files of {REFERENCE_METHOD} and of another ranked method, got none; "
            f"run `robustft sweep BENCHMARK --method {REFERENCE_METHOD},ft` first."
        )
    rows_of = max(len(bars) for _, bars in found)
    figure, axes = panels(len(found), height=0.7 + 0.22 * rows_of)
    handles: dict[str, Any] = {}
    reach = 1.3 * max(max(lost, won) for _, bars in found for _, lost, won in bars.values())
    for axis, (backbone, bars) in zip(axes, found, strict=True):
        order = sorted(bars, key=lambda title: bars[title][1], reverse=True)
        for y, title in enumerate(order):
            method, lost, won = bars[title]
            colour = style(method, methods)[0]
            handles["right before, now wrong"] = axis.barh(y, -lost, 0.7, color=colour, edgecolor=colour)
            handles["wrong before, now right"] = axis.barh(y, won, 0.7, color="white", edgecolor=colour, hatch="////")
            axis.annotate(f"{lost:.1f}", (-lost, y), xytext=(-2, 0), textcoords="offset points", **_SMALL, ha="right")
            axis.annotate(f"{won:.1f}", (won, y), xytext=(2, 0), textcoords="offset points", **_SMALL, ha="left")
        axis.axvline(0, color="0.3", linewidth=0.8)
        axis.set_yticks(range(len(order)), order)
        axis.set_xlim(-reach - 4, reach + 4)
        axis.set_xticks([])
        tidy(axis, backbone, "% of images, mean over shifts")
    from matplotlib.patches import Patch

    handles["right before, now wrong"] = Patch(facecolor="0.3", edgecolor="0.3")
    handles["wrong before, now right"] = Patch(facecolor="white", edgecolor="0.3", hatch="////")
    legend(figure, handles, 2)
    return figure


_SMALL = {"fontsize": 7, "va": "center"}


def _mean_flips(material: Material, section: Section, row: Row, start: Row) -> tuple[float, float] | None:
    """Percent that turned wrong and that turned right, means over the shifts; None where a per-sample file is missing.

    Raises:
        Missing: a file contradicts its record, or is damaged.
    """
    try:
        found = [flips(material.outcomes, section, row, start, name) for name in section.shifts]
    except (OutcomeError, PredictionError) as error:
        raise Missing(f"figure flips: {error}") from error
    turned = [one for one in found if one is not None]
    if not turned or len(turned) < len(found):
        return None
    lost, won = math.fsum(one.negative for one in turned), math.fsum(one.positive for one in turned)
    return 100 * lost / len(turned), 100 * won / len(turned)


def _check_chosen(material: Material, figure: str) -> None:
    reason = unchosen(material.board)
    if reason:
        raise Missing(f"figure {figure}: {reason.removeprefix('figure: ')}")


def _tables(material: Material) -> list[tuple[Section, str, list[Row]]]:
    """The default rule's complete rows of the first section that has any, per backbone."""
    for section in own_first(material.board):
        tables = [
            (section, backbone, without_doubles(row for row in section.table(RULES[0], backbone) if row.complete))
            for backbone in section.backbones
        ]
        if any(rows for _, _, rows in tables):
            return tables
    return []
