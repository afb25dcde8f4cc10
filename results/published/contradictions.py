"""Where printed tables contradict each other or themselves, found by comparing every cell that is printed twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .rows import PaperRow

SAME_AS = {
    "fd=1;cross_kd=1;icl=1;crd=1": "tracer",
    "fd=0;cross_kd=0;icl=0;crd=0": "flyp",
    "teacher_update_every=1": "tracer",
    "beta=0.5": "tracer",
}
"""Setting of an ablation -> the method of the main tables that it is."""
LIMITS = {"acc": 0.0002, "ece": 0.0006}
"""How far a mean may be from that of its columns, fractions: a little more than two roundings."""
OF_FOUR = "table2"
"""Its OOD means are over four shifts, those of the other tables over five."""


def between(paper: PaperRow, every: Iterable[PaperRow]) -> list[str]:
    """A sentence for each other table that prints other numbers, or other deviations, for what this row is."""
    found = []
    for other in every:
        if other.table == paper.table or _model(other) != _model(paper) or _model(paper) is None:
            continue
        apart = [
            f"{_title(column)} {_text(other, column)} (here {_text(paper, column)})"
            for column in paper.cells
            if column in other.cells and not _agree(paper, other, column)
        ]
        if apart:
            at = f" at {other.variant.replace(';', ', ')}" if other.variant else ""
            found.append(f"{other.title}{at} prints other numbers for this row: {', '.join(apart)}.")
    return found


def within(paper: PaperRow, shifts: Sequence[str]) -> list[str]:
    """A sentence for each mean of a row that is not the mean of its columns, and for an ECE that is printed twice."""
    found = []
    for kind, mean in (("acc", "acc_ood_mean"), ("ece", "ece_ood_mean")):
        columns = [f"{kind}/{name}" for name in shifts if f"{kind}/{name}" in paper.cells]
        if mean not in paper.cells or len(columns) != len(shifts) - (paper.table == OF_FOUR):
            continue
        value = sum(paper.cells[column][0] for column in columns) / len(columns)
        if abs(value - paper.cells[mean][0]) > LIMITS[kind]:
            scale, digits = _scale(kind), 2 if kind == "acc" else 4
            sentence = f"{_text(paper, mean)}, is not the mean of its columns, {scale * value:.{digits}f}"
            found.append(f"The printed {_title(mean)}, {sentence}.")
        texts = [_text(paper, column) for column in columns]
        # Of three decimals two may well be equal.
        twice = sorted({text for text in texts if kind == "ece" and texts.count(text) > 1 and len(text) > 5})
        found += [f"One ECE, {text}, is printed twice in this row, so that its mean is suspect." for text in twice]
    return found


def _model(paper: PaperRow) -> tuple[str, str] | None:
    """Backbone and method of a row; None for a variant that no other table prints."""
    if not paper.variant:
        return paper.backbone, paper.method
    return (paper.backbone, SAME_AS[paper.variant]) if paper.variant in SAME_AS else None


def _agree(one: PaperRow, other: PaperRow, column: str) -> bool:
    """Whether two printed cells can be one number, rounded to as many places as each shows."""
    if column == "acc_ood_mean" and OF_FOUR in (one.table, other.table):
        return True
    (a, a_sd), (b, b_sd) = one.cells[column], other.cells[column]
    digits = (one.digits[column], other.digits[column])
    off = _scale(column) * abs(a - b)
    if off > 1e-9 and (digits[0] == digits[1] or off > 0.5 * 10 ** -min(digits) + 1e-9):
        return False
    return a_sd is None or b_sd is None or abs(a_sd - b_sd) < 1e-9


def _scale(column: str) -> int:
    return 100 if column.startswith("acc") else 1


def _text(paper: PaperRow, column: str) -> str:
    (mean, sd), scale, digits = paper.cells[column], _scale(column), paper.digits[column]
    return f"{scale * mean:.{digits}f}" + ("" if sd is None else f" ± {scale * sd:.{digits}f}")


def _title(column: str) -> str:
    kind, _, name = column.partition("/")
    if name:
        return name if kind == "acc" else f"ECE of {name}"
    return {"acc_id": "ID", "acc_ood_mean": "OOD mean", "ece_id": "ID ECE", "ece_ood_mean": "OOD ECE"}[column]
