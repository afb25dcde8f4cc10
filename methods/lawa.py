"""LAWA over FLYP: trained exactly as FLYP, evaluated at the plain mean of its last weights.

Source: Kaddour, Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging, 2022,
arXiv:2209.14981; JeanKaddour/LAWA. Beside `flyp_wma`: the same trajectory under another window.
Departures: the paper averages the last k checkpoints of epochs during training from scratch; here the last steps of
finetuning, at every step unless `every` says otherwise, once, at the end.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import nn

from .base import Settings, hyperparameters
from .flyp import FLYP
from .registry import register
from .teachers import StaticTeacher
from .two_tower import TwoTowerHyper

if TYPE_CHECKING:
    from .two_tower import TwoTower


@hyperparameters
class Hyper(TwoTowerHyper):
    """The window."""

    last: Annotated[int, Field(ge=0)] = 0
    """k, weights in the mean, those after the last step included; >= 0, 0 is a tenth of the steps, at least 1. Ours;
    paper: 6 checkpoints for BERT and ResNet-50."""
    every: Annotated[int, Field(ge=1)] = 1
    """Steps between weights in the mean, counted back from the last; >= 1. Ours: 1; paper: an epoch."""


class LatestMean(StaticTeacher):
    """The plain mean of the last weights; before the first of them, the student's start.

    Args:
        student: the module to follow.
        total_steps: T, the length of the run.
        last: k, how many weights; where the run is shorter, as many as there are.
        every: steps between them; the last is that after step T.

    Example: T = 6, last = 2, every = 3: the mean of the weights after steps 3 and 6.
    """

    def __init__(self, student: nn.Module, total_steps: int, last: int, every: int = 1):
        super().__init__(student)
        self.total_steps, self.every = total_steps, every
        self.last = min(last, 1 + (total_steps - 1) // every)

    def update(self, step: int) -> None:
        to_come, off = divmod(self.total_steps - 1 - step, self.every)
        if off == 0 and to_come < self.last:
            self._move(1 / (self.last - to_come))


@register("lawa")
class LAWA(FLYP):
    """FLYP; the mean is evaluated and teaches nothing."""

    Hyper = Hyper
    evaluates = "teacher"

    def teacher(self, student: "TwoTower", settings: Settings) -> StaticTeacher:
        """The mean."""
        last = self.hyper.last or max(1, settings.total_steps // 10)
        return LatestMean(student, settings.total_steps, last, self.hyper.every)

    def teaches(self, step: int) -> bool:
        """Never."""
        return False
