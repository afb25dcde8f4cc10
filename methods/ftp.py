"""FTP: FT whose tensors stay in balls around the pretrained weights, with radii that are learned on the way.

Source: Tian, Liu, Smith and Kira, Fast Trainable Projection for Robust Fine-Tuning, NeurIPS 2023, arXiv:2310.19182;
GT-RIPL/FTP:util/FTP.py (AdamP). After the optimizer's step a tensor is theta_0 + min(1, gamma / |c|) c, c its
difference to theta_0 and |.| the sum of absolute values of each row (of a vector: of all its entries). The radius
gamma begins at 1e-8 and is moved by Adam along the derivative of the loss with respect to it, which is the sum over
rows of g.c'/|c'| of the step before; where that shrinks it, times kappa. Its range ends at the largest |c|. The first
two steps leave the tower where it is, as in the code. The head is left out of it.
As in the code, no weight decay is applied, unless `keep_weight_decay`.
Departure: with clip_norm, gamma's derivative is of the gradient before clipping.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from .base import Context, Settings, Start, hyperparameters
from .ft import FT, ImageStudent
from .optimizers import adamw
from .registry import register

SMALL = 1e-8
"""The first radius, and what is added to norms; the code's."""


@hyperparameters
class Hyper:
    """How radii move."""

    kappa: Annotated[float, Field(ge=0)] = 1.0
    """Factor on derivatives that shrink a radius; no unit, >= 0, 0: radii only grow. Code: 1 (k, "gradient annealing
    factor")."""
    radius_lr: Annotated[float, Field(gt=0)] = 1e-2
    """Adam's rate for radii, in units of summed absolute weights; > 0. Code: 1e-2 (mu)."""
    keep_weight_decay: bool = False
    """Also the recipe's weight decay towards 0, as in AdamW. Code: none; the recipe's is not applied."""


@register("ftp")
class FTP(FT):
    """Label cross-entropy under AdamW with trainable projection."""

    Hyper = Hyper
    anchored = True
    strength = "kappa"

    def student(self, context: Context) -> ImageStudent:
        """FT's."""
        self._state: dict[str, Tensor] = {}
        return super().student(context)

    def optimizer(self, student: ImageStudent, settings: Settings) -> Optimizer:
        """AdamW without decay, unless it is kept."""
        decay = settings.weight_decay if self.hyper.keep_weight_decay else 0.0
        return adamw(student.parameters(), settings.lr, decay)

    def before_step(self, student: ImageStudent, start: Start, step: int) -> None:
        """Moves the radii along the derivatives that the gradients give."""
        state = self._state
        for i, parameter in enumerate(start.parameters):
            if f"{i}.radius" not in state or parameter.grad is None:
                continue
            derivative = (parameter.grad * state[f"{i}.way"] / state[f"{i}.norms"]).sum()
            derivative = torch.where(derivative > 0, self.hyper.kappa * derivative, derivative)
            first = state[f"{i}.first"] = torch.lerp(derivative, state[f"{i}.first"], 0.9)
            second = state[f"{i}.second"] = torch.lerp(derivative.square(), state[f"{i}.second"], 0.999)
            first, second = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            state[f"{i}.radius"] = state[f"{i}.radius"] - self.hyper.radius_lr * first / (second.sqrt() + SMALL)

    def after_step(self, student: ImageStudent, start: Start, step: int) -> None:
        """Puts every tensor of the tower into its ball."""
        head = {id(student.classifier.weight), id(student.classifier.bias)}
        state = self._state
        for i, (parameter, origin) in enumerate(zip(start.parameters, start.values, strict=True)):
            if id(parameter) in head:
                continue
            way = parameter - origin
            norms = row_norms(way)
            if f"{i}.radius" in state:
                radius = torch.minimum(state[f"{i}.radius"].clamp(min=SMALL), norms.max())
                state[f"{i}.way"], state[f"{i}.norms"] = way, norms
            else:  # the first step has nothing to learn from, and the second no way that was projected
                radius = norms.new_tensor(SMALL)
                state[f"{i}.way"], state[f"{i}.norms"] = torch.zeros_like(way), torch.ones_like(norms)
                state[f"{i}.first"], state[f"{i}.second"] = torch.zeros_like(radius), torch.zeros_like(radius)
            state[f"{i}.radius"] = radius
            parameter.copy_(origin + (radius / norms).clamp(max=1) * way)

    def state(self) -> Mapping[str, Tensor]:
        """Radii, their moments, and the last ways before projection."""
        return self._state

    def load_state(self, state: Mapping[str, Tensor | float]) -> None:
        """Takes them back."""
        self._state = {name: torch.as_tensor(value) for name, value in state.items()}


def row_norms(way: Tensor) -> Tensor:
    """Sum of absolute values of each row, (out, 1, ...), plus 1e-8; of a vector or number: of all, one entry."""
    others = tuple(range(1, way.ndim))
    return (way.abs().sum(dim=others, keepdim=True) if others else way.abs().sum().reshape([1] * way.ndim)) + SMALL
