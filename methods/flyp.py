"""FLYP: finetuning with the loss of pretraining, on class captions.

Source: Goyal et al. 2023, arXiv:2212.00638; locuslab/FLYP:src/models/flyp_loss.py. Two captions of one
class in a batch are negatives of each other, as released. logit_scale is trained and not clamped.
"""

from typing import TYPE_CHECKING

from .base import LossTerms
from .distillation import Pairs, contrastive
from .registry import register
from .two_tower import TwoTowerMethod

if TYPE_CHECKING:
    from ..datasets.loaders import Batch


@register("flyp")
class FLYP(TwoTowerMethod):
    """Symmetric InfoNCE over image-caption pairs, both towers trained."""

    sigmoid = "the sigmoid loss over all pairs of the batch; scale and bias are trained"

    def loss(self, student: Pairs, teacher: Pairs | None, batch: "Batch") -> LossTerms:
        """Mean over pairs and directions, in nats."""
        return {"contrastive": contrastive(student)}
