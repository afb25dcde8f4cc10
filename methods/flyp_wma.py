"""FLYP's trajectory averaged: trained exactly as FLYP, evaluated at the weighted moving average of its weights.

Source: ours, composed of FLYP (arXiv:2212.00638) and the average of TRACER's Definition 3.3 (arXiv:2605.29380); it
asks whether the average alone, without distillation, is what helps.
"""

from typing import TYPE_CHECKING

from . import wma
from .base import Settings, hyperparameters
from .flyp import FLYP
from .registry import register
from .two_tower import TwoTowerHyper

if TYPE_CHECKING:
    from .teachers import StaticTeacher
    from .two_tower import TwoTower


@hyperparameters
class Hyper(wma.WMAHyper, TwoTowerHyper):
    """The average's."""


@register("flyp_wma")
class FLYPWMA(FLYP):
    """FLYP; the average is evaluated and teaches nothing."""

    Hyper = Hyper
    evaluates = "teacher"

    def teacher(self, student: "TwoTower", settings: Settings) -> "StaticTeacher":
        """The running average."""
        return wma.wma_teacher(self.hyper, student, settings.total_steps)

    def teaches(self, step: int) -> bool:
        """Never."""
        return False
