"""The two figures of the linear theory. Readable in grey: every line has its own marker and dash."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .style import empty, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: Mapping[str, tuple[str, str, str | tuple[int, tuple[float, ...]]]] = {
    "pretrained": ("#000000", "*", "-"),
    "direct": ("#b35806", "o", "-"),
    "L2-SP": ("#8c510a", "H", (0, (1, 1.2))),
    "static": ("#542788", "s", (0, (5, 1.5))),
    "EMA": ("#8073ac", "v", (0, (3, 1.2, 1, 1.2))),
    "uniform": ("#1b7837", "D", (0, (1.5, 1.5))),
    "Beta(0.5)": ("#c51b7d", "P", "-"),
}
"""(colour, marker, dash) by name."""
LOWEST = 2e-3  # of the logarithmic axes
BARE = {"linestyle": "none"}
TITLES = {"static": "static SD", "uniform": "WMA, uniform", "Beta(0.5)": "WMA, Beta(0.5)"}


def plot_geometry(
    points: Mapping[str, tuple[float, float]],
    kept_shares: Mapping[str, Sequence[float]],
    singular_values: Sequence[float],
    path: Path,
) -> list[Path]:
    """Where each strategy ends: task subspace against orthogonal complement, and what is kept by direction.

    Args:
        points: by name, (way from W0 to W* on the task subspace, share of W0 kept on the complement). "pretrained" is
            (0, 1) and the smallest solution W* would be (1, 0). That of "L2-SP" also stands where it would be if it
            blended all directions.
        kept_shares: by name, share of W0 kept along each direction of `singular_values`, then on the complement.
        singular_values: of the data, falling.
        path: .svg and .png are written beside each other.

    Returns:
        The two files.
    """
    with _style() as figure_of:
        figure = figure_of((8.6, 4.2))
        left, right = figure.subplots(1, 2)
        _draw_plane(left, points)
        _draw_shares(right, kept_shares, singular_values)
        _legend(figure, points)
        return save_figure(figure, path)


def plot_gap(
    gaps: Mapping[str, Sequence[float]],
    lengths: Sequence[int],
    held: Mapping[str, Sequence[float]],
    floors: Sequence[float],
    path: Path,
) -> list[Path]:
    """How long a teacher differs from its student, and what is left of the pretrained model at the end of longer runs.

    Args:
        gaps: by teacher, distance of teacher and student after steps 1 to T, relative to a static teacher's.
        lengths: rising numbers of steps.
        held: by teacher, for each of those: distance of the last teacher from the task's solution, relative to the
            pretrained model's.
        floors: for each of those, the floor under what "Beta(0.5)" holds.
        path: as in `plot_geometry`.

    Returns:
        The two files.
    """
    with _style() as figure_of:
        figure = figure_of((8.6, 3.9))
        left, right = figure.subplots(1, 2)
        for name, values in gaps.items():
            _line(left, name, [(i + 1) / len(values) for i in range(len(values))], values)
        left.set_xlim(0, 1)
        left.set_xlabel(f"part of a run of {len(values)} steps")
        left.set_ylabel("relative to a static teacher's")
        left.set_title("gap between teacher and student", fontsize=10)
        for name, values in held.items():
            _line(right, name, lengths, values)
        right.plot(lengths, floors, color="0.35", linewidth=0.9, linestyle=(0, (1, 1)))
        right.annotate(
            "floor of Beta(0.5) (C.6)",
            (lengths[len(lengths) // 3], floors[len(lengths) // 3]),
            (0.05, 0.44),
            textcoords="axes fraction",
            fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6},
        )
        right.set_xscale("log")
        right.set_xlim(lengths[0], lengths[-1])
        right.set_xlabel("steps of the whole run")
        right.set_ylabel("distance from the task's solution,\nrelative to the pretrained model's")
        right.set_title("what the last teacher holds of the pretrained model", fontsize=10)
        for axis in (left, right):
            axis.set_yscale("log")
            axis.set_ylim(LOWEST, 1.3)
            axis.spines[["top", "right"]].set_visible(False)
        _legend(figure, gaps)
        return save_figure(figure, path)


@contextlib.contextmanager
def _style() -> Iterator[Callable[[tuple[float, float]], Figure]]:
    """Settings under which a figure is drawn; same numbers, same bytes of SVG."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context({"svg.hashsalt": "robustft", "font.size": 9}):
        yield empty


def _line(axis: Axes, name: str, positions: Sequence[float], values: Sequence[float]) -> None:
    """A line with markers at about ten places, shifted so that those of close lines do not meet."""
    every = max(1, len(values) // 10)
    offset = every * list(STYLES).index(name) // len(STYLES)
    axis.plot(positions, values, linewidth=1.6, **_look(name, size=6), markevery=(offset, every))


def _look(name: str, size: float) -> dict[str, Any]:
    """Direct finetuning is a ring, so that what ends near it stays visible inside."""
    colour, marker, dash = STYLES[name]
    ring = name == "direct"
    return {
        "color": colour,
        "marker": marker,
        "linestyle": dash,
        "markersize": size * (1.7 if ring or name == "pretrained" else 1),
        "markerfacecolor": "none" if ring else colour,
        "markeredgecolor": colour if ring else "white",
        "markeredgewidth": 1.5 if ring else 0.5,
    }


def _legend(figure: Figure, names: Iterable[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=TITLES.get(name, name), **_look(name, size=7) | (BARE if name == "pretrained" else {}))
        for name in names
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, columnspacing=1.3)


def _draw_plane(axis: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    def draw(axis: Axes) -> None:
        axis.axhline(1, color="0.8", linewidth=0.9, zorder=1)
        axis.axvline(1, color="0.8", linewidth=0.9, zorder=1)
        for name, (x, y) in points.items():
            axis.plot(x, y, zorder=3, **_look(name, size=8) | BARE)

    draw(axis)
    axis.plot([0, 1], [1, 0], color="0.6", linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    x = points["L2-SP"][0]
    colour, marker, _ = STYLES["L2-SP"]
    axis.plot(x, 1 - x, marker=marker, color="white", markersize=9, markeredgecolor=colour, zorder=3)
    axis.annotate(
        "L2-SP, if it blended\nall directions (the\npaper's Figure 2b)",
        (x, 1 - x),
        (0.0, 0.12),
        fontsize=8.5,
        arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkB": 6},
    )
    axis.plot(1, 0, marker="x", color="black", markersize=8, zorder=3, clip_on=False)
    axis.annotate("W*", (1, 0), (1.04, 0.03), fontsize=9)
    axis.annotate("W0", (0, 1), (-0.02, 1.08), fontsize=9)
    near = axis.inset_axes(
        (0.55, 0.42, 0.3, 0.24), xlim=(0.92, 1.012), ylim=(0.94, 1.06), xticks=(0.95, 1.0), yticks=()
    )
    draw(near)
    near.tick_params(labelsize=8)
    axis.indicate_inset_zoom(near, edgecolor="0.5")
    axis.set_xlim(-0.08, 1.16)
    axis.set_ylim(-0.05, 1.2)
    axis.set_xlabel("task subspace: way from W0 to W*")
    axis.set_ylabel("orthogonal complement: part of W0 kept")
    axis.set_title("where each strategy ends", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_shares(axis: Axes, kept_shares: Mapping[str, Sequence[float]], singular_values: Sequence[float]) -> None:
    last = len(singular_values)
    axis.axvspan(last - 0.5, last + 0.5, color="0.93", zorder=0)
    for name, values in kept_shares.items():
        axis.plot(range(last), values[:-1], linewidth=1.4, **_look(name, size=8))
        axis.plot(last, values[-1], **_look(name, size=8) | BARE)
    axis.text(last, 0.9, "all", ha="center", fontsize=8.5)
    axis.set_xticks(range(last + 1), [*(f"{s:g}" for s in singular_values), "orthogonal"])
    axis.set_xlim(-0.4, last + 0.5)
    axis.set_ylim(-0.06, 1.08)
    axis.set_xlabel("direction, by singular value of the data")
    axis.set_ylabel("share of W0 kept")
    axis.set_title("what is kept, by direction", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
