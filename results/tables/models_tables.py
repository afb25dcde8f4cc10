"""A board over its pretrained models: means, and how far rows are from plain finetuning on all of them."""

from __future__ import annotations

import csv
import io
import statistics as middle
from collections.abc import Iterable, Sequence

from ..board.comparison import Judge, images_text
from ..board.over_models import OverRow, Summary, summary
from ..board.rows import BASELINE, Section, in_percent
from ..statistics.seed_summary import level_text
from ..statistics.setting_selection import RULES
from .blocks import Block, Cell, Heading, Table, Text
from .cells import TIED, UNTESTED, metric_columns

MEANS_TEXT = (
    "Every model weighs the same and is the mean of its seeds. In brackets, the 95 % interval for other models and "
    "other source images: variance between models plus variance between images, t with Satterthwaite's degrees of "
    "freedom, lowered as Cochran and Cox do. What other seeds would change is in the variance between models."
)
AGAINST_TEXT = (
    f"Rows minus {BASELINE} of their provenance, paired by model and source image, accuracies in points. In brackets, "
    "the interval at the level at which Holm's tests of the column end: it excludes 0 where they separate the row from "
    f"{BASELINE} (two-sided 5 % over the column), and nowhere else. 5/6: on five of six models the difference has its "
    "sign. An order is claimed, and bold, where both say so: the interval excludes 0 and all models have one sign. "
    f"{TIED}: no order is claimed; {UNTESTED}: not tested, because samples of some run are missing. Resolved: the true "
    "difference that Holm separates as a first row with 80 % power, by this row's own errors."
)
SHORT_TEXT = (
    f"In brackets, over models and source images: of means 95 % intervals, of differences from {BASELINE} those at "
    f"Holm's level, then the models of one sign. {TIED}: no order is claimed, {UNTESTED}: not tested (leaderboard.md)."
)


def beside(section: Section, judge: Judge, explained: bool = True) -> Iterable[Block]:
    """The summary of the default rule; nothing of a section with few models.

    Args:
        explained: whether texts say how it is computed.
    """
    columns = _columns(section)
    found = summary(section, judge, RULES[0], [column for column, _ in columns])
    if found is None:
        return
    yield Heading(3, f"Over {len(found.models)} models, rule {RULES[0]}")
    yield Text(f"Models: {', '.join(found.models)}.")
    if found.lacking:
        some = (f"{name} ({provenance}) on {on} of {len(found.models)}" for name, provenance, on in found.lacking)
        yield Text(f"Neither averaged nor tested, because they do not compete on every model: {', '.join(some)}.")
    if explained:
        yield Text(MEANS_TEXT, ours=True)
    caption = f"{section.title}: over {len(found.models)} models"
    head = ("method", "provenance", "seeds", *(heading for _, heading in columns))
    lines = [
        (Cell(row.name), Cell(row.provenance), Cell(_seeds(row)), *(Cell(_mean_text(row, key)) for key, _ in columns))
        for row in found.rows
    ]
    yield Table(caption, head, tuple(lines), frozenset(range(2, len(head))))
    if not any(row.baseline for row in found.rows):
        yield Text(f"No {BASELINE} competes on every model: there is nothing to compare rows with.", ours=True)
        return
    if explained:
        yield Text(AGAINST_TEXT, ours=True)
    accuracies = [(key, heading) for key, heading in columns if in_percent(key)]
    head = ("method", "provenance", *(heading for _, heading in columns))
    head += tuple(f"{heading} resolved" for _, heading in accuracies)
    lines = [
        (
            Cell(row.name),
            Cell(row.provenance),
            *(_against(row, key) for key, _ in columns),
            *(Cell(_number(row.against[key].resolvable, key)) for key, _ in accuracies),
        )
        for row in found.rows
        if row.against
    ]
    yield Table(f"{caption}, minus {BASELINE}", head, tuple(lines), frozenset(range(2, len(head))))
    if not explained:
        yield Text(SHORT_TEXT, ours=True)
    for key, heading in accuracies:
        if sentence := _resolution(section, found, key, heading):
            yield Text(sentence, ours=True)


def models_csv(sections: Sequence[Section], judge: Judge) -> str:
    """A line per row and column of each summary, one for a row that lacks a model; empty where there is no summary.

    Accuracies in percent, ECE in [0, 1].
    """
    names = ["benchmark", "benchmark_version", "recipe", "shots", "rule", "models", "method", "provenance", "n_models"]
    names += ["n_seeds", "metric", "mean", "mean_low_95", "mean_high_95", "minus", "difference", "difference_low"]
    names += ["difference_high", "interval_level", "models_same_sign", "p_holm", "verdict", "resolved_difference"]
    lines: list[list[str]] = []
    for section in sections:
        columns = _columns(section)
        found = summary(section, judge, RULES[0], [column for column, _ in columns])
        if found is None:
            continue
        start = [section.benchmark, section.version, section.recipe, str(section.shots or "all"), RULES[0]]
        start += ["; ".join(found.models)]
        for row in found.rows:
            about = [*start, row.name, row.provenance, str(len(found.models)), _seeds(row)]
            lines += [[*about, *_numbers(found, row, key)] for key, _ in columns]
        for name, provenance, on in found.lacking:
            line = [*start, name, provenance, str(on)]
            lines.append([*line, *([""] * (len(names) - len(line) - 2)), "not on every model", ""])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *lines] if lines else [])
    return out.getvalue()


def _columns(section: Section) -> list[tuple[str, str]]:
    """(column, heading) of ID, OOD mean and their ECE, as far as the board shows them."""
    asked = (section.id_column, section.ood_column, "ece_id", "ece_ood_mean")
    return [(column, heading) for column, heading in metric_columns(section) if column in asked]


def _seeds(row: OverRow) -> str:
    counts = sorted({len(each.seeds) for each in row.rows})
    return " to ".join(map(str, counts))


def _mean_text(row: OverRow, column: str) -> str:
    """81.2 [79.0, 83.4]"""
    scale, digits = (100, 1) if in_percent(column) else (1, 3)
    text = f"{scale * row.means[column]:.{digits}f}"
    if column in row.intervals:
        low, high = row.intervals[column]
        text += f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    return text


def _against(row: OverRow, column: str) -> Cell:
    """+1.84 [+0.31, +3.37] 6/6"""
    found = row.against[column]
    text = _number(found.difference, column, "+")
    if found.interval is not None:
        text += f" [{', '.join(_number(end, column, '+') for end in found.interval)}]"
    sign = UNTESTED if found.p is None else "" if found.claimed else TIED
    return Cell(f"{text} {found.same}/{len(row.rows)}", found.claimed, sign)


def _number(value: float | None, column: str, sign: str = "") -> str:
    """A difference: in points with two digits, so that an interval is seen to end beside 0; of an ECE with four."""
    scale, digits = (100, 2) if in_percent(column) else (1, 4)
    return "" if value is None else f"{scale * value:{sign}.{digits}f}"


def _resolution(section: Section, found: Summary, column: str, heading: str) -> str:
    """A sentence on what the models and images of a column resolve; empty where nothing was tested."""
    tested = [row.against[column] for row in found.rows if row.against and row.against[column].p is not None]
    sizes = [100 * against.resolvable for against in tested if against.resolvable is not None]
    if not sizes:
        return ""
    names = section.shifts if column == section.ood_column else (section.id_set,)
    sources = sum(section.clusters.get(name, 0) for name in names if name)
    images, level = images_text(str(tested[0].images - sources), sources), level_text(found.tests[column])
    return (
        f"Smallest difference of {heading} from {BASELINE} that {len(found.models)} models on {images} resolve "
        f"({level}, 80 % power): {middle.median(sizes):.2f} points, median over rows; {min(sizes):.2f} to "
        f"{max(sizes):.2f}."
    )


def _numbers(found: Summary, row: OverRow, column: str) -> list[str]:
    """The fields of a line from the metric on."""
    percent = in_percent(column)
    scale, digits = (100, 4) if percent else (1, 6)

    def text(value: float | None) -> str:
        return "" if value is None else f"{scale * value:.{digits}f}"

    low, high = row.intervals.get(column, (None, None))
    metric = column.replace("/", "_") + ("_percent" if percent else "_15_bins_global")
    line = [metric, text(row.means[column]), text(low), text(high)]
    if not row.against:
        return [*line, *([""] * 7), "the baseline" if row.baseline else "", ""]
    against = row.against[column]
    low, high = against.interval or (None, None)
    line += [BASELINE, text(against.difference), text(low), text(high)]
    if against.p is None:
        return [*line, "", str(against.same), "", "not tested", ""]
    claim = "higher" if against.difference > 0 else "lower"
    verdict = claim if against.claimed else "no order claimed"
    level = f"{1 - found.level[column]:.6f}"
    return [*line, level, str(against.same), f"{against.p:.3g}", verdict, text(against.resolvable)]
