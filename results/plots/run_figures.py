"""Figures of what happened inside runs: teacher and student over the steps, layers, the forgetting study."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..board.grouping import Record
from ..board.rows import OLD_TASK, REFERENCE_METHOD, Section
from ..statistics.seed_summary import mean_sd
from ..statistics.setting_selection import RULES
from .figure_data import Material, Missing
from .style import LINES, legend, methods_of, own_first, panels, style, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = Path(__file__).parents[1] / "published"
TEACHERS = {"tracer": ("WMA", "-"), "tracer_ema_teacher": ("EMA", "--")}
"""Methods with one loss and two teachers, as in the paper's Figures 5 and 6."""


def draw_dynamics(material: Material) -> Figure:
    """Gap, divergence, entropy and confidence of an EMA and a WMA teacher with the same loss, at quarters of a run."""
    found: list[tuple[str, str, list[Record]]] = []
    for section in own_first(material.board):
        for backbone in section.backbones:
            both = [
                (method, material.chosen(section, backbone, method, lambda record: bool(_dynamics(record)))[1])
                for method in TEACHERS
            ]
            if all(records for _, records in both):
                found += [(backbone, method, records) for method, records in both]
        if found:
            break
    if not found:
        raise Missing(
            "figure dynamics: needs finished runs of tracer and tracer_ema_teacher on one backbone, with what was "
            "measured of their teachers; run `robustft sweep BENCHMARK --method tracer,tracer_ema_teacher`."
        )
    backbones = list(dict.fromkeys(backbone for backbone, _, _ in found))
    figure, axes = panels(4 * len(backbones), 4, width=2.7, height=2.4)
    handles: dict[str, Any] = {}
    titles = ("gap", "KL(teacher ‖ student), nats", "matching entropy, nats", "confidence")
    names = (
        ("gap",),
        ("kl_teacher_student",),
        ("teacher_entropy", "student_entropy"),
        ("teacher_confidence", "student_confidence"),
    )
    for i, backbone in enumerate(backbones):
        for j, title in enumerate(titles):
            axis = axes[4 * i + j]
            for _, method, records in (entry for entry in found if entry[0] == backbone):
                for name in names[j]:
                    _draw_measured(axis, method, records, name, handles)
            axis.set_xticks([25, 50, 75, 100])
            axis.margins(y=0.12)
            if j < 2:
                axis.set_ylim(bottom=0)
            tidy(axis, title if i == 0 else "", "steps done (%)" if i == len(backbones) - 1 else "")
        axes[4 * i].set_ylabel(backbone, fontsize=10)
    legend(figure, handles, 4)
    return figure


def _draw_measured(axis: Any, method: str, records: Sequence[Record], name: str, handles: dict[str, Any]) -> None:
    values: dict[float, list[float]] = {}
    for record in records:
        for row in _dynamics(record):
            if row.get(name) is not None:
                values.setdefault(100 * row["fraction"], []).append(row[name])
    if not values:
        return
    means = [mean_sd(values[x]) for x in sorted(values)]
    colour, marker = style(method, ())
    kind, line = TEACHERS[method]
    student = name.startswith("student")
    what = "student" if student else "teacher"
    drawn = axis.errorbar(
        sorted(values),
        [mean for mean, _ in means],
        yerr=[sd or 0.0 for _, sd in means],
        color=colour,
        marker=marker,
        markersize=6,
        markerfacecolor="white" if student else colour,
        linestyle=line,
        linewidth=1.0 if student else 1.5,
        elinewidth=0.8,
        capsize=2,
    )
    handles.setdefault(f"{method}: {what}, {kind}" if what == "teacher" else f"{method}: student", drawn)


def _dynamics(record: Record) -> list[dict[str, Any]]:
    return record.get("info", {}).get("dynamics", [])


def draw_layers(material: Material) -> Figure:
    """Linear CKA and SVCCA of each layer with the pretrained model, means over seeds; the paper's Figure 4 below."""
    lines: list[tuple[str, list[str], dict[str, dict[str, list[float]]]]] = []
    for section in own_first(material.board):
        for backbone in section.backbones:
            series, names = {}, []
            for method in layered(material, section, backbone):
                _, records = material.chosen(section, backbone, method, lambda record: bool(material.layers(record)))
                if records:
                    per_run = [material.layers(record) for record in records]
                    names = [row["layer"] for row in per_run[0]]
                    series[method] = {
                        key: [sum(run[i][key] for run in per_run) / len(per_run) for i in range(len(names))]
                        for key in ("cka", "svcca")
                    }
            if series:
                lines.append((backbone, names, series))
        if lines:
            break
    if not lines:
        raise Missing(
            "figure layers: needs the final weights of a local run that trained, got none; "
            "run `robustft sweep BENCHMARK --method ft,tracer`."
        )
    methods = methods_of(material.board)
    lines.append(_paper_layers())
    figure, axes = panels(2 * len(lines), 2, width=4.2, height=2.3)
    handles: dict[str, Any] = {}
    for i, (title, names, series) in enumerate(lines):
        lowest = min(value for keys in series.values() for values in keys.values() for value in values)
        for j, (key, label) in enumerate((("cka", "linear CKA"), ("svcca", "SVCCA"))):
            axis = axes[2 * i + j]
            for method, keys in series.items():
                colour, marker = style(method, methods)
                drawn = axis.plot(
                    range(len(names)), keys[key], color=colour, marker=marker, markersize=5, linewidth=1.2
                )
                handles.setdefault(method, drawn[0])
            axis.set_ylim(max(0.0, lowest - 0.05), 1.02)
            axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
            tidy(axis, title, "", label)
            axis.tick_params(axis="x", labelsize=7)
    legend(figure, handles, 6)
    return figure


def layered(material: Material, section: Section, backbone: str) -> list[str]:
    """Methods that are compared layer by layer: those with local runs, as they stand in the table, `LINES` at most.

    What reads finished runs and trains nothing itself is left out: its record says that it saw no image.
    """
    local = [row for row in section.rows if row.backbone == backbone and row.provenance == "local"]
    trained = {
        row.method
        for row in local
        if any(record["cost"].get("images_seen") != 0 for record in material.records_of(row))
    }
    order = (row.method for row in (*section.table(RULES[0], backbone), *local))
    return [m for m in dict.fromkeys(order) if m in trained and m != REFERENCE_METHOD][:LINES]


def _paper_layers() -> tuple[str, list[str], dict[str, dict[str, list[float]]]]:
    series: dict[str, dict[str, list[float]]] = {"ft": {}, "tracer": {}}
    names: list[str] = []
    for key in ("cka", "svcca"):
        rows = _read(f"figure4_{key}.csv")
        names = list(dict.fromkeys(row["layer"] for row in rows))
        for method in series:
            mine = [row for row in rows if row["comparison"] == f"pretrained_vs_{method}"]
            series[method][key] = [float(row["similarity"]) for row in mine]
    return "paper: ViT-B/16 on ImageNet, read off its Figure 4", names, series


def draw_forgetting(material: Material) -> Figure:
    """Accuracy on the new and on the old task, a pair of bars per method, with the paper's Figure 3 beside it."""
    section = next((section for section in material.board.sections if OLD_TASK in section.shifts), None)
    bars = [] if section is None else _bars(material, section)
    if section is None or not any(bar.method != REFERENCE_METHOD for bar in bars):
        raise Missing(
            "figure forgetting: needs finished runs of the forgetting study, got none; "
            "run `robustft sweep forgetting --method all`."
        )
    names = {"pretrained": "zero_shot", "dynamic_sd": "tracer", "ft": "flyp"}
    paper = [
        _Bar(
            names.get(row["method"], row["method"]),
            float(row["finetune_task_accuracy_percent"]),
            float(row["pretrain_task_accuracy_percent"]),
        )
        for row in _read("figure3_toy.csv")
    ]
    figure, axes = panels(2, 2, width=4.4, height=3.2)
    handles: dict[str, Any] = {}
    for axis, title, values in zip(axes, (section.benchmark, "paper, Figure 3"), (bars, paper), strict=True):
        _draw_bars(axis, values, methods_of(material.board), handles)
        tidy(axis, title, "", "accuracy (%)" if axis is axes[0] else "")
    legend(figure, handles, 2)
    return figure


@dataclass(frozen=True)
class _Bar:
    """Accuracies of a method on the new and on the old task, in percent, with deviations."""

    method: str
    new: float
    old: float
    new_sd: float = 0.0
    old_sd: float = 0.0


def _bars(material: Material, section: Section) -> list[_Bar]:
    """Zero-shot first, then by name; of methods that have both accuracies."""
    found = []
    for method in sorted({row.method for row in section.rows}, key=lambda name: (name != REFERENCE_METHOD, name)):
        row, _ = material.chosen(section, section.backbones[0], method, lambda record: True)
        if row is None:
            continue
        (new, new_sd, _), (old, old_sd, _) = row.cell("acc_id"), row.cell(f"acc/{OLD_TASK}")
        if new is not None and old is not None:
            found.append(_Bar(method, 100 * new, 100 * old, 100 * (new_sd or 0), 100 * (old_sd or 0)))
    return found


def _draw_bars(axis: Any, bars: Sequence[_Bar], others: Sequence[str], handles: dict[str, Any]) -> None:
    start = next((bar.old for bar in bars if bar.method == REFERENCE_METHOD), None)
    methods = [bar.method for bar in bars]
    for i, bar in enumerate(bars):
        colour = style(bar.method, others)[0]
        error = {"error_kw": {"elinewidth": 0.8}, "capsize": 2}
        white = {"color": "white", "edgecolor": colour, "hatch": "////"}
        axis.bar(i - 0.2, bar.new, 0.38, yerr=bar.new_sd or None, **white, **error)
        axis.bar(i + 0.2, bar.old, 0.38, yerr=bar.old_sd or None, color=colour, edgecolor=colour, **error)
        if start is not None and bar.method != REFERENCE_METHOD:
            change = f"{bar.old - start:+.1f}".replace("-", "−")
            options = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 7}
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}  # keeps the dotted line off the number
            axis.annotate(change, (i + 0.2, bar.old + bar.old_sd), bbox=paper, **options)
    if start is not None:
        axis.axhline(start, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    from matplotlib.patches import Patch

    handles["new task (finetuned on)"] = Patch(facecolor="white", edgecolor="0.3", hatch="////")
    handles["old task (pretrained on), with its change"] = Patch(facecolor="0.3", edgecolor="0.3")
    axis.set_ylim(0, 108)
    axis.set_xticks(range(len(bars)), methods, rotation=40, ha="right", rotation_mode="anchor")


def _read(name: str) -> list[dict[str, str]]:
    with (PUBLISHED / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
