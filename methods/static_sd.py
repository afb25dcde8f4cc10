"""Static self-distillation: TRACER's loss with the pretrained model as a teacher that never moves.

Source: arXiv:2605.29380, section 3 (its theory; no code is released for this row). Of the forms in use
(soft cross-entropy with a frozen teacher is another) this is the one that differs from TRACER in the
teacher alone.
"""

from .base import Settings
from .registry import register
from .teachers import StaticTeacher
from .tracer import TRACER
from .two_tower import TwoTower


@register("static_sd")
class StaticSD(TRACER):
    """TRACER's terms towards the pretrained model; the kernel's fields have no effect."""

    def teacher(self, student: TwoTower, settings: Settings) -> StaticTeacher:
        """The pretrained model."""
        return StaticTeacher(student)
