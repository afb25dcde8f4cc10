"""TRACER's loss with CaRot's EMA teacher: the row that shows what the kernel brings.

Source: HesamAsad/TRACER:example_scripts/tracer_ema.sh (EMA at every step, momentum 0.05 to 0.9).
Departure: that script adds an orthogonality term of 0.2 that the WMA runs lack; it is 0 here, so that the
teacher alone differs.
"""

from typing import Annotated

from pydantic import Field

from .base import Settings, hyperparameters
from .ema import EMAHyper, ema_teacher
from .registry import register
from .teachers import EMATeacher
from .tracer import Terms, TermsHyper
from .two_tower import TwoTower


@hyperparameters
class Hyper(EMAHyper, TermsHyper):
    """Terms and teacher."""

    update_every: Annotated[int, Field(ge=0)] = 1
    """Steps between teacher updates; 0 is max(1, round(steps * 500 / 25030)). Code: 1 (tracer_ema.sh)."""


@register("tracer_ema_teacher")
class TRACEREMATeacher(Terms):
    """TRACER's terms towards an EMA of the student."""

    Hyper = Hyper

    def teacher(self, student: TwoTower, settings: Settings) -> EMATeacher:
        """EMA with a rising momentum."""
        return ema_teacher(self.hyper, student, settings.total_steps)
