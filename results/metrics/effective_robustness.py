"""Effective robustness: OOD accuracy above what ID accuracy predicts, by a line through models without pretraining.

Effective robustness is how far a model lies above that line. It says something only where the line is fitted to other
models than those that are judged by it: baselines that never saw the pretrained backbone.

Source: Taori et al. 2020, arXiv:2007.00644, section 3; Miller et al. 2021, arXiv:2107.04649.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
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


def check_span(shifts: Mapping[str, Sequence[float]], chance: Mapping[str, float], images: Mapping[str, int]) -> None:
    """A line says something where the baselines span a range above chance on every shift, and nothing else where not.

    A baseline at chance has no accuracy that could be predicted: a line through such models is fitted to the floor, and
    whatever knows anything of the shift lies above it.

    Args:
        shifts: set -> accuracies of all baselines, fractions. chance: set -> that of a uniform guess.
        images: set -> how many each accuracy is over, where it is known: chance is exceeded by two standard errors of a
            guess on so many, and the range must be as wide twice.

    Raises:
        LineError: the sentence that says on which shift, and how many are at chance.
    """
    for name, accuracies in shifts.items():
        if name not in chance:
            raise LineError(f"effective robustness: no line, for how many classes {name} has is not known.")
        guess = chance[name]
        error = 2 * math.sqrt(guess * (1 - guess) / images[name]) if name in images else 0.0
        low = [value for value in accuracies if value <= guess + error]
        if low:
            raise LineError(
                f"effective robustness: no line, for {len(low)} of {len(accuracies)} models without pretraining are at "
                f"chance ({100 * guess:.3g} %) or below on {name} ({100 * min(low):.1f} to {100 * max(low):.1f} %), "
                "where nothing can be predicted from ID accuracy."
            )
        if max(accuracies) - min(accuracies) <= 2 * error:
            raise LineError(
                f"effective robustness: no line, for all models without pretraining have one accuracy on {name} "
                f"({100 * min(accuracies):.1f} to {100 * max(accuracies):.1f} %)."
            )


def read_baselines(path: Path) -> tuple[Mapping[str, float], ...]:
    """What each model of a list has on each set, as fractions, by the names of the columns; the ID set's is id.

    Args:
        path: CSV with a column id and one for each shift, in percent; columns that hold no number are for the reader.

    Raises:
        LineError: the file, the line and what must be there.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        remedy = "give a CSV file with a column id and one a shift"
        raise LineError(f"{path}: cannot be read ({error}); {remedy}.") from None
    models = []
    for number, line in enumerate(lines, start=2):
        found = {}
        for key in ("id", *(key for key in line if key not in ("id", None))):
            text = line.get(key) or ""
            try:
                found[key] = float(text) / 100
            except ValueError:
                if key != "id":
                    continue
                found[key] = math.nan
            if not 0 <= found[key] <= 1 or (key == "id" and not 0 < found[key] < 1):
                raise LineError(
                    f"{path}, line {number}: {key} must be an accuracy between 0 and 100 percent, got {text!r}; "
                    "correct it."
                )
        models.append(found)
    return tuple(models)


def _logit(value: float) -> float:
    return math.log(value / (1 - value))
