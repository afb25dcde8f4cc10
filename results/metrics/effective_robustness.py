"""Effective robustness: OOD accuracy above what ID accuracy predicts, by a line through models without pretraining.

Effective robustness is how far a model lies above that line. It says something only where the line is fitted to other
models than those that are judged by it: baselines that never saw the pretrained backbone.

Source: Taori et al. 2020, arXiv:2007.00644, section 3; Miller et al. 2021, arXiv:2107.04649.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEAST_MODELS = 15
"""Fewer baselines than these give no line."""


class LineError(ValueError):
    """Numbers that no line can be fitted to, or a value outside its range."""


@dataclass(frozen=True)
class LogitFit:
    """logit(OOD) = slope * logit(ID) + intercept, on the range of ID accuracies that it was fitted on.

    Attributes:
        r2: of the fit, in logits.
        models: how many baselines it was fitted to.
        low, high: smallest and largest ID accuracy among them, fractions.
    """

    slope: float
    intercept: float
    r2: float
    models: int
    low: float
    high: float

    def expected(self, id_accuracy: float) -> float:
        """OOD accuracy that the baselines' line predicts at an ID accuracy; fractions.

        Raises:
            LineError: outside the range of the fit; nothing is extrapolated.
        """
        if not self.low <= id_accuracy <= self.high:
            raise LineError(
                f"effective robustness: ID accuracy must be in [{self.low:.3f}, {self.high:.3f}], the range "
                f"of the fit, got {id_accuracy:.3f}; add baselines that reach it."
            )
        return 1 / (1 + math.exp(-(self.slope * _logit(id_accuracy) + self.intercept)))

    def points(self, count: int = 50) -> tuple[list[float], list[float]]:
        """The line in percent, from end to end of its range, for a figure."""
        xs = [min(max(x, self.low), self.high) for x in np.linspace(self.low, self.high, count).tolist()]
        return [100 * x for x in xs], [100 * self.expected(x) for x in xs]


def fit(id_accuracy: Sequence[float], shifted: Sequence[float]) -> LogitFit:
    """Least squares on logit(ID) against logit(OOD).

    Args:
        id_accuracy, shifted: accuracies of the same models, fractions in (0, 1).

    Example: models on OOD = ID give slope 1, intercept 0 and r2 1.

    Raises:
        LineError: fewer than `LEAST_MODELS` models, lengths that differ, an accuracy of 0 or 1, or equal ID accuracies.
    """
    if len(id_accuracy) != len(shifted) or len(id_accuracy) < LEAST_MODELS:
        raise LineError(
            f"effective robustness: needs ID and OOD accuracy of at least {LEAST_MODELS} models without pretraining, "
            f"got {len(id_accuracy)} and {len(shifted)}; add from-scratch runs."
        )
    outside = [value for value in (*id_accuracy, *shifted) if not 0 < value < 1]
    if outside or min(id_accuracy) == max(id_accuracy):
        found = outside[0] if outside else id_accuracy[0]
        raise LineError(
            f"effective robustness: accuracies must differ and be in (0, 1), got {found}; drop such models."
        )
    x, y = (np.array([_logit(value) for value in values]) for values in (id_accuracy, shifted))
    slope, intercept = np.polyfit(x, y, 1)
    left, total = np.sum((y - slope * x - intercept) ** 2), np.sum((y - y.mean()) ** 2)
    r2 = 1 - left / total if total > 0 else 1.0
    return LogitFit(float(slope), float(intercept), float(r2), len(x), min(id_accuracy), max(id_accuracy))


def read_baselines(path: Path) -> tuple[tuple[float, float], ...]:
    """(ID accuracy, OOD mean) of each model of a list, as fractions.

    Args:
        path: CSV with the columns id and ood, in percent; others, such as a name, are for the reader.

    Raises:
        LineError: the file, the line and what must be there.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LineError(f"{path}: cannot be read ({error}); give a CSV file with the columns id and ood.") from None
    points = []
    for number, line in enumerate(lines, start=2):
        pair = []
        for key in ("id", "ood"):
            try:
                pair.append(float(line.get(key) or "") / 100)
            except ValueError:
                pair.append(math.nan)
            if not 0 < pair[-1] < 1:
                raise LineError(
                    f"{path}, line {number}: {key} must be an accuracy between 0 and 100 percent, got "
                    f"{line.get(key)!r}; correct it."
                )
        points.append((pair[0], pair[1]))
    return tuple(points)


def _logit(value: float) -> float:
    return math.log(value / (1 - value))
