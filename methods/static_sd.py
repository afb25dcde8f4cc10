"""Static self-distillation: EMA's loss with the pretrained model as a teacher that never moves.

Source: arXiv:2605.29380, section 3 (its theory); no code is released. Three forms are in use; this is the soft
cross-entropy of CaRot (MLAI-Yonsei/CaRot:src/models/carot_loss.py) with momentum 1, which differs from `ema` in
the teacher alone. The others: TRACER's terms with a static teacher (`tracer_static_teacher`), and logit
distillation of a one-tower classifier (WiSE-FT, arXiv:2109.01903, appendix C.3.3), which the row of TRACER's Table 2
cites.
"""

from .base import Settings
from .ema import SoftTargets
from .registry import register
from .teachers import StaticTeacher
from .two_tower import TwoTower


@register("static_sd")
class StaticSD(SoftTargets):
    """InfoNCE plus `lambda_sd` times the soft cross-entropy to the pretrained model."""

    version = 2  # version 1 had TRACER's terms: now tracer_static_teacher

    def teacher(self, student: TwoTower, settings: Settings) -> StaticTeacher:
        """The pretrained model."""
        return StaticTeacher(student)
