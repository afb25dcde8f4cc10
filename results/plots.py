"""Figures from a board. Same board, same bytes of SVG; readable in grey: every method has its own marker."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from .atomic import write_atomic
from .board import FIXED, Row, Section
from .leaderboard import Board
from .statistics import RULES

# (colour, marker) of a method in every figure: colours differ in lightness too.
STYLES = {
    "zero_shot": ("#000000", "*"),
    "ft": ("#b35806", "o"),
    "lp_ft": ("#e08214", "s"),
    "wise_ft": ("#5aae61", "D"),
    "flyp": ("#2166ac", "^"),
    "ema": ("#8073ac", "v"),
    "tracer": ("#c51b7d", "P"),
    "lipsum_ft": ("#fdb863", "h"),
    "model_soup": ("#1b7837", "<"),
    "model_stock": ("#a6dba0", ">"),
    "flyp_wise": ("#4393c3", "d"),
    "flyp_wma": ("#92c5de", "p"),
    "l2_sp": ("#8c510a", "H"),
    "static_sd": ("#542788", "8"),
    "carot": ("#b2abd2", "X"),
    "tracer_ema_teacher": ("#de77ae", (4, 1, 0)),
    "tracer_static_teacher": ("#f1b6da", (5, 1, 36)),
}
SPARE = (
    ("#00838f", (6, 1, 0)),
    ("#6d4c41", (3, 1, 0)),
    ("#455a64", (8, 1, 0)),
    ("#9e9d24", (3, 1, 180)),
    ("#ad1457", (7, 1, 0)),
    ("#1b5e20", (4, 1, 45)),
)
FIXED_SIZE = 5.5  # of the marker of a fixed point; others have 8


def style(method: str, others: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method; a method without its own gets one by its place among `others`."""
    if method in STYLES:
        return STYLES[method]
    unknown = sorted(set(others) - set(STYLES))
    return SPARE[unknown.index(method) % len(SPARE)]


def plot_id_ood(board: Board, path: Path, rule: str = RULES[0]) -> list[Path]:
    """ID against OOD-mean accuracy, a panel per backbone: seed means with standard deviations, zero-shot as a star.

    Args:
        board: its first section that ranks is drawn; incomplete rows are left out. Where a method has local and
            reference rows, the local ones are filled and the reference ones hollow. A fixed point of a path has a
            smaller marker.
        path: file without or with suffix; .svg and .png are written beside each other.
        rule: selection rule whose rows are drawn.

    Returns:
        The two files.

    Raises:
        ValueError: the board has no such rows.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    section, panels = _panels(board, rule)
    methods = sorted({row.method for _, rows in panels for row in rows})
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    with matplotlib.rc_context({"svg.hashsalt": "robustft", "font.size": 9}):
        figure = Figure(figsize=(3.1 * columns + 0.4, 3.0 * lines + 0.8), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False)
        handles: dict[str, object] = {}
        for axis, (backbone, rows) in zip(axes.flat, panels, strict=False):
            _draw(axis, rows, methods, handles)
            axis.set_title(backbone, fontsize=10)
            axis.set_xlabel("ID accuracy (%)", fontsize=9)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        figure.supylabel(f"mean accuracy over {len(section.shifts)} shifts (%)", fontsize=9)
        names = sorted(handles, key=lambda name: (name != "zero_shot", name))
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="outside lower center",
            ncols=min(len(names), 2 * columns + 1),
            frameon=False,
        )
        return save_figure(figure, Path(path))


def _panels(board: Board, rule: str) -> tuple[Section, list[tuple[str, list[Row]]]]:
    for section in sorted(board.sections, key=lambda section: not section.ranks):
        panels = []
        for backbone in section.backbones:
            rows = [row for row in section.table(rule, backbone) if row.complete and _point(row)]
            if rows:
                panels.append((backbone, rows))
        if panels:
            return section, panels
    raise ValueError(f"figure: no complete rows of rule {rule} to draw; run a sweep first.")


def _point(row: Row) -> tuple[float, float] | None:
    x, y = row.cell("acc_id")[0], row.cell("acc_ood_mean")[0]
    return None if x is None or y is None else (100 * x, 100 * y)


def _draw(axis: object, rows: list[Row], methods: Sequence[str], handles: dict[str, object]) -> None:
    both = {row.provenance for row in rows} == {"local", "reference"}
    for row in rows:
        x, y = _point(row)
        colour, marker = style(row.method, methods)
        hollow = both and row.provenance == "reference" and not row.is_reference_method
        spread = [row.cell(column)[1] for column in ("acc_id", "acc_ood_mean")]
        bars = axis.errorbar(
            x,
            y,
            xerr=None if spread[0] is None else 100 * spread[0],
            yerr=None if spread[1] is None else 100 * spread[1],
            color=colour,
            marker=marker,
            markersize=13 if row.is_reference_method else FIXED_SIZE if row.kind == FIXED else 8,
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour if hollow else "white",  # keeps markers apart that lie on each other
            markeredgewidth=1.2 if hollow else 0.6,
            linestyle="none",
            elinewidth=0.9,
            capsize=2,
            zorder=3,
        )
        handles.setdefault(f"{row.title} (reference)" if hollow else row.title, bars)
    start = next((row for row in rows if row.is_reference_method), None)
    if start is not None:
        x, y = _point(start)
        # Right of the one line finetuning has gained on its own distribution; below the other it has lost robustness.
        axis.axvline(x, color="0.75", linewidth=0.8, zorder=1)
        axis.axhline(y, color="0.75", linewidth=0.8, zorder=1)
    axis.margins(0.12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def save_figure(figure: object, path: Path) -> list[Path]:
    """SVG and PNG without a date or a program's version in them."""
    stem = path.with_suffix("") if path.suffix in {".svg", ".png"} else path
    files = []
    for suffix, options in ((".svg", {"metadata": {"Date": None, "Creator": None}}), (".png", {"dpi": 160})):
        buffer = io.BytesIO()
        if suffix == ".png":
            options["metadata"] = {"Software": None}
        figure.savefig(buffer, format=suffix[1:], **options)
        file = stem.with_name(stem.name + suffix)
        write_atomic(file, buffer.getvalue())
        files.append(file)
    return files
