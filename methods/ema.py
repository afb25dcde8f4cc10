"""EMA self-distillation: InfoNCE plus soft cross-entropy to an EMA of the student (the self-distillation of
CaRot).

Source: Oh et al., CaRot, NeurIPS 2024; MLAI-Yonsei/CaRot:src/models/carot_loss.py.
Departures: CaRot's orthogonality term is off by default (0.2 there), to see the teacher alone; the 500
steps between teacher updates, of 25,030, scale with the length of the run (ours).
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import nn

from .base import LossTerms, Settings, hyperparameters
from .distillation import Pairs, contrastive, soft_cross_entropy
from .registry import register
from .teachers import EMATeacher
from .two_tower import DistillingHyper, DistillingMethod, TwoTower

if TYPE_CHECKING:
    from ..datasets.loaders import Batch

Fraction = Annotated[float, Field(ge=0, le=1)]


@hyperparameters
class EMAHyper:
    """The momentum of an EMA teacher."""

    momentum_start: Fraction = 0.05
    """Share of the old teacher kept at the first update; [0, 1]. Code: MLAI-Yonsei/CaRot:src/args.py."""
    momentum_end: Fraction = 0.9
    """Share kept after the warm-up; [0, 1]. Code: same file."""
    momentum_warmup: Fraction = 0.2
    """Part of the run over which the momentum rises; [0, 1]. Code: same file."""
    update_every: Annotated[int, Field(ge=0)] = 0
    """Steps between teacher updates, counted from step 0; 0 is max(1, round(steps * 500 / 25030)). Code:
    500 of 25,030; scaling ours."""


def ema_teacher(hyper: Any, student: nn.Module, total_steps: int) -> EMATeacher:
    """The teacher that an `EMAHyper` describes."""
    return EMATeacher(
        student,
        total_steps,
        every=hyper.update_every or max(1, round(total_steps * 500 / 25030)),
        start=hyper.momentum_start,
        end=hyper.momentum_end,
        warmup_fraction=hyper.momentum_warmup,
    )


@hyperparameters
class SoftTargetHyper(DistillingHyper):
    """The strength of soft targets."""

    lambda_sd: Annotated[float, Field(ge=0)] = 1.5
    """Weight of the distillation term; no unit, >= 0. Code: MLAI-Yonsei/CaRot:example_scripts/carot.sh."""


class SoftTargets(DistillingMethod):
    """InfoNCE plus `lambda_sd` times the soft cross-entropy to any teacher."""

    Hyper = SoftTargetHyper
    strength = "lambda_sd"
    distils_by = (("lambda_sd",),)
    sigmoid = (
        "the sigmoid loss for the pairs; the soft targets stay the softmax over the batch with each model's own scale, "
        "out of which the bias drops"
    )

    def loss(self, student: Pairs, teacher: Pairs | None, batch: "Batch") -> LossTerms:
        """Nats; both directions of the distillation added, as released."""
        terms = {"contrastive": contrastive(student)}
        if teacher is not None:
            terms["distillation"] = self.hyper.lambda_sd * soft_cross_entropy(student, teacher)
        return terms


@hyperparameters
class Hyper(EMAHyper, SoftTargetHyper):
    """Released values of CaRot's ViT-B/16 script unless a field says otherwise."""


@register("ema")
class EMA(SoftTargets):
    """InfoNCE plus `lambda_sd` times the soft cross-entropy to an EMA teacher."""

    Hyper = Hyper

    def teacher(self, student: TwoTower, settings: Settings) -> EMATeacher:
        """EMA with a rising momentum."""
        return ema_teacher(self.hyper, student, settings.total_steps)
