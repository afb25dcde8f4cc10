"""What all figures share, and the first of them: ID against OOD accuracy.

Same records, same bytes of SVG and PNG. Readable in grey: every method has its own marker beside its colour, and both
are the same in every figure.
"""

from __future__ import annotations

import contextlib
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..board.rows import FIXED, ORACLE, REFERENCE_METHOD, Row, Section, in_percent
from ..records.atomic import write_atomic
from ..statistics.setting_selection import RULES
from ..tables.cells import OWN_TITLES, ood_title
from ..tables.leaderboard import Board

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Marker = str | tuple[int, int, int]
"""As matplotlib names it, or a star of so many points: (points, 1, angle)."""
# (colour, marker) of a method in every figure. Each colour has a contrast of 3 with white and with the dark page, which
# leaves lightness no room to tell methods apart: in grey, markers and names do. Zero-shot has the page's ink.
STYLES: Mapping[str, tuple[str, Marker]] = {
    "zero_shot": ("#000000", "*"),
    "ft": ("#b35806", "o"),
    "lp_ft": ("#d97b12", "s"),
    "wise_ft": ("#4aa24f", "D"),
    "flyp": ("#2a6fbb", "^"),
    "ema": ("#8073ac", "v"),
    "tracer": ("#c51b7d", "P"),
    "lipsum_ft": ("#a98a06", "h"),
    "model_soup": ("#1b7837", "<"),
    "model_stock": ("#83961f", ">"),
    "flyp_wise": ("#4393c3", "d"),
    "flyp_wma": ("#1f9e96", "p"),
    "l2_sp": ("#b04a45", "H"),
    "static_sd": ("#7e4fc2", "8"),
    "carot": ("#9d87d2", "X"),
    "tracer_ema_teacher": ("#dc6aaa", (4, 1, 0)),
    "tracer_static_teacher": ("#e2607c", (5, 1, 36)),
}
SPARE: tuple[tuple[str, Marker], ...] = (
    ("#007c8a", (6, 1, 0)),
    ("#8d6b5c", (3, 1, 0)),
    ("#607d8b", (8, 1, 0)),
    ("#75760f", (3, 1, 180)),
    ("#d43f3a", (7, 1, 0)),
    ("#6a8f73", (4, 1, 45)),
)
"""Of methods that are not in STYLES, whoever wrote them."""
LINES = 6
"""Methods whose lines can still be told apart in one panel, beside zero-shot's."""
# Same bytes each time, and a method's name is no formula.
STYLE: dict[Any, Any] = {"svg.hashsalt": "robustft", "font.size": 9, "text.parse_math": False}
SIZE, FIXED_SIZE, START_SIZE = 7, 5, 13  # of markers: a row's, a fixed point's, zero-shot's
HOLLOW = " (reference)"
MANY_LINES = 8  # of a legend: for more a figure becomes higher
BELOW = 1.5  # times as large is a marker that lies below another


def style(method: str, others: Iterable[str]) -> tuple[str, Marker]:
    """Colour and marker of a method: its own, or, of a method that STYLES does not know, one of SPARE.

    Args:
        others: every method of the benchmark, whether a figure shows it or not, so that all figures agree. The name
            chooses, and gives way where another took the same, so that a new method changes few of the old.
    """
    if method in STYLES:
        return STYLES[method]
    looks = [(SPARE[i][0], SPARE[(i + ring) % len(SPARE)][1]) for ring in range(len(SPARE)) for i in range(len(SPARE))]
    chosen: dict[int, str] = {}
    for name in sorted({*others, method} - STYLES.keys()):
        first, count = zlib.crc32(name.encode()), len(SPARE)
        order = [ring + (first + i) % count for ring in range(0, len(looks), count) for i in range(count)]
        place = next((place for place in order if place not in chosen), order[0])
        chosen[place] = name
        if name == method:
            break
    return looks[place]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Figures are made and encoded inside this."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE):
        yield


def empty(inches: tuple[float, float]) -> Figure:
    """A figure whose panels are laid out when it is saved.

    Before it saves, matplotlib draws once with a renderer that puts nothing down, for the layout alone; here that pass
    is the layout alone.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class LaidOut(Figure):
        def draw(self, renderer: Any) -> None:
            engine = self.get_layout_engine()
            if isinstance(engine, ConstrainedLayoutEngine) and self.canvas.is_saving():
                engine.execute(self)
            else:  # then another engine stands in its place, and it is drawn
                super().draw(renderer)

    return LaidOut(figsize=inches, layout="constrained")


def panels(count: int, columns: int = 3, width: float = 3.1, height: float = 3.0) -> tuple[Figure, list[Any]]:
    """A figure with `count` panels, at most `columns` side by side."""
    columns = min(columns, count)
    width = max(width, 4.6) if columns == 1 else width  # room for the legend
    lines = math.ceil(count / columns)
    figure = empty((width * columns + 0.4, height * lines + 0.8))
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def tidy(axis: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Title and axis labels in the one size, and no box around the panel."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def legend(figure: Figure, handles: Mapping[str, Any], columns: int, note: str = "") -> None:
    """One legend below all panels, zero-shot first, then by name; as many columns as fit, `columns` at most.

    Args:
        note: small print above the names.
    """
    if not handles:
        return
    names = sorted(handles, key=lambda name: (name != REFERENCE_METHOD, name))
    longest = max(len(line) for name in names for line in name.split("\n"))
    inches = 0.75 + 0.08 * longest  # a handle, and letters of this font size
    columns = max(1, min(columns, int(figure.get_figwidth() / inches)))
    columns = min(len(names), columns)
    lines = math.ceil(sum(1 + name.count("\n") for name in names) / columns)
    if lines > MANY_LINES:  # else they would take the room of the panels
        figure.set_figheight(figure.get_figheight() + 0.19 * (lines - MANY_LINES))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title=note or None,
        title_fontsize=7,
    )


FORMATS: Mapping[str, Mapping[str, Any]] = {
    ".svg": {"metadata": {"Date": None, "Creator": None}},
    ".png": {"dpi": 160, "metadata": {"Software": None}},
}
"""Suffix -> how it is saved, in this order: panels are laid out anew for each, from where they were before."""


def formats(png: bool) -> list[str]:
    """The suffixes of a figure's files, with or without the PNG."""
    return [suffix for suffix in FORMATS if png or suffix == ".svg"]


def encode(figure: Figure, png: bool = True) -> dict[str, bytes]:
    """Suffix -> file content, ".svg" and ".png", without a date or a program's version in them.

    Args:
        png: whether both are asked for; the SVG is the same either way.
    """
    files = {}
    for suffix in formats(png):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], **FORMATS[suffix])
        files[suffix] = buffer.getvalue()
    return files


def save(files: Mapping[str, bytes], path: Path) -> list[Path]:
    """Write what `encode` made beside each other, atomically; `path` with or without suffix."""
    stem = path.with_suffix("") if path.suffix in {".svg", ".png"} else path
    paths = []
    for suffix, content in files.items():
        paths.append(stem.with_name(stem.name + suffix))
        write_atomic(paths[-1], content)
    return paths


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """`encode` and `save`: SVG and PNG beside each other."""
    return save(encode(figure), Path(path))


def draw_id_ood(board: Board, rule: str = RULES[0]) -> Figure:
    """ID score against OOD mean, a panel per backbone: seed means with standard deviations, zero-shot as a star.

    Args:
        board: its first section that ranks is drawn, one with local runs before others; incomplete rows are left out.
            Where a method has local and reference rows, the local ones are filled and the reference ones hollow. A
            fixed point of a path has a smaller marker.
        rule: selection rule whose rows are drawn.

    Raises:
        ValueError: the board has no such rows.
    """
    section, found = ranked_panels(board, rule)
    methods = methods_of(board)
    figure, axes = panels(len(found), height=4.2)
    handles: dict[str, Any] = {}
    both = {row.provenance for _, rows in found for row in rows} == {"local", "reference"}
    for axis, (backbone, rows) in zip(axes, found, strict=True):
        _draw(axis, section, rows, methods, handles, both)
        tidy(axis, backbone, score_titles(section)[0])
    for name in [name for name in handles if name.endswith(HOLLOW)]:  # one entry a method, and one for all hollow ones
        handles.setdefault(name.removesuffix(HOLLOW), handles.pop(name))
    if both:
        from matplotlib.lines import Line2D

        handles["hollow: the committed reference"] = Line2D(
            [],
            [],
            marker="o",
            markersize=SIZE,
            markerfacecolor="white",
            markeredgecolor="0.3",
            markeredgewidth=1.2,
            linestyle="none",
        )
    figure.supylabel(score_titles(section)[1], fontsize=9)
    legend(figure, handles, 2 * min(3, len(found)) + 1)
    return figure


def score_titles(section: Section) -> tuple[str, str]:
    """Titles of the axes that show ID scores and OOD means."""
    id_score = OWN_TITLES.get(section.score(section.id_set), "accuracy")
    return f"ID {id_score} (%)", f"mean {ood_title(section)} over {len(section.shifts)} shifts (%)"


def own_first(board: Board) -> list[Section]:
    """The sections of a board, those with local runs first, and in each half those that rank."""
    local = {id(section) for section in board.sections if any(row.provenance == "local" for row in section.rows)}
    return sorted(board.sections, key=lambda section: (id(section) not in local, not section.ranks))


def methods_of(board: Board) -> list[str]:
    """Every method of a board, as `style` asks for them."""
    return sorted({row.method for section in board.sections for row in section.rows})


def ranked_panels(board: Board, rule: str = RULES[0], both: bool = True) -> tuple[Section, list[tuple[str, list[Row]]]]:
    """The first section that ranks, and per backbone its complete rows with an ID score and an OOD mean.

    Args:
        both: False: one of the two is enough.

    Raises:
        ValueError: there is none; the sentence says what is missing.
    """
    lacking = ""
    for section in own_first(board):
        enough = all if both else any
        found = []
        for backbone in section.backbones:
            complete = [row for row in section.table(rule, backbone) if row.complete]
            columns = (section.id_column, section.ood_column)
            rows = [row for row in complete if enough(row.mean(column) is not None for column in columns)]
            if any(not row.is_reference_method for row in rows):
                found.append((backbone, rows))
            elif any(not row.is_reference_method for row in complete):
                lacking = lacking or lacks(section)
        if found:
            return section, found
    if lacking:
        raise ValueError(f"figure: needs an ID score and an OOD mean, and {lacking}.")
    raise ValueError(unchosen(board) or f"figure: no complete rows of rule {rule} to draw; run a sweep first.")


def unchosen(board: Board) -> str:
    """A sentence where there are rows, but none that a selection rule chose; else ""."""
    rows = [row for section in board.sections for row in section.rows if not row.is_reference_method]
    if not rows or any(row.rules for row in rows):
        return ""
    names = " and ".join(sorted({section.benchmark for section in board.sections}))
    return (
        f"figure: shows rows that a selection rule chose, and no rule chose any of {names}, "
        "as where nothing is tuned; `robustft tune` chooses, of what a suite lets it."
    )


def lacks(section: Section) -> str:
    """Which sets the data of a section are without, as the end of a sentence; "" where they have an ID set and shifts.

    Nothing that somebody runs makes a figure of them.
    """
    gone = [*([] if section.id_set else ["no ID test set"]), *([] if section.shifts else ["no shift"])]
    return f"the data of {section.benchmark} have {' and '.join(gone)}" if gone else ""


def dot(
    axis: Any,
    row: Row,
    x: str,
    y: str,
    methods: Sequence[str],
    handles: dict[str, Any],
    percent: float = 100,
    smaller: float = 1,
    hollow: bool = False,
) -> None:
    """One row as a point with its deviations.

    Args:
        x, y: columns; accuracies are multiplied by `percent`.
        smaller: what the marker's size is divided by. hollow: whether it is drawn as its edge alone.

    A row that may be the run it reads (WiSE-FT at alpha 1) lies below the others, so that both can be seen.
    """
    (mx, sx, _), (my, sy, _) = row.cell(x), row.cell(y)
    if mx is None or my is None:
        return
    scale = percent if in_percent(y) else 1
    colour, marker = style(row.method, methods)
    size = START_SIZE if row.is_reference_method else FIXED_SIZE if row.kind in (FIXED, ORACLE) else SIZE
    below = bool(row.evaluated)
    handles.setdefault(
        row.title + (HOLLOW if hollow else ""),
        axis.errorbar(
            percent * mx,
            scale * my,
            xerr=None if sx is None else percent * sx,
            yerr=None if sy is None else scale * sy,
            color=colour,
            marker=marker,
            markersize=size * (BELOW if below else 1) / smaller,
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour if hollow else "white",  # keeps markers apart that lie on each other
            markeredgewidth=(1.2 if hollow else 0.6) / smaller,
            linestyle="none",
            elinewidth=0.9,
            capsize=2,
            zorder=2.5 if below else 3,
        ),
    )


def _draw(
    axis: Any, section: Section, rows: list[Row], methods: Sequence[str], handles: dict[str, Any], both: bool
) -> None:
    columns = section.id_column, section.ood_column
    for row in rows:
        if not row.is_reference_method:
            dot(axis, row, *columns, methods, handles, hollow=both and row.provenance == "reference")
    start = draw_start(axis, rows, *columns, methods, handles)
    if start is not None:
        # Right of the one line finetuning has gained on its own distribution; below the other it has lost robustness.
        axis.axvline(start[0], color="0.75", linewidth=0.8, zorder=1)
        axis.axhline(start[1], color="0.75", linewidth=0.8, zorder=1)


def draw_start(
    axis: Any, rows: Sequence[Row], x: str, y: str, methods: Sequence[str], handles: dict[str, Any]
) -> tuple[float, float] | None:
    """Zero-shot beside the rows of a table, which have been drawn, and the axis around all of them.

    Where its accuracy `x` would take the room of the others, it stands at the left edge, and the accuracy beside it.

    Returns:
        Where it stands, in the units of the axis; None without it.
    """
    axis.margins(0.12)
    start = next((row for row in rows if row.is_reference_method), None)
    if start is None or (across := start.mean(x)) is None or (up := start.mean(y)) is None:
        return None
    left, height = 100 * across, (100 if in_percent(y) else 1) * up
    means = [row.mean(x) for row in rows if not row.is_reference_method]
    found = [100 * mean for mean in means if mean is not None]
    if len(found) < 3 or min(found) - left <= 0.5 * (max(found) - min(found)):
        dot(axis, start, x, y, methods, handles)
        return left, height
    edge = min(found) - 0.3 * (max(found) - min(found))
    axis.set_xlim(left=edge)
    colour, marker = style(start.method, methods)
    look = {"color": colour, "marker": marker, "markeredgecolor": "white", "markeredgewidth": 0.6, "linestyle": "none"}
    (star,) = axis.plot(edge, height, markersize=START_SIZE, clip_on=False, zorder=4, **look)
    handles.setdefault(start.title, star)
    axis.annotate(f"← {left:.1f}", (edge, height), xytext=(9, -10), textcoords="offset points", fontsize=7)
    return edge, height
