"""CaRot: EMA self-distillation with an orthogonality term on the image projection.

Source: Oh et al., CaRot, NeurIPS 2024; MLAI-Yonsei/CaRot:src/models/carot_loss.py, example_scripts/carot.sh. Defaults
are that script's, for ViT-B/16; for other backbones none are published. Its branch for ResNets raises an error;
`orthogonality_side` says what is taken here.
Departure: the 500 steps between teacher updates scale with the length of the run, as in `ema`.
"""

from typing import Annotated

from pydantic import Field

from . import ema
from .base import hyperparameters
from .registry import register


@hyperparameters
class Hyper(ema.Hyper):
    """EMA's, with both penalties on."""

    cross_frobenius_weight: Annotated[float, Field(ge=0)] = 0.05
    """Weight of ||W_v W_t^T||_F; no unit, >= 0. Code: 0.05."""
    orthogonality_weight: Annotated[float, Field(ge=0)] = 0.2
    """Weight of ||W_v^T W_v - I||_F of the image projection; no unit, >= 0. Code: 0.2."""


@register("carot")
class CaRot(ema.EMA):
    """InfoNCE, soft cross-entropy to an EMA teacher, cross-Frobenius and orthogonality."""

    Hyper = Hyper
