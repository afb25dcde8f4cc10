"""TRACER's loss with the pretrained model as a teacher that never moves: the row that shows what the moving
teacher brings.

Source: arXiv:2605.29380, section 3 (static self-distillation in its theory); the terms are TRACER's. No code is
released for it.
"""

from .base import Settings
from .registry import register
from .teachers import StaticTeacher
from .tracer import Terms
from .two_tower import TwoTower


@register("tracer_static_teacher")
class TRACERStaticTeacher(Terms):
    """TRACER's terms towards the pretrained model."""

    def teacher(self, student: TwoTower, settings: Settings) -> StaticTeacher:
        """The pretrained model."""
        return StaticTeacher(student)
