"""TRACER: InfoNCE plus four distillation terms towards a kernel-weighted mean of the student's own
trajectory.

Source: arXiv:2605.29380; HesamAsad/TRACER:src/models/tracer_loss.py. Defaults are those of the released
ViT-B/16 scripts (tracer_beta.sh); each field says where the paper's equations differ and what the other
form means.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from . import distillation
from .base import LossTerms, Settings, hyperparameters
from .distillation import Embeddings
from .objectives import info_nce
from .registry import register
from .teachers import StaticTeacher, WMATeacher, beta_kernel
from .two_tower import DistillingHyper, DistillingMethod, TwoTower

if TYPE_CHECKING:
    from ..datasets.loaders import Batch

Weight = Annotated[float, Field(ge=0)]


@hyperparameters
class Hyper(DistillingHyper):
    """Weights have no unit and are >= 0; `lambda_sd` multiplies the weighted sum of the four terms."""

    lambda_sd: Weight = 0.9
    """Weight of the distillation. Paper: section 5.2.1; code: tracer_beta.sh."""
    fd_weight: Weight = 3.906
    """Of feature distillation per sample, summed over dimensions (Eq. 20). Code: 2000 x mean over 512
    dimensions; paper: 1."""
    crd_weight: Weight = 1.0
    """Of contrastive relational distillation (Eq. 23). Paper and code: 1."""
    crd_half: bool = True
    """Averages CRD's two directions, as the code does; Eq. 23 adds them, which doubles the term."""
    icl_weight: Weight = 1.0
    """Of interactive contrastive learning (Eq. 24). Paper and code: 1."""
    cross_kd_weight: Weight = 1.0
    """Of cross-knowledge distillation (Eq. 27). Paper and code: 1."""
    beta: Annotated[float, Field(gt=0)] = 0.5
    """Both shape parameters of the Beta kernel, > 0; below 1 it is U-shaped. Paper: section 5.2.1."""
    update_every: Annotated[int, Field(ge=1)] = 1
    """Steps between teacher updates, >= 1. Paper and code: 1."""
    clock: Literal["definition", "released"] = "definition"
    """Kernel time if `update_every` > 1. "definition" (3.3): the true step. "released": number of updates
    over the same horizon, so that only the kernel's beginning is used."""
    keep_initial: bool = True
    """Counts the pretrained weights (alpha_0), as Definition 3.3 and the code do; Algorithm 1 forgets them
    at its first update."""
    cross_frobenius_weight: Weight = 0.05
    """Weight of the cross-Frobenius term, part of the paper's L_MMCL. Paper: E.2; code: tracer_beta.sh."""


@register("tracer")
class TRACER(DistillingMethod):
    """InfoNCE, FD, CRD, ICL and CrossKD against a WMA teacher."""

    Hyper = Hyper
    strength = "lambda_sd"

    def teacher(self, student: TwoTower, settings: Settings) -> StaticTeacher:
        """Beta-weighted mean of the trajectory."""
        hyper = self.hyper
        options = {"every": hyper.update_every, "clock": hyper.clock, "keep_initial": hyper.keep_initial}
        return WMATeacher(student, settings.total_steps, beta_kernel(hyper.beta), **options)

    def loss(self, student: Embeddings, teacher: Embeddings | None, batch: "Batch") -> LossTerms:
        """Nats, but for FD (squared distance); a term of weight 0 is left out."""
        hyper, terms = self.hyper, {"contrastive": info_nce(*student)}
        if teacher is None:
            return terms
        crd_options = {"half": hyper.crd_half}
        parts = {
            "fd": (hyper.fd_weight, distillation.feature_distillation, {}),
            "crd": (hyper.crd_weight, distillation.contrastive_relational_distillation, crd_options),
            "icl": (hyper.icl_weight, distillation.interactive_contrastive, {}),
            "cross_kd": (hyper.cross_kd_weight, distillation.cross_knowledge_distillation, {}),
        }
        for name, (weight, term, options) in parts.items():
            if weight * hyper.lambda_sd:
                terms[name] = hyper.lambda_sd * weight * term(student, teacher, **options)
        return terms
