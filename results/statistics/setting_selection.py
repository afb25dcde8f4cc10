"""Selection rules over tuning trials, and what a handful of seeds can tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .seed_summary import StatisticsError, paired_difference

RULES = ("one_se", "best_id")  # the first is a board's default


@dataclass(frozen=True, eq=False)
class Trial:
    """One tried setting with its validation losses.

    Attributes:
        values: "lr" and at most one strength, name -> value.
        nll_per_sample: (N,) -log p(label) in nats, over all tuning seeds and renderings, in one order
            for all trials.
        unit_ids: (N,) source image of each entry; all tuning seeds and renderings of an image are one unit.
        trial_id: run id(s), for the reader.
        safer: "larger" or "smaller": the direction of the strength that stays closer to the pretrained model.
    """

    values: Mapping[str, float]
    nll_per_sample: np.ndarray
    unit_ids: Sequence[str]
    trial_id: str = ""
    safer: str = "larger"

    @property
    def nll(self) -> float:
        """Mean over samples, nats; NaN if the run diverged."""
        return float(np.mean(np.asarray(self.nll_per_sample, dtype=np.float64)))


def best_id(trials: Sequence[Trial]) -> Trial:
    """The trial of the lowest mean validation NLL; of equal ones the most conservative.

    Raises:
        StatisticsError: no trial, none finite, or trials over different samples.
    """
    return min(_comparable(trials), key=lambda trial: (trial.nll, conservatism(trial.values, trial.safer)))


def one_se(trials: Sequence[Trial]) -> Trial:
    """The most conservative trial that is not clearly worse than the best.

    A trial qualifies if its mean NLL exceeds the lowest by at most one standard error of that difference,
    paired sample by sample and clustered by source image. Of those, the smallest learning rate wins, then the
    strength that stays closest to the start (the largest, unless the method says "smaller", as WiSE-FT's alpha).

    Raises:
        StatisticsError: as `best_id`; or fewer than two source images.
    """
    best = best_id(trials)
    near = []
    for trial in _comparable(trials):
        difference, error = paired_difference(trial.nll_per_sample, best.nll_per_sample, best.unit_ids)
        if difference <= error:
            near.append(trial)
    return min(near, key=lambda trial: (conservatism(trial.values, trial.safer), trial.nll))


def conservatism(values: Mapping[str, float], safer: str = "larger") -> tuple[float, ...]:
    """Sort key: the smaller, the closer the setting keeps the model to its start; `safer` as in Trial."""
    if "lr" not in values:
        raise StatisticsError(f"trial: values {dict(values)} have no 'lr'.")
    strengths = sorted(name for name in values if name != "lr")
    sign = 1 if safer == "smaller" else -1
    return (values["lr"], *(sign * values[name] for name in strengths))


def _comparable(trials: Sequence[Trial]) -> list[Trial]:
    """Trials with a finite mean, after checking that all are over the same samples."""
    if not trials:
        raise StatisticsError("selection: no trial to choose from.")
    for trial in trials:
        if not np.array_equal(np.asarray(trial.unit_ids), np.asarray(trials[0].unit_ids)):
            raise StatisticsError(f"selection: trial {dict(trial.values)} is over other samples than the first one.")
        if len(trial.nll_per_sample) != len(trial.unit_ids):
            raise StatisticsError(f"selection: trial {dict(trial.values)} lacks losses of some samples.")
    finite = [trial for trial in trials if math.isfinite(trial.nll)]
    if not finite:
        raise StatisticsError("selection: every trial diverged; lower the learning rates of the search space.")
    return finite
