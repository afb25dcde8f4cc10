"""L2-SP, contrastive form: InfoNCE plus half the squared distance of the trained weights to the pretrained
ones.

Source: Li et al. 2018, arXiv:1802.01483 (for classifiers); convention lambda/2 and linear theory:
arXiv:2605.29380, Theorem 3.2.
Departures: FLYP's loss instead of cross-entropy, as the forgetting study needs (ours). The distance covers
every trained tensor, logit_scale included. The trainer's weight decay towards 0 stays on beside it; set it
to 0 to see L2-SP alone.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from .base import LossTerms, Start, hyperparameters
from .distillation import Pairs, contrastive
from .objectives import l2_to_start
from .registry import register
from .two_tower import TwoTower, TwoTowerHyper, TwoTowerMethod

if TYPE_CHECKING:
    from ..datasets.loaders import Batch


@hyperparameters
class Hyper(TwoTowerHyper):
    """One field of its own."""

    strength: Annotated[float, Field(ge=0)] = 0.02
    """lambda in lambda/2 ||theta - theta_0||^2; no unit, >= 0. Code: 0.01 without the 1/2 in LP-FT's
    baseline_train.py, so 0.02 here; for CLIP no value is published."""


@register("l2_sp")
class L2SP(TwoTowerMethod):
    """InfoNCE and a pull of the weights to where they began."""

    Hyper = Hyper
    anchored = True
    strength = "strength"
    sigmoid = "the sigmoid loss for the pairs; scale and bias are trained, and pulled back as every weight is"

    def loss(self, student: Pairs, teacher: Pairs | None, batch: "Batch") -> LossTerms:
        """Mean over pairs and directions, in nats."""
        return {"contrastive": contrastive(student)}

    def penalty(self, student: TwoTower, start: Start) -> LossTerms:
        """The distance, beside the projection penalties."""
        distance = {"l2_to_start": self.hyper.strength * l2_to_start(*start)}
        return super().penalty(student, start) | distance
