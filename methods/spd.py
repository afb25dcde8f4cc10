"""SPD: FT whose layers are taken back towards the pretrained weights where descent points back there.

Source: Tian, Huang and Kira, Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models, NeurIPS 2024,
arXiv:2411.01713, Algorithm 1 (AdamSPD); GT-RIPL/Selective-Projection-Decay. With g the gradient, theta the weights of
a tensor before the step and theta~ after the optimizer's: where -g.(theta - theta_0) < 0, theta~ loses lambda r of its
difference to theta_0, r = (|theta~ - theta_0| - |theta - theta_0|) / |theta~ - theta_0|, within [0, 1]. At lambda = 1
such a tensor is no further from the start than before. A layer is one tensor, as in the code's parameter lists.
It takes the place of weight decay: the recipe's is not applied unless `keep_weight_decay`.
Departure: the head, which starts as zero-shot's, is held as the tower is.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from .base import Settings, Start, hyperparameters
from .ft import FT, ImageStudent
from .optimizers import adamw
from .registry import register


@hyperparameters
class Hyper:
    """One field."""

    strength: Annotated[float, Field(ge=0)] = 1.0
    """lambda, the share of the last step's growth that is taken back; no unit, >= 0. Paper: 1 is the projection onto
    the last radius, where its search starts; more goes inside."""
    keep_weight_decay: bool = False
    """Also the recipe's weight decay towards 0, as in AdamW. Code: none; the recipe's is not applied."""


@register("spd")
class SPD(FT):
    """Label cross-entropy under AdamW with selective projection decay."""

    Hyper = Hyper
    anchored = True
    strength = "strength"

    def optimizer(self, student: ImageStudent, settings: Settings) -> Optimizer:
        """AdamW without decay, unless it is kept."""
        decay = settings.weight_decay if self.hyper.keep_weight_decay else 0.0
        return adamw(student.parameters(), settings.lr, decay)

    def before_step(self, student: ImageStudent, start: Start, step: int) -> None:
        """Which tensors the gradient would take back, and how far they are."""
        ways = [parameter - origin for parameter, origin in zip(start.parameters, start.values, strict=True)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in start.parameters]
        # -g.(theta - theta_0) < 0
        self._back = [(way * gradient).sum() > 0 for way, gradient in zip(ways, gradients, strict=True)]
        self._distance = [way.norm() for way in ways]

    def after_step(self, student: ImageStudent, start: Start, step: int) -> None:
        """Takes those back."""
        tensors = zip(start.parameters, start.values, self._back, self._distance, strict=True)
        for parameter, origin, back, before in tensors:
            way = parameter - origin
            parameter.sub_(self.hyper.strength * growth(way.norm(), before, back) * way)


def growth(now: Tensor, before: Tensor, counts: Tensor) -> Tensor:
    """() share of a distance that was not there before, in [0, 1]; 0 where it does not count."""
    share = ((now - before) / (now + 1e-12)).clamp(0, 1)
    return torch.where(counts, share, torch.zeros_like(share))
